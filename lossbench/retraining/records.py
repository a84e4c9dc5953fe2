"""A row per attempt in ``reports/retraining.csv``, and a page of them."""

import csv
import io
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

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


COLUMNS = [field.name for field in fields(Attempt)]


def read(root: Path) -> list[Attempt]:
    """Read all attempts; none where there is no file yet."""
    file = root / CSV
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return [Attempt(**{name: row.get(name) or "" for name in COLUMNS}) for row in csv.DictReader(stream)]


def last_fingerprint(root: Path) -> str | None:
    """Fingerprint of the last attempt that finished."""
    finished = [one.fingerprint for one in read(root) if one.fingerprint]
    return finished[-1] if finished else None


def add(root: Path, attempt: Attempt) -> None:
    """Add a row and write the page anew; both appear whole or not at all."""
    attempts = [*read(root), attempt]
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    rows.writeheader()
    rows.writerows(asdict(one) for one in attempts)
    _replace(root / CSV, text.getvalue())
    _replace(root / PAGE, page(attempts))


def page(attempts: list[Attempt]) -> str:
    """Render the history, the latest first."""
    environment = Environment(
        loader=PackageLoader("lossbench.retraining"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scored = [one for one in attempts if one.challenger_score]
    return environment.get_template("retraining.html.j2").render(
        attempts=attempts[::-1], scores=_points(scored), scored=scored
    ) + "\n"  # fmt: skip


def _points(scored: list[Attempt]) -> list[dict[str, float | str]]:
    """Place each attempt's challenger in a strip of 0..100 by 0..100."""
    values = [float(one.challenger_score) for one in scored]
    if not values:
        return []
    low, span = min(values), max(max(values) - min(values), 1e-9)
    step = 100 / max(1, len(values) - 1)
    return [
        {"x": round(index * step, 2), "y": round(100 * (1 - (value - low) / span), 2), "outcome": one.outcome}
        for index, (value, one) in enumerate(zip(values, scored, strict=True))
    ]


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    with part.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
