"""The user's own images: a folder per class, or images with masks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lossbench.data.dataset import TRAINED
from lossbench.data.facts import histogram
from lossbench.data.images import Coloured, Header, WhiteIsZero, read_mask
from lossbench.data.rows import FromFiles
from lossbench.data.samples import POOL, Array, Fetched
from lossbench.data.sources import listing
from lossbench.data.sources.base import FolderSource, register
from lossbench.data.sources.pairs import mask_pairs
from lossbench.data.sources.palettes import coloured
from lossbench.data.sources.reading import ImageOptions, Images, Reading, headers_of, side_by_side
from lossbench.data.sources.weighing import beside, maps
from lossbench.errors import UserError, nearest
from lossbench.params import Dataset

PROVENANCE = {"name": "the user's own folder", "licence": "the user's own"}
Value = Annotated[int, Field(ge=0, le=65535)]


@register
class ImageFolder(FolderSource[ImageOptions]):
    """``path/<class>/*.png``, or ``path/{train,val,test}/<class>/*.png``."""

    name = "image_folder"
    options = ImageOptions

    def load(self, dataset: Dataset, options: ImageOptions, key: str) -> Fetched:
        """Read the images; classes are the folders' names, in natural order (2 before 10)."""
        root = listing.existing_folder(dataset.path, key)
        groups = class_files(root)
        main = groups.get("train", groups.get(POOL, {}))
        classes = tuple(main)
        if len(classes) < 2:
            raise UserError(f"{root}: {len(classes)} class folders found; expected two or more")
        for found in groups.values():
            for name, some in found.items():
                if name not in main:
                    raise UserError(
                        f"{some[0].parent}: no training images of this class; {nearest(name, main)}"
                    )
        paths = {split: [file for some in found.values() for file in some] for split, found in groups.items()}
        images = Images.agree(paths, options, root, key)
        samples = {split: images.samples(split, _labels(found, classes)) for split, found in groups.items()}
        return Fetched("label", classes, samples, PROVENANCE, extra=images.reading.extra)


def _labels(files: Mapping[str, Sequence[Path]], classes: Sequence[str]) -> Array:
    numbers = [classes.index(name) for name in files]
    return np.repeat(np.array(numbers, np.int64), [len(some) for some in files.values()])


def class_files(root: Path) -> dict[str, dict[str, list[Path]]]:
    """Split (or POOL) → class → its files.

    Raises:
        UserError: for a file or folder that stands where none should, or an empty class.

    """
    divided: Mapping[str, Path] = listing.split_folders(root) or {POOL: root}
    return {split: _classes(folder) for split, folder in divided.items()}


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Class name → its files."""
    found: dict[str, list[Path]] = {}
    for one in listing.entries(folder):
        if not one.is_dir():
            raise UserError(f"{one}: a file beside the class folders; images must lie in a folder per class")
        name = listing.nfc(one.name)
        if name in found:
            raise UserError(
                f"{one} and {found[name][0].parent} differ in their spelling of accents only; keep one"
            )
        found[name] = listing.files_in(one, f"class '{one.name}'")
    if not found:
        raise UserError(f"{folder}: no class folders in it; expected a folder of images per class")
    return found


class MaskOptions(ImageOptions):
    """How masks are read: which value stands for which class.

    ``values[c]`` is the grey value or palette index of class c (by default c itself). Without ``classes``
    the masks are looked through: 0, 1, …, k become k + 1 classes, 0 and 255 become two. ``white_is_zero``:
    whether a TIFF that calls 0 white is read as it is shown, or by the numbers stored. ``palette``: whether a
    palette's indices are the values (and the palettes may differ), or the grey values of their colours;
    without it, indices are, and palettes must agree.
    """

    classes: listing.ClassNames | None = Field(None, min_length=2, max_length=255)
    values: tuple[Value, ...] | None = None
    ignore_index: Value | None = None
    white_is_zero: WhiteIsZero | None = None
    palette: Literal["index", "grey"] | None = None

    @model_validator(mode="after")
    def _fits(self) -> "MaskOptions":
        if self.values is not None:
            if self.classes is None:
                raise ValueError("values needs classes: the names, in the same order")
            if len(self.values) != len(self.classes):
                raise ValueError(f"values has {len(self.values)} entries, classes {len(self.classes)}")
            if len(set(self.values)) != len(self.values):
                raise ValueError(f"values holds a value twice: {list(self.values)}")
        known = self.values or range(len(self.classes or ()))
        if self.ignore_index is not None and self.ignore_index in known:
            raise ValueError(f"ignore_index is {self.ignore_index}, which is also a class")
        return self


@register
class SegmentationFolder(FolderSource[MaskOptions]):
    """``path/{train,val,test}/{images,masks}/ID.png``, ``path/{images,masks}``, and what else people have.

    See :mod:`lossbench.data.sources.pairs`.
    """

    name = "segmentation_folder"
    options = MaskOptions

    def load(self, dataset: Dataset, options: MaskOptions, key: str) -> Fetched:
        """Read images and masks, paired by name."""
        root = listing.existing_folder(dataset.path, key)
        pairs = mask_pairs(root)
        return segmented(
            {split: list(some) for split, some in pairs.items()},
            {split: list(some.values()) for split, some in pairs.items()},
            options,
            root,
            key,
            weights={split: beside(list(some.values()), root) for split, some in pairs.items()},
        )


def segmented(
    files: Mapping[str, Sequence[Path]],
    masks: Mapping[str, Sequence[Path]],
    options: MaskOptions,
    root: Path,
    key: str,
    columns: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    weights: Mapping[str, Sequence[Path] | None] | None = None,
) -> Fetched:
    """Read images and the mask of each.

    Args:
        files: split → images.
        masks: split → their masks, in the same order.
        options: how both are read.
        root: what sample names are relative to.
        key: the dataset's path in params.yaml.
        columns: split → further columns of the manifest.
        weights: split → the weight map of each, or None; where there are any, train and validation need them.

    Raises:
        UserError: naming the file, its sizes or its values.

    """
    images = Images.agree(files, options, root, key)
    reading = images.reading
    fill = 0 if options.values is None else options.values[0]
    fill = fill if options.ignore_index is None else options.ignore_index
    read = partial(
        _in_range,
        reading=reading,
        fill=fill,
        white_is_zero=options.white_is_zero or "apply",
        coloured=coloured(options.palette, key),
    )
    classes, values = _agreed_classes(options, masks, read, key)
    numbers = _numbers(values, options.ignore_index)
    known = partial(_as_classes, read=read, numbers=numbers, values=values, key=key)
    ignore = None if options.ignore_index is None else int(numbers[options.ignore_index])
    groups = {}
    for split, some in masks.items():
        own = _mask_columns(some, images.headers[split], reading, options, split, key)
        targets = FromFiles.of(known, some, reading.size, np.uint8, f"{split} masks: reading")
        groups[split] = images.samples(split, targets, {**own, **((columns or {}).get(split, {}))})
    for split, files_of in _with_maps(weights or {}, root).items():
        sizes = [(one.height, one.width) for one in images.headers[split]]
        maps_of = maps(files_of, sizes, reading, options.size, f"{split} weights: reading")
        groups[split] = replace(groups[split], weights=maps_of)
    return Fetched("mask", classes, groups, PROVENANCE, ignore, reading.extra)


def _with_maps(weights: Mapping[str, Sequence[Path] | None], root: Path) -> dict[str, Sequence[Path]]:
    """Keep the splits that have weight maps: all that are trained on, or none."""
    found = {split: some for split, some in weights.items() if some is not None}
    lone = next((split for split in weights if split in (POOL, *TRAINED) and split not in found), None)
    if found and lone is not None:
        raise UserError(f"{root}: weight maps of the {next(iter(found))} split, but none of the {lone} split")
    return found


IGNORED = 255
"""What unknown positions hold on disk."""
UNKNOWN = 256
"""Marks grey values that are no class."""


def _mask_columns(
    masks: Sequence[Path],
    images: Sequence[Header],
    reading: Reading,
    options: MaskOptions,
    split: str,
    key: str,
) -> dict[str, list[int]]:
    """Columns of the manifest: the masks' own sizes, those of their images where none is resized."""
    headers = headers_of(masks, f"{split} masks", options)
    if options.size is None:
        for mask, header, image in zip(masks, headers, images, strict=True):
            if (header.height, header.width) != reading.size:
                raise UserError(
                    f"{mask}: {header.width}×{header.height} pixels, but its image has "
                    f"{image.width}×{image.height}{_turned(header, image, key)}"
                )
    doubt = [
        int(options.orientation is None and mask.orientation != image.orientation)
        for mask, image in zip(headers, images, strict=True)
    ]
    return {
        "mask_width": [one.width for one in headers],
        "mask_height": [one.height for one in headers],
        "orientation_in_doubt": doubt,
        "white_in_doubt": [int(options.white_is_zero is None and one.white_is_zero) for one in headers],
    }


def _turned(mask: Header, image: Header, key: str) -> str:
    """A hint where it is the tag that makes the sizes differ."""
    if mask.orientation == image.orientation or (mask.width, mask.height) != (image.height, image.width):
        return ""
    return (
        f", turned as its EXIF tag asks (orientation {image.orientation}; the mask's is {mask.orientation}); "
        f"if both were drawn on raw pixels, say '{key}.orientation: ignore'"
    )


def _in_range(
    file: Path, reading: Reading, fill: int, white_is_zero: WhiteIsZero, coloured: Coloured
) -> Array:
    """Read a mask's values, (H, W) uint8 or uint16."""
    mask = read_mask(file, reading.size, reading.resize, fill, reading.orientation, white_is_zero, coloured)
    if mask.dtype == np.uint8:
        return mask
    low, high = mask.min(), mask.max()
    if low < 0 or high > 65535:
        raise UserError(f"{file}: mask values from {low} to {high}; allowed: 0 to 65535")
    return mask.astype(np.uint8 if high < 256 else np.uint16)


def _agreed_classes(
    options: MaskOptions, masks: Mapping[str, Sequence[Path]], read: Callable[[Path], Array], key: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return class names and the mask value of each; inferred where params do not say."""
    if options.classes is not None:
        return options.classes, options.values or tuple(range(len(options.classes)))
    present: set[int] = set()
    for split, some in masks.items():  # read for this alone, then once more: kept, they might fill the memory
        present.update(
            *side_by_side(lambda file: _present(read(file)).tolist(), some, f"{split} masks: classes")
        )
    present -= {options.ignore_index}
    if present == {0, 255}:
        return ("background", "foreground"), (0, 255)
    if present == {0, 1}:
        return ("background", "foreground"), (0, 1)
    if len(present) >= 2 and present == set(range(len(present))):
        names = ("background", *(f"class_{value}" for value in range(1, len(present))))
        return names, tuple(range(len(present)))
    raise UserError(
        f"the masks hold the values {_some(sorted(present))}, which do not say what the classes are; say "
        f"'{key}.classes: [names]', '{key}.values: [the value of each]' and, for unknown positions, "
        f"'{key}.ignore_index'"
    )


def _numbers(values: Sequence[int], ignore: int | None) -> Array:
    """Mask value → class number; UNKNOWN where there is none."""
    table = np.full(65536, UNKNOWN, np.uint16)
    table[list(values)] = np.arange(len(values))
    if ignore is not None:
        table[ignore] = IGNORED
    return table


def _present(mask: Array) -> Array:
    """Values of a mask of (H, W) integers, ascending."""
    if mask.dtype == np.uint8:
        return np.flatnonzero(histogram(mask))
    return np.unique(mask)


def _as_classes(
    file: Path, read: Callable[[Path], Array], numbers: Array, values: Sequence[int], key: str
) -> Array:
    """Read a mask as class numbers, (H, W) uint8."""
    mask = read(file)
    present = _present(mask)
    stray = present[numbers[present] == UNKNOWN]
    if len(stray):
        raise UserError(
            f"{file}: a mask with unknown values {_some(stray.tolist())}; allowed by '{key}': "
            f"{_some(list(values))}"
        )
    if mask.dtype == np.uint8:  # several times as fast as to look each position up
        table = numbers[:256].astype(np.uint8).tobytes()
        return np.frombuffer(mask.tobytes().translate(table), np.uint8).reshape(mask.shape)
    return numbers[mask].astype(np.uint8)


def _some(values: Sequence[int], most: int = 10) -> str:
    more = f", … ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
