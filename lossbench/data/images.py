"""Reading a user's images: any common format, depth and orientation; one sentence where it fails."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from lossbench.data.decoding import (
    DAMAGE,
    FORMATS,
    MAX_PIXELS,
    Decoded,
    Stored,
    decode,
    inspect,
    sentences,
    turned,
)
from lossbench.data.samples import Array
from lossbench.errors import UserError

__all__ = [
    "DAMAGE", "FORMATS", "MAX_PIXELS", "Coloured", "Header", "Orientation", "Range", "Resize", "Size",
    "WhiteIsZero", "no_range", "read_header", "read_image", "read_mask", "read_weights", "resized",
    "resized_weights",
]  # fmt: skip

Resize = Literal["stretch", "pad", "crop"]
Orientation = Literal["apply", "ignore"]
WhiteIsZero = Literal["apply", "ignore"]
Size = tuple[int, int]
Range = tuple[float, float]
Coloured = Callable[[Path, Array, Array | None], Array]


@dataclass(frozen=True)
class Header:
    """What an image says of itself, the way up it is read.

    Attributes:
        width: in pixels.
        height: likewise.
        channels: bands, alpha not counted.
        dtype: of its values on disk: uint8, uint16, or one that needs a range (int16, float32, …).
        orientation: as EXIF counts, 1 (upright) to 8, whether applied or not.
        white_is_zero: a TIFF of grey in which the number 0 is white.

    """

    width: int
    height: int
    channels: int
    dtype: str = "uint8"
    orientation: int = 1
    white_is_zero: bool = False


def read_header(file: Path, orientation: Orientation = "apply") -> Header:
    """Read an image's size, channels and depth without decoding its pixels, where the format allows."""
    stored = inspect(file)
    width, height = stored.width, stored.height
    if orientation == "apply" and stored.orientation in (5, 6, 7, 8):  # lies on its side
        width, height = height, width
    return Header(width, height, stored.bands, stored.dtype, stored.orientation, stored.black is not None)


def read_image(
    file: Path,
    channels: int,
    size: Size | None,
    resize: Resize,
    *,
    dtype: str = "uint8",
    orientation: Orientation = "apply",
    span: Range | None = None,
    clipped: Callable[[int], None] = lambda _: None,
) -> Array:
    """Read an image as (channels, H, W).

    Alpha is dropped, unless ``channels`` counts it; colour turns to grey by ITU-R 601, grey to three equal
    bands; of RGB with further bands, 3 takes the colours.

    Args:
        file: the image.
        channels: bands wanted.
        size: (H, W) to resize to, or None to leave it.
        resize: how: stretch, pad with black, or crop the middle (see :func:`resized`).
        dtype: uint8, uint16 or float32 (0..1). Without ``span``, 8-bit values times 257 become 16-bit ones,
            whose upper half makes 8-bit ones.
        orientation: apply the file's tag, or ignore it.
        span: (lowest, highest) value, which become 0 and the type's largest; those beyond are clipped.
        clipped: told how many were.

    Raises:
        UserError: naming the file and what is wrong with it.

    """
    with sentences(file):
        decoded = decode(file)
        values = _banded(decoded, channels, file)
        if orientation == "apply":
            values = turned(values, decoded.stored.orientation)
        values = _resized_bands(_of_depth(values, dtype, span, file, clipped), size, resize)
    return values.transpose(2, 0, 1)


def _banded(decoded: Decoded, wanted: int, file: Path) -> Array:
    values, stored = decoded.values, decoded.stored
    if wanted == stored.bands:
        return values[..., : stored.bands]
    if wanted == values.shape[2]:
        return values  # alpha counted
    if wanted == 3 and stored.rgb:
        return values[..., :3]
    if wanted == 3 and stored.bands == 1:
        return values[..., :1].repeat(3, axis=2)
    if wanted == 1 and stored.rgb:
        return _grey(values[..., :3])
    raise UserError(f"{file}: {_bands(stored)}; 'channels: {wanted}' cannot be made of that")


