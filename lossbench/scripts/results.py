"""What a script wrote: ``metrics.json``, and ``history.csv`` where there is one; checked once, here."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossbench.errors import brief, nearest
from lossbench.scripts.spec import ScriptTask
from lossbench.statistics.metrics import known

METRICS = "metrics.json"
HISTORY = "history.csv"
COLUMNS = ["epoch", "split", "metric", "value"]
PARTS = ("test", "validation", "floors", "per_example", "diverged")
CLOSE = 1e-4
"""By how much, relatively, the mean of ``per_example`` may miss the metric: it may have been float32."""
MOST = 2**28
"""Bytes of a metrics.json that is still read."""


class WrongResultError(Exception):
    """What a script wrote cannot be used; a clause says why."""


@dataclass(frozen=True)
class Result:
    """What one run says of itself.

    Attributes:
        test: metric → value on the test split; what is not declared is there too.
        validation: likewise on the validation split.
        floors: predictor → metric → value on the test split; empty where the script knows none.
        per_example: metric → a value for each test example, whose mean is the metric.
        diverged: the script says that its training failed; its scores are those of what it fell back on.

    """

    test: Mapping[str, float]
    validation: Mapping[str, float]
    floors: Mapping[str, Mapping[str, float]]
    per_example: Mapping[str, Sequence[float]]
    diverged: bool

    def to_bytes(self) -> bytes:
        """Write it down, equal results as equal bytes."""
        return (json.dumps(vars(self), sort_keys=True, indent=1) + "\n").encode()


def read_result(file: Path) -> Result:
    """Read a script's ``metrics.json``.

    Raises:
        WrongResultError: missing, no JSON, of another form, or with something in it that is no number.

    """
    try:
        if file.stat().st_size > MOST:
            raise WrongResultError(f"its {METRICS} has {file.stat().st_size:,} bytes; allowed: {MOST:,}")
        content = file.read_bytes()
    except FileNotFoundError:
        raise WrongResultError(
            f"wrote no {METRICS} into the folder {{out}}: what it prints is not read"
        ) from None
    except OSError as error:
        raise WrongResultError(f"its {METRICS} cannot be read: {error.strerror}") from None
    return parse_result(content)


def parse_result(content: bytes) -> Result:
    """Check the content of a ``metrics.json``; see :func:`read_result`."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WrongResultError(f"its {METRICS} is no JSON: {' '.join(str(error).split())}") from None
    block = _mapping(found, "", f'{{"test": {{…}}, "validation": {{…}}}} with any of {", ".join(PARTS)}')
    for key in block:
        if key not in PARTS:
            raise WrongResultError(f"its {METRICS} has '{brief(key)}'; {nearest(str(key), PARTS)}")
    if not block.get("test"):
        raise WrongResultError(f'its {METRICS} has no "test": {{metric: value}}')
    diverged = block.get("diverged", False)
    if not isinstance(diverged, bool):
        raise WrongResultError(f"'diverged' of its {METRICS} is {brief(diverged)}; allowed: true or false")
    return Result(
        test=_numbers(block["test"], "test"),
        validation=_numbers(block.get("validation", {}), "validation"),
        floors={
            name: _numbers(one, f"floors.{name}")
            for name, one in _mapping(block.get("floors", {}), "floors", "{name: {metric: value}}").items()
        },
        per_example={
            metric: _values(one, f"per_example.{metric}")
            for metric, one in _mapping(
                block.get("per_example", {}), "per_example", "{metric: [values]}"
            ).items()
        },
        diverged=diverged,
    )


