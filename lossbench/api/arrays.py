"""Inputs and targets that somebody holds in memory, as a source hands them over; or a sentence on why not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossbench.data.dataset import Kind
from lossbench.data.rows import Array, Rows, blocks
from lossbench.errors import UserError, brief

IGNORED = 255
"""What stands for "unknown" in stored masks, whose bytes know no -1 and no -100."""
CHANNELS = (1, 3, 4)
"""Of pictures as they are usually stored; what tells channels first from channels last."""
IMAGE = "images (N, C, H, W), or (N, H, W) without channels"


@dataclass(frozen=True)
class Wanted:
    """What targets are to be.

    Attributes:
        kind: of target.
        classes: names; None where the targets tell.
        ignore_index: target value of positions that do not count, as the user writes it.

    """

    kind: Kind
    classes: tuple[str, ...] | None = None
    ignore_index: int | None = None

    @property
    def stored_ignore(self) -> int | None:
        """What it becomes in stored masks."""
        if self.ignore_index is None or self.kind != "mask":
            return self.ignore_index
        return self.ignore_index if 0 <= self.ignore_index <= IGNORED else IGNORED


@dataclass
class Notes:
    """What was understood and might have been meant otherwise; each is said once."""

    said: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """Take note."""
        if sentence not in self.said:
            self.said.append(sentence)


def as_array(given: Any, where: str) -> Array:
    """Turn a tensor, an array or nested lists into an array.

    Raises:
        UserError: if it is none.

    """
    if hasattr(given, "detach"):  # a tensor, on whatever device
        given = given.detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given
    try:
        made = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; a tensor that has no numbers
        raise UserError(f"{where}: no array can be made of it: {brief(str(error))}") from None
    if made.dtype == object:
        raise UserError(f"{where}: {_ragged(given)}; expected numbers of one shape")
    return made


def _ragged(given: Any) -> str:
    shapes = (
        {getattr(one, "shape", None) or np.shape(one) for one in list(given)[:1000]}
        if np.ndim(given)
        else set()
    )
    sizes = [tuple(one) for one in shapes]
    return (
        f"samples of shapes {sizes[0]} and {sizes[1]}"
        if len(sizes) > 1
        else f"a {type(given).__name__} of objects"
    )


def images(given: Any, where: str, notes: Notes, single: bool = False) -> Array:
    """Turn inputs into what is stored: (N, C, H, W), as uint8, uint16 or float32.

    Args:
        given: tensor or array (N, C, H, W), (N, H, W, C) or (N, H, W); without N where ``single``.
        where: how a message begins.
        notes: takes what was assumed.
        single: one sample, of a Dataset.

    Raises:
        UserError: for another shape or type, NaN or infinity.

    """
    found = as_array(given, where)
    found = found[None] if single else found
    if found.ndim == 3:
        found = found[:, None]
    if found.ndim != 4 or not found.size:
        shape = found.shape[1:] if single else found.shape
        raise UserError(
            f"{where}: shape {shape}; expected {IMAGE}{', without N in a Dataset' if single else ''}"
        )
    if found.shape[-1] in CHANNELS and found.shape[1] not in CHANNELS:
        found = np.moveaxis(found, -1, 1)
        notes.add(f"inputs of shape {found.shape[2:] + found.shape[1:2]} are read as height, width, channels")
    return np.ascontiguousarray(_numbers(found, where))


def _numbers(found: Array, where: str) -> Array:
    if found.dtype in (np.uint8, np.uint16):
        return found
    if found.dtype == bool:
        return found.astype(np.float32)
    if found.dtype.kind in "iu":
        low, high = int(found.min()), int(found.max())
        if low < 0 or high > np.iinfo(np.uint16).max:
            raise UserError(f"{where}: whole numbers from {low} to {high}; expected 0 to 65535, or floats")
        return found.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)
    if found.dtype.kind != "f":
        raise UserError(f"{where}: dtype {found.dtype}; expected numbers")
    finite = np.isfinite(found)
    if not finite.all():
        row = int(np.flatnonzero(~finite.reshape(len(found), -1).all(axis=1))[0])
        what = "NaN" if np.isnan(found[row]).any() else "an infinite value"
        raise UserError(f"{where}: {what} in sample {row}; expected finite numbers")
    return found.astype(np.float32)


def targets(given: Any, where: str, wanted: Wanted, single: bool = False) -> Array:
    """Turn targets into what is stored: labels (N,), masks (N, H, W), (N, C) of 0 and 1, or boxes (N, K, 5).

    Args:
        given: tensor, array or list; for boxes also a list of (k, 5) or of ``{"boxes": …, "labels": …}``.
        where: how a message begins.
        wanted: which of them, and which classes.
        single: one sample's, of a Dataset; the class numbers are then not checked.

    Raises:
        UserError: for another shape, or what is no class.

    """
    if wanted.kind == "boxes":
        return boxes([given] if single else given, where)
    found = as_array([given] if single and not hasattr(given, "shape") else given, where)
    if single and hasattr(given, "shape"):
        found = found[None]
    return SHAPED[wanted.kind](found, where, wanted)


def _label(found: Array, where: str, wanted: Wanted) -> Array:
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        hint = "; of one-hot targets take .argmax(1)" if found.ndim == 2 else ""
        raise UserError(f"{where}: shape {found.shape}; expected one class number a sample, (N,){hint}")
    if found.dtype.kind in "UST":
        if wanted.classes is None:
            raise UserError(f"{where}: text such as {str(found[0])!r}; name all of them, classes=[…]")
        return _by_name(found, where, wanted.classes)
    return whole(found, where).astype(np.int64)


def _by_name(found: Array, where: str, classes: Sequence[str]) -> Array:
    from lossbench.errors import nearest

    numbers = {name: number for number, name in enumerate(classes)}
    unknown = next((str(one) for one in found if str(one) not in numbers), None)
    if unknown is not None:
        raise UserError(f"{where}: label {unknown!r} is no class; {nearest(unknown, classes)}")
    return np.array([numbers[str(one)] for one in found], np.int64)


def _mask(found: Array, where: str, wanted: Wanted) -> Array:
    if found.ndim == 4 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 3:
        hint = "; of one-hot masks take .argmax(1)" if found.ndim == 4 else ""
        raise UserError(f"{where}: shape {found.shape}; expected one class number a pixel, (N, H, W){hint}")
    if found.dtype == np.uint8 and wanted.ignore_index is None:
        return found
    numbers = whole(found, where).astype(np.int32)
    if (stored := wanted.stored_ignore) is not None:
        numbers = np.where(numbers == wanted.ignore_index, stored, numbers)
    return numbers.astype(np.uint8) if numbers.min() >= 0 and numbers.max() <= IGNORED else numbers


def _multilabel(found: Array, where: str, wanted: Wanted) -> Array:
    del wanted
    if found.ndim != 2:
        raise UserError(
            f"{where}: shape {found.shape}; expected a 0 or 1 for each label of a sample, (N, labels)"
        )
    numbers = whole(found, where)
    if not np.isin(numbers, (0, 1)).all():
        odd = numbers[~np.isin(numbers, (0, 1))][0]
        raise UserError(f"{where}: {odd:g} stands among the labels; allowed: 0 and 1")
    return numbers.astype(np.uint8)


SHAPED: Mapping[Kind, Callable[[Array, str, Wanted], Array]] = {
    "label": _label, "mask": _mask, "multilabel": _multilabel,
}  # fmt: skip


def whole(found: Array, where: str) -> Array:
    """Refuse what is no whole number."""
    if found.dtype.kind in "biu":
        return found
    if found.dtype.kind != "f":
        raise UserError(f"{where}: dtype {found.dtype}; expected whole numbers from 0")
    odd = ~np.isfinite(found) | (found != np.round(found))
    if odd.any():
        raise UserError(f"{where}: {found[odd][0]} is no class number; expected whole numbers from 0")
    return found


def boxes(given: Any, where: str) -> Array:
    """Turn boxes into (N, K, 5) float32: x0, y0, x1, y1 in pixels and the class; class -1 pads."""
    rows = [_boxes_of(one, f"{where}, sample {number}") for number, one in enumerate(given)]
    most = max((len(one) for one in rows), default=0)
    made = np.full((len(rows), max(1, most), 5), -1, np.float32)
    for number, one in enumerate(rows):
        made[number, : len(one)] = one
    return made


def _boxes_of(given: Any, where: str) -> Array:
    if isinstance(given, Mapping):
        if not {"boxes", "labels"} <= given.keys():
            raise UserError(
                f"{where}: keys {', '.join(map(str, given))}; expected 'boxes' (k, 4) and 'labels' (k,)"
            )
        corners = as_array(given["boxes"], where).reshape(-1, 4)
        labels = as_array(given["labels"], where).reshape(-1, 1)
        if len(corners) != len(labels):
            raise UserError(f"{where}: {len(corners)} boxes, but {len(labels)} labels")
        found = np.concatenate([corners, labels], axis=1)
    else:
        found = as_array(given, where)
        found = found.reshape(-1, 5) if not found.size else found
    if found.ndim != 2 or found.shape[1] != 5 or not np.isfinite(found).all():
        raise UserError(
            f"{where}: boxes of shape {found.shape}; expected (k, 5): x0, y0, x1, y1 and the class"
        )
    return found.astype(np.float32)


def class_names(found: Mapping[str, Array | Rows], wanted: Wanted) -> tuple[str, ...]:
    """Name the classes: as given, or by their numbers; and refuse targets that are none of them.

    Args:
        found: split → targets as stored.
        wanted: what they are.

    Raises:
        UserError: naming the split, the value and what is allowed.

    """
    if wanted.kind == "multilabel":
        return _labels_alike(found, wanted)
    named = wanted.classes
    if named is not None:
        count = len(named)
    else:
        count = 1 + max(int(_values(one, wanted).max(initial=0)) for one in found.values())
    for split, one in found.items():
        _refuse_strangers(one, split, wanted, count)
    if named is None:
        _refuse_gaps(found["train"], wanted, count)
    return named or tuple(str(number) for number in range(count))


def _labels_alike(found: Mapping[str, Array | Rows], wanted: Wanted) -> tuple[str, ...]:
    count = found["train"].shape[1]
    named = wanted.classes or tuple(str(number) for number in range(count))
    for split, one in found.items():
        if one.shape[1] != len(named):
            raise UserError(f"{split}: {one.shape[1]} labels a sample, but there are {len(named)} classes")
    return named


def _values(one: Array | Rows, wanted: Wanted) -> Array:
    """List the class numbers that occur; masks may be on the disk."""
    some = (np.asarray(one[part]) for part in blocks(one))
    found = [np.unique(part[..., 4] if wanted.kind == "boxes" else part) for part in some]
    numbers = np.unique(np.concatenate(found)).astype(np.int64)
    spared = -1 if wanted.kind == "boxes" else wanted.stored_ignore
    return numbers if spared is None else numbers[numbers != spared]


def _refuse_strangers(one: Array | Rows, split: str, wanted: Wanted, count: int) -> None:
    odd = [int(value) for value in _values(one, wanted) if not 0 <= value < count]
    if not odd:
        return
    hint = ""
    if wanted.kind == "mask":
        known = "" if wanted.ignore_index is None else f", which is {wanted.ignore_index} here"
        hint = f"; positions that do not count are named by ignore_index{known}"
    raise UserError(f"{split}: target {odd[0]} is no class; allowed: 0 to {count - 1}{hint}")


def _refuse_gaps(one: Array | Rows, wanted: Wanted, count: int) -> None:
    missing = sorted(set(range(count)) - {int(value) for value in _values(one, wanted)})
    if not missing:
        return
    hint = ""
    if wanted.kind == "mask" and count == IGNORED + 1:
        hint = "; of masks of 0 and 255 take mask // 255, or say ignore_index=255"
    some = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
    raise UserError(
        f"train: targets go up to {count - 1}, but none is {some}; number classes from 0 without gaps, or "
        f"name them all by classes=[…]{hint}"
    )