def _bands(stored: Stored) -> str:
    return {1: "grey", 3: "colour"}.get(stored.bands, f"{stored.bands} bands")


def _grey(values: Array) -> Array:
    """ITU-R 601, by the weights that Pillow has for 8 bits."""
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(values)).convert("L"))[..., None]
    weights = np.array([19595, 38470, 7471]) / 65536
    grey = values @ weights
    return (grey if values.dtype.kind == "f" else np.rint(grey)).astype(values.dtype)[..., None]


def _of_depth(
    values: Array, dtype: str, span: Range | None, file: Path, clipped: Callable[[int], None]
) -> Array:
    if span is not None:
        clipped(int(np.count_nonzero((values < span[0]) | (values > span[1]))))
        return _within(values, dtype, span, file)
    match str(values.dtype), dtype:
        case have, want if have == want and have in ("uint8", "uint16"):
            return values
        case "uint8", "uint16":
            return values.astype(np.uint16) * np.uint16(257)
        case "uint16", "uint8":
            return (values >> 8).astype(np.uint8)
    raise UserError(no_range(file, str(values.dtype)))


def no_range(file: Path, dtype: str, key: str = "") -> str:
    """Say that an image needs a range."""
    kind = "floating-point" if dtype.startswith("float") else dtype
    name = f"{key}.range" if key else "range"
    return f"{file}: {kind} pixels have no fixed range; say '{name}: [lowest, highest]'"


def _within(values: Array, dtype: str, span: Range, file: Path) -> Array:
    low, high = span
    wide: Array = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    if np.isnan(wide).any():
        raise UserError(f"{file}: holds values that are no numbers (NaN)")
    share = np.clip((wide - low) / (high - low), 0, 1)
    return (
        share.astype(np.float32) if dtype == "float32" else np.rint(share * np.iinfo(dtype).max).astype(dtype)
    )


def _resized_bands(values: Array, size: Size | None, resize: Resize) -> Array:
    """Resize (H, W, C), bilinearly."""
    if size is None or values.shape[:2] == tuple(size):
        return values
    if values.dtype == np.uint8 and values.shape[2] == 3:
        image = Image.fromarray(np.ascontiguousarray(values))
        return np.asarray(resized(image, size, resize, Image.Resampling.BILINEAR, 0))
    return np.stack([_resized_band(values[..., one], size, resize) for one in range(values.shape[2])], axis=2)


def _resized_band(values: Array, size: Size, resize: Resize) -> Array:
    deep = values.dtype != np.uint8
    image = Image.fromarray(np.ascontiguousarray(values, np.float32 if deep else None))
    found = np.asarray(resized(image, size, resize, Image.Resampling.BILINEAR, 0))
    return np.rint(found).astype(np.uint16) if values.dtype == np.uint16 else found


def read_mask(
    file: Path,
    size: Size | None,
    resize: Resize,
    fill: int,
    orientation: Orientation = "apply",
    white_is_zero: WhiteIsZero = "apply",
    coloured: Coloured = lambda _, values, __: values,
) -> Array:
    """Read a mask's values as (H, W) integers: grey values or palette indices, never blended.

    Grey values of few bits count from 0 on, however a viewer would spread them. Colours of which each is a
    grey (red, green and blue alike) are read as grey values.

    Args:
        file: the mask.
        size: (H, W) to resize to by nearest neighbour, or None.
        resize: as for its image.
        fill: the value that padding gets.
        orientation: apply the file's tag, or ignore it.
        white_is_zero: of a TIFF that calls 0 white, apply that, as viewers do (black is 0), or take the
            numbers as they are stored.
        coloured: is handed the file, its values and its palette (None where it has none), and returns the
            values.

    Raises:
        UserError: naming the file and what is wrong with it.

    """
    with sentences(file):
        decoded, values = _numbers(file, orientation, "a mask")
        stored = decoded.stored
        if values.dtype.kind not in "bui":
            raise UserError(f"{file}: a mask of {stored.dtype} values; expected whole numbers, a class each")
        if values.min() < -(2**31) or values.max() >= 2**31:
            raise UserError(f"{file}: mask values from {values.min()} to {values.max()}; allowed: 0 to 65535")
        if stored.black is not None and white_is_zero == "ignore":
            values = (stored.black - values).astype(values.dtype)
        # A palette's indices are the classes; its colours are only for the eye.
        values = coloured(file, values, decoded.palette)
        if size is None or values.shape == tuple(size):
            return values  # in the type they have: most masks are bytes
        wide = Image.fromarray(np.ascontiguousarray(values, np.int32))
        return np.asarray(resized(wide, size, resize, Image.Resampling.NEAREST, fill))


