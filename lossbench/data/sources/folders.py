"""The user's own folders: images by class, or images beside masks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lossbench.data.samples import POOL, Array, Fetched, Samples
from lossbench.data.sources.base import Source, register
from lossbench.errors import UserError
from lossbench.options import Options
from lossbench.params import Dataset

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SIDES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
LARGEST = 100_000_000
"""Pixels beyond which an image is taken for a decompression bomb."""

Side = Annotated[int, Field(ge=1, le=16_384)]


class ImageOptions(Options):
    """How images are brought to one shape. ``size`` is (height, width)."""

    size: tuple[Side, Side] | None = None
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    channels: Literal[1, 3] | None = None


class MaskOptions(ImageOptions):
    """Classes of the mask values, and the value that stands for "unknown"."""

    classes: tuple[str, ...] | None = None
    ignore_index: int | None = None


@dataclass(frozen=True)
class Read:
    """One image as read, (H, W) or (H, W, 3) uint8, and its original size."""

    pixels: Array
    width: int
    height: int
    channels: int


def read_image(file: Path, channels: int | None) -> Read:
    """Read an image safely: upright, 8 bits, one or three channels.

    Raises:
        UserError: naming the file, if it is no image, damaged, or far too large.

    """
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # checked below, from the header, before a pixel is decoded
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > LARGEST:
                raise UserError(
                    f"{file}: {opened.width}×{opened.height} pixels; at most {LARGEST:,} are allowed"
                )
            image: Any = ImageOps.exif_transpose(opened)
            grey = image.mode in ("1", "L", "LA", "I", "I;16", "F")
            wanted = channels or (1 if grey else 3)
            pixels = (
                _eight_bits(image)
                if image.mode in ("I", "I;16", "F")
                else np.asarray(image.convert("L" if wanted == 1 else "RGB"))
            )
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{file}: not a readable image ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None
    if wanted == 3 and pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return Read(pixels, pixels.shape[1], pixels.shape[0], wanted)


def _eight_bits(image: Any) -> Array:
    """Scale 16-bit (or float) grey values to 0..255 by their type's range (floats: 0..1)."""
    values = np.asarray(image).astype(np.float64)
    scale = 255.0 if image.mode == "F" else 255.0 / 65535.0
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)


def fit_size(pixels: Array, size: tuple[int, int], how: str, nearest: bool = False) -> Array:
    """Bring an image (H, W[, 3]) to ``size``: stretched, padded to keep its shape, or cropped around the centre."""
    from PIL import Image, ImageOps

    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels)
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    if how == "pad":
        return np.asarray(ImageOps.pad(image, (width, height), method))
    if how == "crop":
        return np.asarray(ImageOps.fit(image, (width, height), method))
    return np.asarray(image.resize((width, height), method))


def natural(path: Path) -> list[Any]:
    """Sort key that puts 2 before 10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part.lower())
        for part in re.split(r"(\d+)", path.as_posix())
    ]


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, in natural order; other files are refused, hidden ones passed over.

    Raises:
        UserError: naming a file that is no image.

    """
    found = []
    for file in sorted((one for one in folder.rglob("*") if one.is_file()), key=natural):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or file.name in ("Thumbs.db", "desktop.ini"):
            continue
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(f"{file}: not an image; allowed: {', '.join(sorted(SUFFIXES))}")
        found.append(file)
    return found


def sides(root: Path) -> dict[str, Path]:
    """Publisher's division: split → folder, where ``root`` has train/ and the like; empty where it has not."""
    found = {
        SIDES[one.name.lower()]: one
        for one in sorted(root.iterdir())
        if one.is_dir() and one.name.lower() in SIDES
    }
    return found if "train" in found else {}


