"""From what was handed over to a source's answer: arrays, a Dataset, a data frame."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.api.arrays import Notes, Wanted, class_names, images, targets
from lossbench.api.weighing import soft_labels, weighed, with_soft
from lossbench.data.rows import Array, Keeper, Stored
from lossbench.data.samples import Fetched, Samples
from lossbench.data.sources.table import TableOptions, entries_told, fetched_of
from lossbench.errors import UserError, brief, nearest
from lossbench.options import parse_options
from lossbench.params import Splits
from lossbench.progress import bar

PAIRS = "(inputs, targets), a torch Dataset, or a pandas DataFrame"
KINDS = ("label", "mask", "multilabel", "boxes")
"""Of targets."""
KEYS = (("image", "inputs", "input", "x"), ("label", "mask", "target", "targets", "boxes", "y"))
"""Under which a Dataset's samples may keep the two."""


@dataclass(frozen=True)
class Given:
    """Data as handed over.

    Attributes:
        splits: name → data; what is None is carved out of the training samples.
        wanted: what targets are.
        table: options of the source `table`, of data frames.
        folder: for what is read sample by sample.
        weights: how much training samples count; None for all alike.

    """

    splits: Mapping[str, Any]
    wanted: Wanted
    table: Mapping[str, Any]
    folder: Path
    weights: Any = None


def fetched(given: Given, shares: Splits, notes: Notes) -> Fetched:
    """Make of it what a source hands over.

    Args:
        given: the data.
        shares: of what is carved out.
        notes: takes what was assumed.

    Raises:
        UserError: one sentence on what is wrong with them.

    """
    there = {name: one for name, one in given.splits.items() if one is not None}
    if "train" not in there:
        raise UserError(f"train is missing; expected {PAIRS}")
    frames = [name for name, one in there.items() if hasattr(one, "iloc")]
    if frames:
        return _of_frames(given, there, shares, frames)
    if given.table:
        raise UserError("table is for data frames; train is none")
    groups = {name: _samples(one, name, given, notes) for name, one in there.items()}
    _refuse_other_shapes(groups)
    groups, wanted = with_soft(weighed(groups, given.weights, given.wanted), given.wanted)
    classes = class_names({name: one.targets for name, one in groups.items()}, wanted)
    dtype = str(groups["train"].inputs.dtype)
    extra = {} if dtype == "uint8" else {"reading": {"dtype": dtype}}
    return Fetched(given.wanted.kind, classes, groups, {"name": "arrays"}, given.wanted.stored_ignore, extra)


def _samples(one: Any, split: str, given: Given, notes: Notes) -> Samples:
    inputs, found = _pair(one, split, given, notes)
    soft = found.soft if isinstance(found, _Soft) else None
    found = found if soft is None else soft.argmax(axis=1).astype(np.int64)
    if len(inputs) != len(found):
        raise UserError(f"{split}: {len(inputs)} inputs, but {len(found)} targets")
    if not len(inputs):
        raise UserError(f"{split}: no sample")
    if given.wanted.kind == "mask" and tuple(found.shape[1:]) != tuple(inputs.shape[2:]):
        raise UserError(
            f"{split}: masks of shape {tuple(found.shape[1:])}, but inputs of {tuple(inputs.shape[2:])}; "
            "every pixel needs its class"
        )
    return Samples(inputs, found, [f"{split}-{number:06d}" for number in range(len(found))], soft=soft)


@dataclass(frozen=True)
class _Soft:
    """Soft labels, (N, C), in the place of class numbers."""

    soft: Array


