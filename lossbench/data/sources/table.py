"""The user's own images as a table lists them: a row per sample, with a label, a mask or a file of boxes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lossbench.data.samples import POOL, Fetched
from lossbench.data.sources import listing
from lossbench.data.sources.base import Source, register
from lossbench.data.sources.boxes import boxes_of, found_classes
from lossbench.data.sources.folders import PROVENANCE, MaskOptions, segmented
from lossbench.data.sources.reading import Images
from lossbench.data.sources.voc import VocOptions, picture
from lossbench.data.sources.weighing import probabilities, weight
from lossbench.data.splits import divided, side
from lossbench.errors import UserError, brief, nearest
from lossbench.params import Dataset, Splits

TARGETS = ("label", "mask", "boxes")
TAKEN = frozenset((
    "id", "split", "index", "label", "width", "height", "channels", "orientation", "minimum", "maximum",
    "mean", "std", "sha256", "target_sha256", "source", "mask_width", "mask_height", "mask_values", "stray",
    "foreground", "boxes", "stray_boxes", "dropped_boxes", "clipped_boxes", "repeated_boxes",
    "orientation_in_doubt", "white_in_doubt", "clipped_values", "weights_sha256", "soft_sha256",
))  # fmt: skip
"""Columns of the manifest that say something else; a column of the table of such a name becomes ``own_…``."""


class TableOptions(MaskOptions):
    """Which table, and what its columns are called.

    ``table`` is the CSV, Parquet or JSON lines file within ``path``, or one within each of its ``train``,
    ``val`` and ``test``. ``image``, ``label``, ``mask``, ``boxes``, ``split``
    and ``group`` name its columns; one of ``label``, ``mask`` and ``boxes`` (a file of Pascal VOC's XML) is
    the target: the one that is named here, or else the one that is there. Rows of one ``group`` never fall
    into two splits. Further columns go into the manifest, where ``retraining.slices`` finds them.
    ``classes``: names in the order of their numbers.

    For training alone: ``weight`` names the column of each sample's weight, ``weights`` that of its weight
    map (beside a mask: a picture, or an .npy file), and null says that a column of this name weighs nothing.
    ``probabilities`` lists a column per class that hold the distribution to train on; without a column of
    labels the likeliest class is the label.
    """

    table: str = Field("samples.csv", pattern=r"^[^/\\]+\.(?i:csv|parquet|jsonl)$")
    image: listing.Name = "image"
    label: listing.Name | None = None
    mask: listing.Name | None = None
    boxes: listing.Name | None = None
    split: listing.Name = "split"
    group: listing.Name = "group"
    weight: listing.Name | None = "weight"
    weights: listing.Name | None = "weights"
    probabilities: listing.ClassNames | None = Field(None, min_length=2)
    beyond: Literal["clip", "refuse"] = "refuse"
    classes: listing.ClassNames | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_target(self) -> "TableOptions":
        named = [name for name in TARGETS if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"both '{named[0]}' and '{named[1]}' name a target; keep one")
        if self.probabilities is not None and named not in ([], ["label"]):
            raise ValueError(f"probabilities beside {named[0]}; they go with labels")
        if self.probabilities is not None and len(self.classes or self.probabilities) != len(
            self.probabilities
        ):
            raise ValueError(
                f"probabilities has {len(self.probabilities)} entries, classes {len(self.classes or ())}"
            )
        return self


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        where: what to call it in a message.
        image: its file.
        target: the label, or the file of the mask or the boxes.
        split: as given; POOL where the table gives none.
        group: what it belongs to; None where the table knows no groups.
        columns: all that is said of it besides.
        weight: how much it counts in training; None where all count alike.
        map: the file of its weight map; None where the table names none.
        soft: its distribution over the classes; None where the label alone counts.

    """

    where: str
    image: Path
    target: str | Path
    split: str
    group: str | None
    columns: Mapping[str, Any]
    weight: float | None = None
    map: Path | None = None
    soft: tuple[float, ...] | None = None


@register
class Table(Source[TableOptions]):
    """``path/samples.csv`` (or Parquet): a row an image with its label, or the file of its mask or boxes."""

    name = "table"
    options = TableOptions

    def check(self, dataset: Dataset, key: str) -> TableOptions:
        """Check the options, and that the table is there."""
        options = super().check(dataset, key)
        tables_of(listing.existing_folder(dataset.path, key), options, key)
        return options

    def load(self, dataset: Dataset, options: TableOptions, key: str) -> Fetched:
        """Read the table, or those of the splits, then what they name."""
        root = listing.existing_folder(dataset.path, key)
        kind, rows = rows_of(tables_of(root, options, key), options)
        splits = dataset.splits if dataset.folds is None else None
        return fetched_of(kind, rows, options, splits, root / options.table, key)


def fetched_of(
    kind: str, rows: Sequence[Row], options: TableOptions, splits: Splits | None, file: Path, key: str
) -> Fetched:
    """Read what rows name.

    Args:
        kind: which of ``label``, ``mask`` and ``boxes`` the target is.
        rows: of the table.
        options: of the table.
        splits: shares of what has no split; None where folds divide the rows.
        file: the table; what it names lies below its folder.
        key: path of its block in params.yaml, for messages.

    """
    groups = _undivided(rows, key) if splits is None else divide_rows(rows, splits, file)
    for split in () if splits is None else ("train", "validation", "test"):
        if not groups.get(split, rows):
            known = len({row.group for row in rows})
            raise UserError(
                f"{file}: no group of {known} fell into the {split} split; '{key}.splits' gives the shares, "
                f"the column '{options.split}' a split to each row"
            )
    root = file.parent
    if kind == "label":
        return _labelled(groups, options, root, key)
    if kind == "mask":
        images = {split: [row.image for row in some] for split, some in groups.items()}
        masks = {split: [Path(row.target) for row in some] for split, some in groups.items()}
        maps = {split: [row.map for row in some if row.map] for split, some in groups.items()}
        given = maps if any(maps.values()) else None
        return _weighed(segmented(images, masks, options, root, key, _columns(groups), given), groups)
    return _boxed(groups, options, root, key)


def tables_of(root: Path, options: TableOptions, key: str) -> dict[str, Path]:
    """Split → its table; POOL → the one table of the folder, where there is one.

    Raises:
        UserError: naming the tables that are there, if none has the name, or both the folder and a split's.

    """
    own = listing.as_spelled(root, options.table)
    below = [listing.as_spelled(one, options.table) for one in listing.entries(root) if one.is_dir()]
    twin = next((one for one in below if one.is_file() and one.parent.name.lower() in listing.SIDES), None)
    if own.is_file():
        if twin is not None:
            raise UserError(
                f"{own} and {twin} are both there, and one of "
                f"them would not be read; keep one, or rename one ('{key}.table' names the table)"
            )
        return {POOL: own}
    if twin is not None:
        sides = listing.split_folders(root) or {}
        return {
            split: _existing(listing.as_spelled(folder, options.table), key)
            for split, folder in sides.items()
        }
    return {POOL: _existing(own, key)}


def _existing(file: Path, key: str) -> Path:
    if not file.is_file():
        tables = [one.name for one in listing.entries(file.parent) if one.suffix.lower() in SUFFIXES]
        there = f"; there is {', '.join(tables[:5])}" if tables else ""
        raise UserError(f"{file}: no such file{there}; '{key}.table' names the table in '{key}.path'")
    return file


def rows_of(tables: Mapping[str, Path], options: TableOptions) -> tuple[str, list[Row]]:
    """Read all tables of a folder; see :func:`read_rows`. What lies in ``train/`` is of the train split.

    Raises:
        UserError: naming file and row; for a row whose own split is another than its folder's.

    """
    if POOL in tables:
        return read_rows(tables[POOL], options)
    kinds: dict[str, Path] = {}
    rows: list[Row] = []
    for split, file in tables.items():
        kind, some = read_rows(file, options)
        kinds.setdefault(kind, file)
        for row in some:
            if row.split not in (POOL, split):
                raise UserError(
                    f"{row.where}: the split is '{row.split}', but the table is the {split} split's"
                )
            rows.append(replace(row, split=split))
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise UserError(
            f"{second}: its rows have a {other} each, those of {first} a {one}; expected one kind"
        )
    return kind, rows


def read_rows(file: Path, options: TableOptions) -> tuple[str, list[Row]]:
    """Read the table.

    Returns:
        which of ``label``, ``mask`` and ``boxes`` the target is, and the rows.

    Raises:
        UserError: naming file and row.

    """
    return entries_told(file, *entries_of(file), options)


def entries_told(
    file: Path,
    columns: Sequence[str],
    entries: Sequence[tuple[int, Mapping[str, Any]]],
    options: TableOptions,
) -> tuple[str, list[Row]]:
    """Read the rows of a table that is in memory already; see :func:`read_rows`."""
    columns, entries = _as_named(file, columns, entries, options)
    kind, target = _target(file, columns, options)
    for name in (options.image, *([] if target is None else [target]), *(options.probabilities or ())):
        if name not in columns:
            raise UserError(f"{file}, row 1: no column '{name}'; {nearest(name, columns)}")
    named = {"image": options.image, "split": options.split, "group": options.group}
    named |= {} if target is None else {"target": target}
    for part in ("split", "group", "weight", "weights"):
        name = getattr(options, part)
        if name is not None and name != part and name not in columns:
            raise UserError(f"{file}, row 1: no column '{name}'; {nearest(name, columns)}")
    weighing = _weighing(file, columns, options, kind)
    rows = [_row(file, number, entry, named, kind, weighing) for number, entry in entries]
    seen: dict[Path, str] = {}
    for row in rows:
        first = seen.setdefault(row.image.resolve(), row.where)
        if first != row.where:
            raise UserError(f"{row.where}: '{row.image.name}' stands in {first.rpartition(', ')[2]} already")
    return kind, rows


def _as_named(
    file: Path,
    columns: Sequence[str],
    entries: Sequence[tuple[int, Mapping[str, Any]]],
    options: TableOptions,
) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Give columns the names that options have for them: ``Split`` is no mere column beside ``split``.

    Not so what weighs: a ``Weight`` is more often a patient's.
    """
    spelled = {listing.nfc(name).strip(): name for name in columns}
    if len(spelled) < len(columns):
        twice = next(one for one in columns if spelled[listing.nfc(one).strip()] != one)
        raise UserError(f"{file}: column {brief(twice)} stands twice; each name may stand once")
    names = dict(spelled)
    for part in ("image", *TARGETS, "split", "group"):
        wanted = getattr(options, part) or part
        alike = [name for name in spelled if name.casefold() == wanted.casefold()]
        if wanted not in names and len(alike) == 1:
            names = {wanted if name == alike[0] else name: found for name, found in names.items()}
    return list(names), [
        (number, {name: entry[found] for name, found in names.items()}) for number, entry in entries
    ]


@dataclass(frozen=True)
class Weighing:
    """Columns that only training reads.

    Attributes:
        weight: of samples' weights; None without.
        map: of files of weight maps; None without.
        probabilities: a column per class; empty without.
        classes: the classes' names, where there are probabilities.

    """

    weight: str | None
    map: str | None
    probabilities: tuple[str, ...]
    classes: tuple[str, ...]


def _weighing(file: Path, columns: Sequence[str], options: TableOptions, kind: str) -> Weighing:
    """Find the columns that only training reads.

    Raises:
        UserError: for one that a kind of targets does not take: that it weighs nothing is to be said.

    """
    kinds = {"weight": ("label", "mask"), "weights": ("mask",)}
    found: dict[str, str | None] = {}
    for part, taking in kinds.items():
        name = getattr(options, part)
        if name in columns and kind not in taking and name not in (options.probabilities or ()):
            raise UserError(
                f"{file}, row 1: '{part}: {name}' beside targets of kind {kind}; allowed beside: "
                f"{' or '.join(taking)}; '{part}: null' if it weighs nothing"
            )
        if name in (options.probabilities or ()) and part in options.model_fields_set:
            raise UserError(f"{file}, row 1: '{part}' and 'probabilities' both name the column '{name}'")
        chance = name in (options.probabilities or ())  # a class of this name
        found[part] = name if name in columns and kind in taking and not chance else None
    if found["weight"] and found["weights"]:
        raise UserError(
            f"{file}, row 1: both '{found['weight']}' and '{found['weights']}' weigh; say 'weight: null' or "
            "'weights: null'"
        )
    chances = options.probabilities or ()
    _refuse_other_order(file, chances, options.classes or chances)
    return Weighing(found["weight"], found["weights"], chances, options.classes or chances)


def _refuse_other_order(file: Path, columns: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse columns that are called after the classes, but stand in another order.

    Raises:
        UserError: naming the first that would be taken for another class.

    """
    named = {one: [column for column in columns if _called_after(column, one)] for one in classes}
    if any(len(some) != 1 for some in named.values()):
        return  # the columns have names of their own: their order is all that is said
    for one, column in zip(classes, columns, strict=True):
        if named[one] != [column]:
            raise UserError(
                f"{file}: 'probabilities' has '{column}' where 'classes' has '{one}'; expected "
                f"columns in the order of the classes: {', '.join(some[0] for some in named.values())}"
            )


def _called_after(column: str, name: str) -> bool:
    column, name = column.casefold(), name.casefold()
    return column == name or any(
        column.endswith(f"{mark}{name}") or column.startswith(f"{name}{mark}") for mark in "_-. "
    )


def _target(file: Path, columns: Sequence[str], options: TableOptions) -> tuple[str, str | None]:
    """Find the column of targets: (which of TARGETS, its name); no name where probabilities are the label."""
    for kind in TARGETS:
        if (name := getattr(options, kind)) is not None:
            return kind, name
    if options.probabilities is not None:
        return "label", "label" if "label" in columns else None
    there = [kind for kind in TARGETS if kind in columns]
    if len(there) != 1:
        found = (
            "both '" + "' and '".join(there) + "'"
            if there
            else f"none among {', '.join(map(repr, columns[:8]))}"
        )
        raise UserError(
            f"{file}, row 1: expected a column 'label', 'mask' or 'boxes', found {found}; name the one that "
            "counts: 'label: COLUMN', 'mask: COLUMN' or 'boxes: COLUMN'"
        )
    return there[0], there[0]


def entries_of(file: Path) -> tuple[Sequence[str], Sequence[tuple[int, Mapping[str, Any]]]]:
    """Read a table: its columns, and each row's number with its cells.

    Raises:
        UserError: naming the file, if it cannot be read.

    """
    return READERS.get(file.suffix.lower(), listing.csv_entries)(file)


def _parquet(file: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    import pandas as pd

    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as Parquet: {brief(str(error))}") from None
    if table.empty:
        raise UserError(f"{file}: no row; expected one per image")
    columns = [str(name) for name in table.columns]
    whole = zip(*(table[name] for name in table.columns), strict=True)
    return columns, [
        (number, dict(zip(columns, cells, strict=True))) for number, cells in enumerate(whole, 1)
    ]


def _json_lines(file: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Read an object a line, as an ``imagefolder``'s ``metadata.jsonl`` has; what one lacks is empty."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(listing.read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=_keys_once)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, row {number}: no JSON: {brief(str(error))}") from None
        if not isinstance(found, dict):
            raise UserError(f"{file}, row {number}: {brief(found)}; expected an object, {{column: value, …}}")
        rows.append((number, found))
    if not rows:
        raise UserError(f"{file}: no row; expected one per image")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    return columns, [(number, {name: row.get(name) for name in columns}) for number, row in rows]


def _keys_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = {listing.nfc(name): value for name, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


READERS = {".parquet": _parquet, ".jsonl": _json_lines}
"""Ending → what reads such a table; others are CSV."""
SUFFIXES = (".csv", *READERS)


def _row(
    file: Path,
    number: int,
    entry: Mapping[str, Any],
    named: Mapping[str, str],
    kind: str,
    weighing: Weighing,
) -> Row:
    where = f"{file}, row {number}"
    cells = {name: _cell(value) for name, value in entry.items()}
    _refuse_contents(entry, [*named.values(), *filter(None, (weighing.map,))], where)
    for part in ("image", "target", "map"):
        name = weighing.map if part == "map" else named.get(part)
        if name is not None and not cells[name]:
            raise UserError(f"{where}: '{name}' is empty")
    image = _found(file, cells[named["image"]], named["image"], where)
    soft = probabilities(cells, weighing.probabilities, where) if weighing.probabilities else None
    target = _likeliest(soft, weighing) if "target" not in named else cells[named["target"]]
    split = cells.get(named["split"], "")
    if split and split.lower() not in (*listing.SIDES, "reference"):
        raise UserError(
            f"{where}: '{named['split']}' is '{split}'; allowed: {', '.join(listing.SIDES)}, reference"
        )
    group = cells.get(named["group"]) if named["group"] in cells else None
    if group == "":
        raise UserError(f"{where}: '{named['group']}' is empty; every row needs its group")
    rest = {_own(name): value for name, value in cells.items() if name not in named.values()}
    side_of = listing.SIDES.get(split.lower(), split.lower() or POOL)
    weighed = weighing.weight
    return Row(
        where,
        image,
        target if kind == "label" else _found(file, target, named["target"], where),
        side_of,
        group,
        rest if group is None else {**rest, "group": group},
        None if weighed is None else weight(cells[weighed], where, weighed, side_of),
        None if weighing.map is None else _found(file, cells[weighing.map], weighing.map, where),
        soft,
    )


def _refuse_contents(entry: Mapping[str, Any], columns: Sequence[str], where: str) -> None:
    """Refuse pictures, or lists, that lie in the table itself."""
    for name in columns:
        value = entry.get(name)
        if isinstance(value, (dict, list, np.ndarray)) or (isinstance(value, bytes) and b"\0" in value):
            raise UserError(
                f"{where}: '{name}' is a {type(value).__name__} ({brief(value)}); expected text, "
                "for a picture the name of its file"
            )


def _likeliest(soft: Sequence[float] | None, weighing: Weighing) -> str:
    return weighing.classes[int(np.argmax(soft or ()))]


def _cell(value: Any) -> str:
    """Write a cell as text; a whole number that a table of floats made of one is whole again."""
    if isinstance(value, np.ndarray):  # a list in Parquet
        value = value.tolist()
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):  # what is no text is written as Python does
            value = value.decode()
    if not isinstance(value, (str, bytes, list, dict)) and _missing(value):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return listing.nfc(str(value)).strip()


def _missing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, NaT, or what pandas calls NA, which compares with nothing."""
    import pandas as pd

    return value is None or bool(pd.isna(value))


def _own(name: str) -> str:
    return f"own_{name}" if name in TAKEN or name == "group" else name


def _found(file: Path, name: str, column: str, where: str) -> Path:
    found = listing.below(file.parent, name, f"{where}: '{column}'")
    if not found.is_file():
        raise UserError(f"{where}: '{column}' is '{name}', a folder; expected a file")
    return found


def divide_rows(rows: Sequence[Row], splits: Splits, file: Path) -> dict[str, list[Row]]:
    """Divide rows as the table says; where it knows groups, what it leaves open by a hash of the group.

    Returns:
        split → rows. Without groups, splits that are not given are left to be carved out by content.

    Raises:
        UserError: for rows with a split beside some without, none to train on, or a group in two splits.

    """
    given = {row.split for row in rows}
    if POOL in given and len(given) > 1:
        row = next(row for row in rows if row.split == POOL)
        raise UserError(f"{row.where}: no split, but other rows have one; give every row its split, or none")
    if POOL not in given and "train" not in given:
        raise UserError(f"{file}: no row of the train split; found {', '.join(sorted(given))}")
    found: dict[str, list[Row]] = {split: [] for split in dict.fromkeys(row.split for row in rows)}
    for row in rows:
        found[row.split].append(row)
    if rows[0].group is None:
        return found
    _refuse_crossing(rows)
    whole, shares = divided(found, splits)
    rest = found.pop(whole)
    # Those that stay empty, too: what is missing would be carved out by content, across groups.
    found |= {name: [] for name in (*shares, "train")}
    for row in rest:
        digest = hashlib.sha256(f"group:{row.group}".encode()).hexdigest()
        found[side(digest, shares, splits.salt)].append(row)
    return found


def _undivided(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """Leave all rows to the folds.

    Raises:
        UserError: for a row that has a split.

    """
    split = next((row for row in rows if row.split != POOL), None)
    if split is not None:
        raise UserError(
            f"{split.where}: the split is '{split.split}', but '{key}.folds' divides the rows; keep one"
        )
    return {POOL: list(rows)}


def _refuse_crossing(rows: Sequence[Row]) -> None:
    first: dict[str | None, Row] = {}
    for row in rows:
        other = first.setdefault(row.group, row)
        if other.split != row.split:
            raise UserError(
                f"{row.where}: group '{row.group}' is in the {row.split} split, but in "
                f"{other.where.rpartition(', ')[2]} in the {other.split} split; a group must not cross splits"
            )


def _labelled(groups: Mapping[str, Sequence[Row]], options: TableOptions, root: Path, key: str) -> Fetched:
    main = groups.get("train", groups.get(POOL, []))
    classes = (
        options.classes
        or options.probabilities
        or tuple(
            sorted(
                {str(row.target) for row in main},
                key=lambda one: listing.natural(Path(one.replace("/", "_"))),
            )
        )
    )
    if len(classes) < 2:
        raise UserError(f"{main[0].where}: one class alone, '{classes[0]}'; expected two or more")
    for some in groups.values():
        for row in some:
            if row.target not in classes:
                what = "no training sample has it"
                if options.classes or options.probabilities:
                    what = f"'{key}.{'classes' if options.classes else 'probabilities'}' has it not"
                raise UserError(
                    f"{row.where}: label '{row.target}': {what}; {nearest(str(row.target), classes)}"
                )
    images = Images.agree(
        {split: [row.image for row in some] for split, some in groups.items()}, options, root, key
    )
    columns = _columns(groups)
    samples = {
        split: images.samples(
            split, np.array([classes.index(str(row.target)) for row in some], np.int64), columns[split]
        )
        for split, some in groups.items()
    }
    soft = {
        split: np.array([row.soft for row in some], np.float32).reshape(len(some), len(classes))
        for split, some in groups.items()
        if options.probabilities
    }
    samples |= {split: replace(samples[split], soft=one) for split, one in soft.items()}
    return _weighed(Fetched("label", classes, samples, PROVENANCE, extra=images.reading.extra), groups)


def _weighed(fetched: Fetched, groups: Mapping[str, Sequence[Row]]) -> Fetched:
    """Give samples the weights of their rows, where these have any."""
    weights = {
        split: [row.weight for row in some if row.weight is not None] for split, some in groups.items()
    }
    if not any(weights.values()):
        return fetched
    found = {
        split: replace(one, weights=np.array(weights[split], np.float32))
        for split, one in fetched.groups.items()
    }
    return replace(fetched, groups=found)


def _boxed(groups: Mapping[str, Sequence[Row]], options: TableOptions, root: Path, key: str) -> Fetched:
    own = VocOptions.model_validate(
        {
            **options.model_dump(include={"size", "channels", "range", "orientation", "classes"}),
            "boxes": options.beyond,
        }
    )
    pictures = {
        split: [picture(row.image, Path(row.target), own) for row in some] for split, some in groups.items()
    }
    classes = own.classes or found_classes(pictures, key)
    return boxes_of(pictures, classes, own, root, key, PROVENANCE, _columns(groups))


def _columns(groups: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, list[Any]]]:
    return {
        split: {name: [row.columns[name] for row in some] for name in (some[0].columns if some else ())}
        for split, some in groups.items()
    }
