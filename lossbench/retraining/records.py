"""A row per attempt in ``reports/retraining.csv``, and a page of them."""

import csv
import hashlib
import io
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lossbench.params import Params
from lossbench.system import write_atomically

CSV, PAGE = "reports/retraining.csv", "reports/retraining.html"


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        time: of its end, UTC.
        outcome: promoted, kept, or failed.
        reason: one sentence.
        arm: of the challenger.
        seed: of the challenger.
        version: of the challenger in the registry, where it got one.
        champion: version in service after the attempt.
        metric: the primary one.
        challenger_score: on the test split.
        champion_score: on the test split.
        gain: challenger over champion.
        low: lower bound of the gain.
        high: upper bound.
        samples: of the dataset, all splits.
        data: hash of the data.
        commit: of the code.
        fingerprint: of all that the outcome follows from; empty where the attempt did not finish.
        level: that the gain's interval was given: what earlier attempts on these examples left of it.
        id: of the attempt; a row that was interrupted is completed by it.

    """

    time: str
    outcome: str
    reason: str
    arm: str = ""
    seed: str = ""
    version: str = ""
    champion: str = ""
    metric: str = ""
    challenger_score: str = ""
    champion_score: str = ""
    gain: str = ""
    low: str = ""
    high: str = ""
    samples: str = ""
    data: str = ""
    commit: str = ""
    fingerprint: str = ""
    level: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, row: Mapping[str, object]) -> "Attempt":
        """Take a row as it was read; what it does not say is empty."""
        return cls(**{name: str(row.get(name) or "") for name in COLUMNS})


COLUMNS = [one.name for one in fields(Attempt)]


def read(root: Path) -> list[Attempt]:
    """Read all attempts; none where there is no file yet.

    Raises:
        OSError: it cannot be opened.
        UnreadableError: it is no table of ours.

    """
    file = root / CSV
    if not file.exists():
        return []
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:  # spreadsheets write a mark first
            rows = csv.DictReader(stream, strict=True)
            found = [Attempt.of(row) for row in rows]
            named = rows.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(f"{file}: {error}") from None
    if not {"time", "outcome", "reason"} <= set(named):
        raise UnreadableError(f"{file}: its first line does not name the columns time, outcome and reason")
    return found


class UnreadableError(Exception):
    """The record is no table of ours."""


def set_aside_if_unreadable(root: Path) -> str | None:
    """Move a record that cannot be read out of the way, and say so: a new one is begun."""
    try:
        read(root)
    except UnreadableError as error:
        file = root / CSV
        number = 1
        while (aside := file.with_name(f"{file.name}.broken-{number}")).exists():
            number += 1
        file.replace(aside)
        return f"{error}; moved to {aside.name}, a new record is begun"
    return None


def fingerprint(root: Path, params: Params) -> str:
    """Hash what a retraining's outcome follows from: all of ``dvc.lock``, and the gate's keys."""
    lock = root / "dvc.lock"
    digest = hashlib.sha256(lock.read_bytes() if lock.exists() else b"")
    digest.update(params.retraining.model_dump_json().encode())
    return digest.hexdigest()[:32]


def last_fingerprint(root: Path) -> str | None:
    """Fingerprint of the last attempt that finished."""
    finished = [one.fingerprint for one in read(root) if one.fingerprint]
    return finished[-1] if finished else None


def knows(root: Path, attempt: Attempt) -> bool:
    """Say whether the record has this attempt, with this outcome."""
    return any((one.id, one.outcome) == (attempt.id, attempt.outcome) for one in read(root))


def add(root: Path, attempt: Attempt) -> None:
    """Add a row, or complete the attempt's own, and write the page anew: whole or not at all."""
    before = read(root)
    place = next((number for number, one in enumerate(before) if one.id == attempt.id), len(before))
    attempts = [*before[:place], attempt, *before[place + 1 :]]
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(one) for one in attempts)
    write_atomically(root / CSV, text.getvalue(), durable=True)
    write_atomically(root / PAGE, page(attempts), durable=True)


def page(attempts: list[Attempt]) -> str:
    """Render the history, the latest first."""
    environment = Environment(
        loader=PackageLoader("lossbench.retraining"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scored = [one for one in attempts if math.isfinite(_number(one.challenger_score))]
    return environment.get_template("retraining.html.j2").render(
        attempts=attempts[::-1], scores=_points(scored), scored=scored
    ) + "\n"  # fmt: skip


def _number(text: str) -> float:
    """Read a score; NaN where somebody wrote something else into the table."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _points(scored: list[Attempt]) -> list[dict[str, float | str]]:
    """Place each attempt's challenger in a strip of 0..100 by 0..100."""
    values = [_number(one.challenger_score) for one in scored]
    if not values:
        return []
    low, span = min(values), max(max(values) - min(values), 1e-9)
    step = 100 / max(1, len(values) - 1)
    return [
        {"x": round(index * step, 2), "y": round(100 * (1 - (value - low) / span), 2), "outcome": one.outcome}
        for index, (value, one) in enumerate(zip(values, scored, strict=True))
    ]