def _pair(one: Any, split: str, given: Given, notes: Notes) -> tuple[Any, Any]:
    """Read one split: inputs and targets as they are stored."""
    if hasattr(one, "dataset") and hasattr(one, "batch_size"):
        raise UserError(
            f"{split}: a DataLoader; pass its dataset ({split}=loader.dataset): batches are drawn by seed"
        )
    tensors = getattr(one, "tensors", None)  # a TensorDataset
    if isinstance(tensors, tuple):
        one = tensors
    if isinstance(one, tuple | list):
        if len(one) != 2:
            raise UserError(f"{split}: {len(one)} things; expected two, (inputs, targets)")
        read = images(one[0], f"{split} inputs", notes)
        soft = soft_labels(one[1], f"{split} targets", given.wanted)
        return read, targets(one[1], f"{split} targets", given.wanted) if soft is None else _Soft(soft)
    if hasattr(one, "__getitem__") and hasattr(one, "__len__") and not isinstance(one, str | bytes | Mapping):
        if hasattr(one, "shape"):
            raise UserError(f"{split}: an array alone; expected two, (inputs, targets)")
        return _of_dataset(one, split, given, notes)
    hint = (
        "; give the Dataset a length: __len__"
        if hasattr(one, "__getitem__") or hasattr(one, "__iter__")
        else ""
    )
    raise UserError(f"{split}: a {type(one).__name__}; expected {PAIRS}{hint}")


def _of_dataset(dataset: Any, split: str, given: Given, notes: Notes) -> tuple[Stored, Any]:
    """Read a Dataset once, onto the disk: its samples are never in memory together."""
    try:
        count = len(dataset)
    except Exception as error:  # whatever its author raises
        raise UserError(
            f"{split}: the Dataset's length cannot be read: {type(error).__name__}: {brief(str(error))}"
        ) from None
    if not count:
        raise UserError(f"{split}: no sample")
    first = _read(dataset, 0, split, given, notes)
    _refuse_random(dataset, split, first, given, notes)
    where, small = given.folder / split, given.wanted.kind != "mask"
    found: list[Array] = []
    with (
        Keeper(where / "inputs", first[0].shape[1:], first[0].dtype) as inputs,
        Keeper(where / "targets", first[1].shape[1:], first[1].dtype) as masks,
        bar(count, f"reading {split}", delay=1) as progress,
    ):
        for number in range(count):
            sample = first if number == 0 else _read(dataset, number, split, given, notes)
            _refuse_other(sample, first, number, split, small)
            inputs.append(sample[0], ["all"])
            if small:
                found.append(sample[1])
            else:
                masks.append(sample[1], ["all"])
            progress.update()
        kept = inputs.stored()
        return kept, _together(found, given.wanted) if small else masks.stored()


def _together(found: Sequence[Array], wanted: Wanted) -> Array:
    if wanted.kind != "boxes":
        return np.concatenate(found)
    most = max(one.shape[1] for one in found)
    padded = [np.pad(one, ((0, 0), (0, most - one.shape[1]), (0, 0)), constant_values=-1) for one in found]
    return np.concatenate(padded)


