"""The frozen reference split: its samples and labels as they were when it was made.

New samples join it as data grow, and are frozen then. What it once held keeps its label and its place: two
folders that swap names would otherwise teach a model wrong labels, and examine it by them.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.errors import GateError, UserError
from lossbench.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("sha256", "label", "source")
NAMED = 3
"""Samples that a refusal names."""


@dataclass(frozen=True)
class Known:
    """A sample of the reference split: what it is, and where it came from."""

    sha256: str
    label: str
    source: str


def frozen_file(root: Path, dataset: str) -> Path:
    """Find the list of a dataset's frozen samples; git should track it."""
    return root / "reports" / f"retraining-reference-{dataset}.csv"


def expect_frozen(root: Path, dataset: str, table: "pd.DataFrame", anew: bool = False) -> int:
    """Hold the reference split against the list of what it holds, and add what is new to the list.

    Args:
        root: the study's folder.
        dataset: its name.
        table: the dataset's manifest.
        anew: somebody says that the split is right as it is now: it is frozen as it is.

    Returns:
        how many samples were added.

    Raises:
        GateError: a known sample has another label, went to another split, or is gone; some are named.
        UserError: the list is damaged.

    """
    file = frozen_file(root, dataset)
    known = {} if anew else _read(file)
    now = {one.sha256: one for one in _samples(table[table["split"] == "reference"])}
    _expect_labels(known, now, dataset)
    elsewhere = {one.sha256: one for one in _samples(table[table["split"] != "reference"])}
    moved = [one for key, one in known.items() if key not in now and key in elsewhere]
    _refuse(moved, "went to another split", dataset)
    gone = [one for key, one in known.items() if key not in now and key not in elsewhere]
    _refuse(gone, "are gone (or their content was changed)", dataset)
    added = [one for key, one in now.items() if key not in known]
    if added or anew:
        _write(file, [*known.values(), *added])
    return len(added)


def _expect_labels(known: dict[str, Known], now: dict[str, Known], dataset: str) -> None:
    changed = [
        Known(key, f"{one.label} → {now[key].label}", now[key].source)
        for key, one in known.items()
        if key in now and now[key].label != one.label
    ]
    _refuse(changed, "have another label than when it was made", dataset)


def _refuse(samples: list[Known], what: str, dataset: str) -> None:
    if not samples:
        return
    named = "; ".join(f"{one.source} ({one.label})" for one in samples[:NAMED])
    rest = f", and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
    raise GateError(
        f"data/{dataset}: the reference split is frozen, but {len(samples)} of its samples {what}: "
        f"{named}{rest}; put them right, or `lossbench retrain --new-reference` if they are right now"
    )


def _samples(table: "pd.DataFrame") -> list[Known]:
    """List samples; what has no label by name is known by its target's hash."""
    named = table["label"].where(table["label"].notna(), table["target_sha256"])
    return [
        Known(str(key), str(label), str(source))
        for key, label, source in zip(table["sha256"], named, table["source"], strict=True)
    ]


def _read(file: Path) -> dict[str, Known]:
    if not file.exists():
        return {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        return {row["sha256"]: Known(*(row[name] for name in COLUMNS)) for row in rows}
    except (UnicodeDecodeError, csv.Error, KeyError):
        raise UserError(
            f"{file}: not what a retraining wrote; restore it from git or a backup: it says what the frozen "
            "reference split holds"
        ) from None


def _write(file: Path, samples: list[Known]) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows((one.sha256, one.label, one.source) for one in samples)
    write_whole(file, text.getvalue())
