"""The user's own images: a folder per class, or images with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from lossbench.data.images import Header, read_mask
from lossbench.data.samples import POOL, Array, Fetched, Samples
from lossbench.data.sources import listing
from lossbench.data.sources.base import Source, register
from lossbench.data.sources.pairs import mask_pairs
from lossbench.data.sources.reading import (
    ImageOptions,
    Reading,
    agree,
    headers_of,
    original,
    read_images,
    relative_names,
    side_by_side,
)
from lossbench.errors import UserError, nearest
from lossbench.params import Dataset

PROVENANCE = {"name": "the user's own folder", "licence": "the user's own"}
Value = Annotated[int, Field(ge=0, le=65535)]


@register
class ImageFolder(Source[ImageOptions]):
    """``path/<class>/*.png``, or ``path/{train,val,test}/<class>/*.png``."""

    name = "image_folder"
    options = ImageOptions

    def check(self, dataset: Dataset, key: str) -> ImageOptions:
        """Check the options, and that the folder is there."""
        options = super().check(dataset, key)
        listing.existing_folder(dataset.path, key)
        return options

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
        images = _Images.agree(paths, options, root, key)
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
            raise UserError(f"{one} and {found[name][0].parent} differ in their spelling of accents only; keep one")
        found[name] = listing.files_in(one, f"class '{one.name}'")
    if not found:
        raise UserError(f"{folder}: no class folders in it; expected a folder of images per class")
    return found


@dataclass(frozen=True)
class _Images:
    """All images of a dataset, of one shape, and what they were like on disk."""

    root: Path
    files: Mapping[str, Sequence[Path]]
    arrays: Mapping[str, Array]
    headers: Mapping[str, Sequence[Header]]
    reading: Reading

    @classmethod
    def agree(
        cls, files: Mapping[str, Sequence[Path]], options: ImageOptions, root: Path, key: str
    ) -> "_Images":
        headers = {split: headers_of(some, split, options) for split, some in files.items()}
        every = [one for some in files.values() for one in some]
        reading = agree(every, [one for some in headers.values() for one in some], options, key)
        arrays = {split: read_images(some, reading, split) for split, some in files.items()}
        return cls(root, files, arrays, headers, reading)

    def samples(
        self, split: str, targets: Array, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Samples:
        names = relative_names(self.files[split], self.root)
        own = original(self.headers[split])
        return Samples(self.arrays[split], targets, names, {**own, **(columns or {})})


class MaskOptions(ImageOptions):
    """How masks are read: which value stands for which class.

    ``values[c]`` is the grey value or palette index of class c (by default c itself). Without ``classes``
    the masks are looked through: 0, 1, …, k become k + 1 classes, 0 and 255 become two.
    """

    classes: listing.ClassNames | None = Field(None, min_length=2, max_length=255)
    values: tuple[Value, ...] | None = None
    ignore_index: Value | None = None

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
class SegmentationFolder(Source[MaskOptions]):
    """``path/{train,val,test}/{images,masks}/ID.png``, ``path/{images,masks}``, and what else people have.

    See :mod:`lossbench.data.sources.pairs`.
    """

    name = "segmentation_folder"
    options = MaskOptions

    def check(self, dataset: Dataset, key: str) -> MaskOptions:
        """Check the options, and that the folder is there."""
        options = super().check(dataset, key)
        listing.existing_folder(dataset.path, key)
        return options

    def load(self, dataset: Dataset, options: MaskOptions, key: str) -> Fetched:
        """Read images and masks, paired by name."""
        root = listing.existing_folder(dataset.path, key)
        pairs = mask_pairs(root)
        images = _Images.agree({split: list(some) for split, some in pairs.items()}, options, root, key)
        raw, columns = {}, {}
        for split, some in pairs.items():
            raw[split], columns[split] = _read_masks(some, images.headers[split], images.reading, options, key)
        every = [mask for some in pairs.values() for mask in some.values()]
        classes, values = _agreed_classes(options, raw, key)
        numbers = _numbers(values, options.ignore_index)
        _refuse_unknown(np.concatenate(list(raw.values())), numbers, every, values, key)
        ignore = None if options.ignore_index is None else int(numbers[options.ignore_index])
        return Fetched(
            "mask",
            classes,
            {
                split: images.samples(split, numbers[raw[split]].astype(np.uint8), columns[split])
                for split in raw
            },
            PROVENANCE,
            ignore,
            images.reading.extra,
        )


IGNORED = 255
"""What unknown positions hold on disk."""
UNKNOWN = 256
"""Marks grey values that are no class."""


def _read_masks(
    pairs: Mapping[Path, Path], images: Sequence[Header], reading: Reading, options: MaskOptions, key: str
) -> tuple[Array, dict[str, list[int]]]:
    """Read masks as they are, turned and resized like their images; their own sizes go to the manifest."""
    masks = list(pairs.values())
    label = f"{masks[0].parent.name}"
    headers = headers_of(masks, label, options)
    if options.size is None:
        for mask, header, image in zip(masks, headers, images, strict=True):
            if (header.height, header.width) != reading.size:
                raise UserError(
                    f"{mask}: {header.width}×{header.height} pixels, but its image has "
                    f"{image.width}×{image.height}{_turned(header, image, key)}"
                )
    fill = 0 if options.values is None else options.values[0]
    fill = fill if options.ignore_index is None else options.ignore_index
    found = np.empty((len(masks), *reading.size), np.uint16)
    read = side_by_side(lambda file: _in_range(file, reading, fill), masks, f"{label}: reading")
    for index, one in enumerate(read):
        found[index] = one
    doubt = [
        int(options.orientation is None and mask.orientation != image.orientation)
        for mask, image in zip(headers, images, strict=True)
    ]
    columns = {
        "mask_width": [one.width for one in headers],
        "mask_height": [one.height for one in headers],
        "orientation_in_doubt": doubt,
    }
    return found, columns


def _turned(mask: Header, image: Header, key: str) -> str:
    """A hint where it is the tag that makes the sizes differ."""
    if mask.orientation == image.orientation or (mask.width, mask.height) != (image.height, image.width):
        return ""
    return (
        f", turned as its EXIF tag asks (orientation {image.orientation}; the mask's is {mask.orientation}); if "
        f"both were drawn on raw pixels, say '{key}.orientation: ignore'"
    )


def _in_range(file: Path, reading: Reading, fill: int) -> Array:
    mask = read_mask(file, reading.size, reading.resize, fill, reading.orientation)
    if mask.min() < 0 or mask.max() > 65535:
        raise UserError(f"{file}: mask values from {mask.min()} to {mask.max()}; allowed: 0 to 65535")
    return mask


def _agreed_classes(
    options: MaskOptions, masks: Mapping[str, Array], key: str
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return class names and the mask value of each; inferred where params do not say."""
    if options.classes is not None:
        return options.classes, options.values or tuple(range(len(options.classes)))
    present = set().union(*(np.flatnonzero(np.bincount(one.ravel())).tolist() for one in masks.values()))
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


def _refuse_unknown(
    masks: Array, numbers: Array, files: Sequence[Path], values: Sequence[int], key: str
) -> None:
    for mask, file in zip(masks, files, strict=True):
        stray = np.unique(mask[numbers[mask] == UNKNOWN])
        if len(stray):
            raise UserError(
                f"{file}: a mask with unknown values {_some(stray.tolist())}; allowed by '{key}': "
                f"{_some(list(values))}"
            )


def _some(values: Sequence[int], most: int = 10) -> str:
    more = f", … ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
