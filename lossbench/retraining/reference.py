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
from lossbench.system import write_atomically

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("sha256", "label", "source")
COUNT = "rows="
"""Begins the last word of the header, which says how many rows follow: a list may be cut at a line's end."""
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


def expect_frozen(
    root: Path, dataset: str, table: "pd.DataFrame", anew: bool = False, promoted: bool = False
) -> int:
    """Hold the reference split against the list of what it holds, and add what is new to the list.

    Args:
        root: the study's folder.
        dataset: its name.
        table: the dataset's manifest.
        anew: somebody says that the split is right as it is now: it is frozen as it is.
        promoted: a challenger was once promoted on this dataset, so that a split that it has is frozen.

    Returns:
        how many samples were added.

    Raises:
        GateError: a known sample has another label, went to another split, or is gone; some are named.
        UserError: the list is damaged, or lost.

    """
    file = frozen_file(root, dataset)
    known = [] if anew else _read(file)
    frozen = {one.sha256 for one in known}
    now = _samples(table[table["split"] == "reference"])
    if now and promoted and not known and not anew:
        raise UserError(
            f"{file}: gone; restore it from git or a backup, or `lossbench retrain --new-reference` if the "
            "reference split is right as it is now"
        )
    _expect_labels(known, now, dataset)
    here = {one.sha256 for one in now}
    elsewhere = {one.sha256 for one in _samples(table[table["split"] != "reference"])}
    moved = [one for one in known if one.sha256 not in here and one.sha256 in elsewhere]
    _refuse(moved, "went to another split", dataset)
    gone = [one for one in known if one.sha256 not in here and one.sha256 not in elsewhere]
    _refuse(gone, "are gone (or their content was changed)", dataset)
    added = list({(one.sha256, one.label): one for one in now if one.sha256 not in frozen}.values())
    if added:
        _write(file, [*known, *added])
    elif anew:
        file.unlink(missing_ok=True)  # an empty list is a damaged one
    return len(added)


def _expect_labels(known: list[Known], now: list[Known], dataset: str) -> None:
    """Refuse a label that a known sample did not have; the same image may be there twice, and with two."""
    labels: dict[str, list[str]] = {}
    for one in known:
        labels.setdefault(one.sha256, []).append(one.label)
    changed = [
        Known(one.sha256, f"{' or '.join(labels[one.sha256])} → {one.label}", one.source)
        for one in now
        if one.label not in labels.get(one.sha256, [one.label])
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


def _read(file: Path) -> list[Known]:
    """Read the list; a part of it that is lost would be frozen anew, as it is then."""
    if not file.exists():
        return []
    try:
        text = file.read_bytes().decode("utf-8-sig")  # spreadsheets write a mark first
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        found = [Known(*(row[name] for name in COLUMNS)) for row in rows]
        whole = all(one.sha256 and one.label is not None and one.source is not None for one in found)
        counts = [one.removeprefix(COUNT) for one in rows[0] if one and one.startswith(COUNT)] if rows else []
        if not whole or counts != [str(len(found))] or not text.endswith("\n"):
            raise ValueError
    except (ValueError, csv.Error, KeyError):
        raise UserError(
            f"{file}: not what a retraining wrote; restore it from git or a backup: it says what the frozen "
            "reference split holds"
        ) from None
    return found


def _write(file: Path, samples: list[Known]) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow((*COLUMNS, f"{COUNT}{len(samples)}"))
    rows.writerows((one.sha256, one.label, one.source) for one in samples)
    write_atomically(file, text.getvalue(), durable=True)