def read_weights(file: Path, orientation: Orientation = "apply") -> Array:
    """Read a number for each pixel as (H, W): grey values of any depth, or a TIFF's floating point.

    Raises:
        UserError: naming the file and what is wrong with it.

    """
    with sentences(file):
        return _numbers(file, orientation, "weights")[1]


def resized_weights(values: Array, size: Size | None, resize: Resize) -> Array:
    """Resize (H, W) by nearest neighbour along with its image; what padding adds weighs 0."""
    if size is None or values.shape == tuple(size):
        return values
    # Places, not numbers: no mode of Pillow's holds all of them.
    places = Image.fromarray(np.arange(1, values.size + 1, dtype=np.int32).reshape(values.shape))
    wanted = np.asarray(resized(places, size, resize, Image.Resampling.NEAREST, 0))
    found: Array = np.concatenate([np.zeros(1, values.dtype), values.reshape(-1)])[wanted]
    return found


def _numbers(file: Path, orientation: Orientation, what: str) -> tuple[Decoded, Array]:
    """Decode a picture of one number per pixel, (H, W), the way up it is read."""
    decoded = decode(file, colours=False)
    values = _one_band(decoded, file, what)
    if orientation == "apply":
        values = turned(values, decoded.stored.orientation)
    return decoded, values[..., 0].view(np.uint8) if values.dtype == bool else values[..., 0]


def _one_band(decoded: Decoded, file: Path, what: str) -> Array:
    """Return a mask's values (H, W, 1), or weights: of grey written as colours or beside an opaque alpha too.

    Raises:
        UserError: for colours, alpha that hides something, and other bands, naming a pixel of the first two.

    """
    values, stored = decoded.values, decoded.stored
    if values.shape[2] == 1:
        return values
    said = f"{file}: {what} of mode {stored.mode}"
    if stored.bands != 1 and not (stored.rgb and stored.bands == 3):
        raise UserError(f"{said}; expected one value per pixel (grey or palette)")
    tinted = (values[..., : stored.bands] != values[..., :1]).any(axis=2)
    hidden = (values[..., stored.bands :] != _opaque(values)).any(axis=2)
    for odd, why in ((tinted, "which is no grey"), (hidden, "of which alpha is not opaque")):
        if odd.any():
            row, column = np.argwhere(odd)[0].tolist()
            pixel = tuple(values[row, column].tolist())
            raise UserError(
                f"{said}; expected one value per pixel (grey or palette), found {pixel} in row {row}, "
                f"column {column}, {why}"
            )
    return values[..., :1]


def _opaque(values: Array) -> Any:
    return np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1


def resized(
    image: Image.Image, size: Size | None, resize: Resize, method: Image.Resampling, fill: int
) -> Image.Image:
    """Resize to (H, W).

    stretch changes the aspect; pad keeps all of the picture and fills the rest; crop keeps its middle.
    """
    if size is None or (image.height, image.width) == tuple(size):
        return image
    target = (size[1], size[0])
    if resize == "stretch":
        return image.resize(target, method)
    if resize == "crop":
        return ImageOps.fit(image, target, method)
    shrunk = ImageOps.contain(image, target, method)
    canvas = Image.new(image.mode, target, fill if len(image.getbands()) == 1 else (fill,) * 3)
    canvas.paste(shrunk, ((target[0] - shrunk.width) // 2, (target[1] - shrunk.height) // 2))
    return canvas
