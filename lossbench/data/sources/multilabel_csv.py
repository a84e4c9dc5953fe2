"""The user's own images with any number of labels each, from a CSV file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from lossbench.data.samples import POOL, Array, Fetched, Samples
from lossbench.data.sources.base import Source, register
from lossbench.data.sources.folders import PROVENANCE
from lossbench.data.sources.listing import SIDES, ClassNames, below, csv_entries, existing_folder
from lossbench.data.sources.reading import (
    ImageOptions,
    agree,
    headers_of,
    original,
    read_images,
)
from lossbench.data.sources.weighing import weight as read_weight
from lossbench.errors import UserError, nearest
from lossbench.params import Dataset

FILE, LABELS, SPLIT, WEIGHT = "file", "labels", "split", "weight"


class CsvOptions(ImageOptions):
    """How the table is read: its name within ``path``, and the labels where it does not name them itself.

    ``weight`` names the column of how much each sample counts in training; null: a column of this name is a
    label's, as it is where ``labels`` lists it.
    """

    table: str = Field("labels.csv", pattern=r"^[^/\\]+$")
    labels: ClassNames | None = Field(None, min_length=1)
    weight: str | None = WEIGHT


@dataclass(frozen=True)
class Row:
    """One row of the table: its number in the file, the image, its split, its labels, and any weight."""

    number: int
    file: Path
    name: str
    split: str
    labels: frozenset[str]
    weight: float | None = None


@register
class MultilabelCsv(Source[CsvOptions]):
    """``path/labels.csv`` with a column ``file`` (relative to ``path``) and one 0/1 column per label.

    In place of these, a column ``labels`` may list names separated by ``|``. A column ``split`` (train, val,
    test) divides as the publisher does; without it samples are divided by content. A column ``weight`` says
    how much each sample counts in training.
    """

    name = "multilabel_csv"
    options = CsvOptions

    def check(self, dataset: Dataset, key: str) -> CsvOptions:
        """Check the options, and that the table is there."""
        options = super().check(dataset, key)
        _table(dataset, options, key)
        return options

    def load(self, dataset: Dataset, options: CsvOptions, key: str) -> Fetched:
        """Read the table, then the images it names."""
        file = _table(dataset, options, key)
        named = "weight" in options.model_fields_set
        names, rows = read_table(file, options.labels, options.weight, named)
        files = [row.file for row in rows]
        headers = headers_of(files, file.name, options)
        reading = agree(files, headers, options, key)
        images = read_images(files, reading, file.name)
        labels = np.array([[name in row.labels for name in names] for row in rows], dtype=np.uint8)
        everything = Samples(
            images, labels, [row.name for row in rows], original(headers), weights=_weights(rows)
        )
        groups = _groups(everything, rows, file)
        return Fetched("multilabel", names, groups, PROVENANCE, extra=reading.extra)


def _table(dataset: Dataset, options: CsvOptions, key: str) -> Path:
    folder = existing_folder(dataset.path, key)
    if not (folder / options.table).is_file():
        raise UserError(
            f"{folder / options.table}: no such file; '{key}.table' names the CSV in '{key}.path'"
        )
    return folder / options.table


def _weighing(
    file: Path, columns: Sequence[str], name: str | None, wanted: Sequence[str] | None, named: bool
) -> str | None:
    """Name the column of weights, if there is one.

    Raises:
        UserError: if the one that is named is not there, or is read for something else.

    """
    taken = (FILE, SPLIT, LABELS, *(wanted or ()))
    if named and name in taken:
        raise UserError(f"{file}, row 1: 'weight: {name}', but that column is read for something else")
    if named and name is not None and name not in columns:
        raise UserError(f"{file}, row 1: no column '{name}'; {nearest(name, columns)}")
    return name if name in columns and name not in taken else None


def _weights(rows: Sequence[Row]) -> Array | None:
    """Weights of all rows, (N,) float32; None where the table has none."""
    found = [row.weight for row in rows if row.weight is not None]
    return np.array(found, np.float32) if found else None


def _groups(samples: Samples, rows: Sequence[Row], file: Path) -> Mapping[str, Samples]:
    splits = [row.split for row in rows]
    if POOL in splits:
        return {POOL: samples}
    if "train" not in splits:
        raise UserError(f"{file}: no row of the train split; found {', '.join(sorted(set(splits)))}")
    index: dict[str, Array] = {
        name: np.flatnonzero([split == name for split in splits]) for name in dict.fromkeys(splits)
    }
    return {name: samples.take(where) for name, where in index.items()}


def read_table(
    file: Path, wanted: Sequence[str] | None, weight: str | None = WEIGHT, named: bool = False
) -> tuple[tuple[str, ...], list[Row]]:
    """Read the table.

    Args:
        file: the CSV; image files are relative to its folder.
        wanted: the labels, in order; those of the table where None.
        weight: the column of weights, which is no label's; None where there is none.
        named: whether that column has to be there.

    Returns:
        the labels, and the rows.

    Raises:
        UserError: naming file and row.

    """
    columns, entries = csv_entries(file)
    if FILE not in columns:
        found = ", ".join(f"'{name}'" for name in columns[:8]) or "nothing"
        raise UserError(f"{file}, row 1: no column '{FILE}'; found {found}")
    weighing = _weighing(file, columns, weight, wanted, named)
    own = [name for name in columns if name not in (FILE, SPLIT, LABELS, weighing)]
    if LABELS in columns and own:
        raise UserError(
            f"{file}, row 1: both a column '{LABELS}' and columns per label ('{own[0]}'); keep one"
        )
    rows = [_row(file, number, entry, own, weighing) for number, entry in entries]
    _refuse_twins(file, rows)
    listed = own or sorted({label for row in rows for label in row.labels})
    return _agreed(file, rows, tuple(wanted) if wanted else tuple(listed)), rows


def _agreed(file: Path, rows: Sequence[Row], names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise UserError(f"{file}: no labels; expected a 0/1 column per label, or a column '{LABELS}'")
    for row in rows:
        unknown = sorted(row.labels - set(names))
        if unknown:
            raise UserError(
                f"{file}, row {row.number}: unknown label '{unknown[0]}'; {nearest(unknown[0], names)}"
            )
    return names


def _row(file: Path, number: int, entry: Mapping[str, str], own: Sequence[str], weighing: str | None) -> Row:
    where = f"{file}, row {number}"
    cells = {name: value.strip() for name, value in entry.items()}
    split = cells.get(SPLIT, POOL)
    if split != POOL and split.lower() not in SIDES:
        raise UserError(f"{where}: split is '{split}'; allowed: {', '.join(SIDES)}")
    image = below(file.parent, cells[FILE], where)
    if not image.is_file():
        raise UserError(f"{where}: file is '{cells[FILE]}', a folder; expected an image")
    labels = _listed(cells[LABELS]) if LABELS in cells else _marked(where, cells, own)
    side = SIDES.get(split.lower(), POOL)
    weighed = None if weighing is None else read_weight(cells[weighing], where, weighing, side)
    return Row(number, image, cells[FILE], side, labels, weighed)


def _listed(cell: str) -> frozenset[str]:
    return frozenset(one.strip() for one in cell.split("|") if one.strip())


def _marked(where: str, cells: Mapping[str, str], own: Sequence[str]) -> frozenset[str]:
    for name in own:
        if cells[name] not in ("0", "1"):
            raise UserError(f"{where}: '{name}' is '{cells[name]}'; allowed: 0 and 1")
    return frozenset(name for name in own if cells[name] == "1")


def _refuse_twins(file: Path, rows: Sequence[Row]) -> None:
    seen: dict[Path, int] = {}
    for row in rows:
        first = seen.setdefault(row.file.resolve(), row.number)
        if first != row.number:
            raise UserError(f"{file}, row {row.number}: '{row.name}' stands in row {first} already")