def _mapping(value: Any, key: str, allowed: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        where = f"'{key}' of its {METRICS}" if key else f"its {METRICS}"
        raise WrongResultError(f"{where} is {brief(value)}; allowed: {allowed}")
    return value


def _numbers(value: Any, key: str) -> dict[str, float]:
    block = _mapping(value, key, "{metric: value}")
    return {name: _number(one, f"{key}.{name}") for name, one in block.items()}


def _values(value: Any, key: str) -> list[float]:
    if not isinstance(value, list) or not value:
        raise WrongResultError(f"'{key}' of its {METRICS} is {brief(value)}; allowed: a list of numbers")
    return [_finite(_number(one, f"{key}[{place}]"), f"{key}[{place}]") for place, one in enumerate(value)]


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongResultError(f"'{key}' of its {METRICS} is {brief(value)}; allowed: a number")
    try:
        return float(value)
    except OverflowError:
        raise WrongResultError(f"'{key}' of its {METRICS} is {brief(value)}; allowed: a number") from None


def _finite(value: float, key: str) -> float:
    if not math.isfinite(value):
        raise WrongResultError(
            f"'{key}' of its {METRICS} is {value}; allowed: a finite number (a script whose "
            "training failed writes "
            'the scores of what it falls back on, and "diverged": true)'
        )
    return value


def check_test(result: Result, task: ScriptTask) -> None:
    """Refuse test scores without a declared metric, or with a value that it cannot have.

    Raises:
        WrongResultError: naming the metric.

    """
    for metric in task.metrics:
        if metric not in result.test:
            raise WrongResultError(
                f"its {METRICS} has no 'test.{metric}', which 'metrics' declares; found: "
                f"{', '.join(result.test)}"
            )
        value = _finite(result.test[metric], f"test.{metric}")
        bounds = known(metric)
        if bounds and not bounds.low <= value <= bounds.high:
            raise WrongResultError(
                f"'test.{metric}' of its {METRICS} is {value:g}, but '{metric}' lies in {bounds.low:g} to "
                f"{bounds.high:g}; write a share, or call a percentage otherwise"
            )
    for name, floor in result.floors.items():
        for metric in floor.keys() & task.metrics.keys():
            _finite(floor[metric], f"floors.{name}.{metric}")
    for metric, values in result.per_example.items():
        if metric in task.metrics:
            _check_mean(values, result.test[metric], metric)


def _check_mean(values: Sequence[float], metric: float, name: str) -> None:
    mean = math.fsum(values) / len(values)
    if not math.isclose(mean, metric, rel_tol=CLOSE, abs_tol=CLOSE):
        raise WrongResultError(
            f"'per_example.{name}' of its {METRICS} has a mean of {mean:.6g}, but 'test.{name}' is "
            f"{metric:.6g}; allowed: a value for each test example whose mean is the metric"
        )


def monitored(result: Result, monitor: str) -> float:
    """The validation score that a search goes by; NaN where the script says so.

    Raises:
        WrongResultError: if it was not written.

    """
    if monitor not in result.validation:
        raise WrongResultError(
            f"its {METRICS} has no 'validation.{monitor}', by which the search chooses; found: "
            f"{', '.join(result.validation) or 'none'}"
        )
    return result.validation[monitor]


Row = tuple[int, str, str, float]


def read_history(folder: Path) -> list[Row]:
    """Read ``history.csv``: rows of epoch, split, metric, value; none where the script wrote none.

    Raises:
        WrongResultError: naming the line.

    """
    file = folder / HISTORY
    try:
        lines = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise WrongResultError(f"its {HISTORY} cannot be read: {' '.join(str(error).split())}") from None
    if not lines or lines[0] != COLUMNS:
        raise WrongResultError(
            f"its {HISTORY} begins with {brief(','.join(lines[0]) if lines else '')}; allowed: "
            f"{','.join(COLUMNS)}"
        )
    rows = [_row(row, number) for number, row in enumerate(lines[1:], start=2) if row]
    seen: set[tuple[int, str, str]] = set()
    for epoch, split, metric, _ in rows:
        if (epoch, split, metric) in seen:
            raise WrongResultError(
                f"its {HISTORY} has '{split}' '{metric}' of epoch {epoch} twice; allowed: once"
            )
        seen.add((epoch, split, metric))
    return rows


def _row(row: Sequence[str], line: int) -> Row:
    try:
        epoch, split, metric, value = row
        made = int(epoch), split, metric, float(value)
        if made[0] < 1 or not split or not metric or "/" in split:
            raise ValueError
    except ValueError:
        raise WrongResultError(
            f"line {line} of its {HISTORY} is {brief(','.join(row))}; allowed: an epoch from 1, a split, a "
            "metric and a number"
        ) from None
    return made