def existing(path: str, key: str) -> Path:
    """Return the dataset's folder.

    Raises:
        UserError: naming the key and the folder that is not there.

    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"'{key}.path': no such folder: {folder}")
    return folder


def stacked(
    read: Sequence[Read], files: Sequence[Path], options: ImageOptions, key: str
) -> tuple[Array, dict[str, list[int]]]:
    """Bring images to one shape and stack them as (N, C, H, W) uint8; original sizes become manifest columns.

    Raises:
        UserError: if sizes or channels differ and params do not say what to do about it.

    """
    first = read[0]
    for one, file in zip(read, files, strict=True):
        if options.size is None and (one.height, one.width) != (first.height, first.width):
            raise UserError(
                f"{file}: {one.height}×{one.width}, but {files[0].name} is {first.height}×{first.width}; "
                f"set '{key}.size' to [height, width], and '{key}.resize' to stretch, pad or crop"
            )
        if one.channels != first.channels:
            raise UserError(
                f"{file}: {one.channels} channel(s), but {files[0].name} has {first.channels}; set '{key}.channels' to 1 or 3"
            )
    size = options.size or (first.height, first.width)
    pixels = np.stack([fit_size(one.pixels, size, options.resize) for one in read])
    columns = {name: [getattr(one, name) for one in read] for name in ("width", "height", "channels")}
    return (pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)), columns


@register
class ImageFolder(Source[ImageOptions]):
    """One folder per class, or train/, val/, test/ with one folder per class each."""

    name = "image_folder"
    options = ImageOptions

    def load(self, dataset: Dataset, options: ImageOptions, key: str) -> Fetched:
        """Read the folder named by ``path``."""
        root = existing(dataset.path, key)
        groups = sides(root) or {POOL: root}
        classes = class_names(groups.get("train", root))
        samples = {split: _labelled(folder, root, classes, options, key) for split, folder in groups.items()}
        shapes = {one.inputs.shape[1:] for one in samples.values()}
        if len(shapes) > 1:
            raise UserError(f"'{key}': splits differ in image shape: {sorted(shapes)}; set '{key}.size'")
        return Fetched("label", classes, samples, {"name": root.name})


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, in natural order.

    Raises:
        UserError: if there are fewer than two, or one is empty.

    """
    found = sorted(
        (one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")), key=natural
    )
    if len(found) < 2:
        raise UserError(f"{folder}: expected a folder per class, at least two; found {len(found)}")
    for one in found:
        if not images_below(one):
            raise UserError(f"{one}: class '{one.name}' has no images")
    return tuple(one.name for one in found)


def _labelled(folder: Path, root: Path, classes: tuple[str, ...], options: ImageOptions, key: str) -> Samples:
    present = [one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
    for name in sorted(present):
        if name not in classes:
            raise UserError(
                f"{folder / name}: class '{name}' does not stand in the training split; allowed: {', '.join(classes)}"
            )
    files = [
        (file, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for file in images_below(folder / name)
    ]
    if not files:
        raise UserError(f"{folder}: no images")
    paths = [file for file, _ in files]
    inputs, columns = stacked([read_image(file, options.channels) for file in paths], paths, options, key)
    names = [file.relative_to(root).as_posix() for file in paths]
    return Samples(inputs, np.array([label for _, label in files], dtype=np.int64), names, columns)


@register
class SegmentationFolder(Source[MaskOptions]):
    """``{train,val,test}/{images,masks}``, or just ``images`` and ``masks``; a mask bears its image's name."""

    name = "segmentation_folder"
    options = MaskOptions

    def load(self, dataset: Dataset, options: MaskOptions, key: str) -> Fetched:
        """Read the folder named by ``path``."""
        root = existing(dataset.path, key)
        groups = sides(root) or {POOL: root}
        read = {split: _masked(folder, root, options, key) for split, folder in groups.items()}
        classes = options.classes or _numbered(read, options.ignore_index)
        for samples in read.values():
            _refuse_unknown(samples, len(classes), options.ignore_index, key)
        return Fetched("mask", classes, read, {"name": root.name}, options.ignore_index)


def _masked(folder: Path, root: Path, options: MaskOptions, key: str) -> Samples:
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder}: no folder '{part}'; expected images/ and masks/ with equal file names"
            )
    masks = {
        file.relative_to(folder / "masks").with_suffix(""): file for file in images_below(folder / "masks")
    }
    files = images_below(folder / "images")
    if not files:
        raise UserError(f"{folder / 'images'}: no images")
    pairs = []
    for file in files:
        stem = file.relative_to(folder / "images").with_suffix("")
        if stem not in masks:
            raise UserError(f"{file}: no mask of that name in {folder / 'masks'}")
        pairs.append((file, masks.pop(stem)))
    if masks:
        raise UserError(f"{next(iter(masks.values()))}: no image of that name in {folder / 'images'}")
    read = [read_image(file, options.channels) for file in files]
    raw = [read_mask(mask) for _, mask in pairs]
    for (file, mask), image, values in zip(pairs, read, raw, strict=True):
        if values.shape != (image.height, image.width):
            raise UserError(
                f"{mask}: {values.shape[0]}×{values.shape[1]}, but its image {file.name} is {image.height}×{image.width}"
            )
    inputs, columns = stacked(read, files, options, key)
    size = (inputs.shape[2], inputs.shape[3])
    targets = np.stack([fit_size(values, size, options.resize, nearest=True) for values in raw])
    names = [file.relative_to(root).as_posix() for file in files]
    return Samples(inputs, targets, names, columns)


def read_mask(file: Path) -> Array:
    """Read a mask as (H, W) uint8 class numbers: grey values, or a palette image's indices.

    Raises:
        UserError: naming the file, if it is no image or has colour channels.

    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(file) as image:
            if image.width * image.height > LARGEST:
                raise UserError(
                    f"{file}: {image.width}×{image.height} pixels; at most {LARGEST:,} are allowed"
                )
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise UserError(f"{file}: a mask needs one channel of class numbers, found mode {image.mode}")
            values = np.asarray(image)
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(
            f"{file}: not a readable image ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None
    if values.max(initial=0) > 255:
        raise UserError(f"{file}: mask value {int(values.max())}; allowed: 0 to 255")
    return values.astype(np.uint8)


def _numbered(read: dict[str, Samples], ignore_index: int | None) -> tuple[str, ...]:
    values = np.unique(np.concatenate([np.unique(samples.targets) for samples in read.values()]))
    largest = max(int(value) for value in values if value != ignore_index)
    return ("background", *(f"class {value}" for value in range(1, max(largest, 1) + 1)))


def _refuse_unknown(samples: Samples, classes: int, ignore_index: int | None, key: str) -> None:
    wrong = samples.targets >= classes
    if ignore_index is not None:
        wrong &= samples.targets != ignore_index
    if wrong.any():
        row = int(np.flatnonzero(wrong.reshape(len(samples), -1).any(axis=1))[0])
        value = int(samples.targets[row][wrong[row]].min())
        raise UserError(
            f"{samples.names[row]}: its mask holds the value {value}; allowed: 0 to {classes - 1}"
            + (f" and {ignore_index} (unknown)" if ignore_index is not None else "")
            + f"; name the classes under '{key}.classes' or set '{key}.ignore_index'"
        )