def _read(dataset: Any, number: int, split: str, given: Given, notes: Notes) -> tuple[Array, Array]:
    where = f"{split}: sample {number}"
    try:
        sample = dataset[number]
    except Exception as error:  # the user's Dataset may raise anything; the sentence says what and where
        raise UserError(
            f"{where} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    one, target = _two(sample, where)
    one = np.asarray(one) if hasattr(one, "getbands") else one  # a picture of Pillow's
    target = np.asarray(target) if hasattr(target, "getbands") else target
    return images(one, where, notes, single=True), targets(target, where, given.wanted, single=True)


def _two(sample: Any, where: str) -> tuple[Any, Any]:
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return sample[0], sample[1]
    if isinstance(sample, Mapping):
        keys = [next((key for key in some if key in sample), None) for some in KEYS]
        if None not in keys:
            return sample[keys[0]], sample[keys[1]]
        told = f"keys {', '.join(map(str, sample))}"
        raise UserError(f"{where} has {told}; expected (input, target), or keys such as 'image' and 'label'")
    size = f" of {len(sample)}" if isinstance(sample, tuple | list) else ""
    raise UserError(f"{where} is a {type(sample).__name__}{size}; expected (input, target)")


def _refuse_random(dataset: Any, split: str, first: tuple[Array, Array], given: Given, notes: Notes) -> None:
    """Refuse a Dataset that draws: what is read once would be one draw for all epochs."""
    for _ in range(3):
        again = _read(dataset, 0, split, given, notes)
        if not all(_same(a, b) for a, b in zip(first, again, strict=True)):
            raise UserError(
                f"{split}: sample 0 is another one each time it is read; a Dataset is read once, so take "
                "random transforms out of it and declare them, recipe=Recipe(augmentation={'flip': True, "
                "'shift': 2}, …)"
            )


def _same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _refuse_other(
    sample: tuple[Array, Array], first: tuple[Array, Array], number: int, split: str, small: bool
) -> None:
    for what, mine, theirs in zip(("an input", "a mask"), sample, first, strict=True):
        if small and what == "a mask":
            return
        if mine.shape != theirs.shape:
            raise UserError(
                f"{split}: sample {number} has {what} of shape {mine.shape[1:]}, sample 0 one of "
                f"{theirs.shape[1:]}; all must be alike: resize or crop in the Dataset"
            )
        if mine.dtype != theirs.dtype:
            raise UserError(
                f"{split}: sample {number} has {what} of {mine.dtype}, sample 0 one of {theirs.dtype}; give "
                "all one type"
            )


def _refuse_other_shapes(groups: Mapping[str, Samples]) -> None:
    train = groups["train"].inputs
    for split, one in groups.items():
        if one.inputs.shape[1:] != train.shape[1:] or one.inputs.dtype != train.dtype:
            raise UserError(
                f"{split}: inputs of shape {tuple(one.inputs.shape[1:])} and type {one.inputs.dtype}, but "
                f"train has {tuple(train.shape[1:])} and {train.dtype}"
            )


def _of_frames(given: Given, there: Mapping[str, Any], shares: Splits, frames: Sequence[str]) -> Fetched:
    """Read data frames as the source `table` reads a table; paths are as seen from the working directory."""
    other = next((name for name in there if name not in frames), None)
    if other is not None:
        raise UserError(
            f"{other}: a {type(there[other]).__name__}, but {frames[0]} is a DataFrame; give all alike"
        )
    if given.weights is not None:
        raise UserError("weights beside a DataFrame; name its column: table={'weight': COLUMN}")
    options = parse_options(TableOptions, dict(given.table), "table")
    columns = list(dict.fromkeys(str(name) for one in there.values() for name in one.columns))
    several = len(there) > 1
    if several and options.split in columns:
        raise UserError(
            f"train: a column '{options.split}' beside {', '.join(list(there)[1:])}; give one of both"
        )
    rows = list(_rows(there, options.split if several else None))
    columns += [options.split] if several else []
    if not rows:
        raise UserError("train: no row; expected one per image")
    file = Path("DataFrame")
    kind, read = entries_told(file, columns, rows, options)
    found = fetched_of(kind, read, options, shares, file, "table")
    if found.kind != given.wanted.kind:
        raise UserError(
            f"train: the table's targets are of kind {found.kind}, the task's of kind {given.wanted.kind}"
        )
    return found


def _rows(there: Mapping[str, Any], split: str | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    for name, frame in there.items():
        for row in frame.to_dict("records"):
            number += 1
            yield (
                number,
                {str(key): value for key, value in row.items()} | ({} if split is None else {split: name}),
            )


def wanted_of(kind: Any, classes: Any, ignore_index: Any) -> Wanted:
    """Check what is said of targets.

    Raises:
        UserError: naming the argument.

    """
    if kind not in KINDS:
        raise UserError(
            f"task: targets of kind '{kind}' are not taken from Python; {nearest(str(kind), KINDS)}"
        )
    if isinstance(classes, str) or (
        classes is not None and len({str(one) for one in classes}) < max(2, len(classes))
    ):
        raise UserError("classes: expected two or more different names, in the order of their numbers")
    if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, int)):
        raise UserError(f"ignore_index is {ignore_index!r}; expected a whole number")
    return Wanted(kind, None if classes is None else tuple(str(one) for one in classes), ignore_index)
