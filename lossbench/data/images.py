"""Reading a user's images: any common format, depth and orientation; one sentence where it fails."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lossbench.data.samples import Array
from lossbench.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Those whose readers start no other program and follow no reference."""
MAX_PIXELS = 2**26
"""67 million: a larger image is a decompression bomb, or wants cutting before it is trained on."""

Resize = Literal["stretch", "pad", "crop"]
Size = tuple[int, int]

# What Pillow's readers are known to raise on damaged bytes.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Header:
    """What an image says of itself, upright (EXIF orientation applied)."""

    width: int
    height: int
    channels: int


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open an image, upright; whatever is wrong with it becomes one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels are what counts
            with Image.open(file, formats=FORMATS) as image:
                _check(image, file)
                yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{file}: not an image Lossbench can read; allowed: {', '.join(FORMATS)}; move it elsewhere"
        ) from None
    except DAMAGE as error:
        text = str(error).removesuffix(f": '{file}'") or type(error).__name__
        raise UserError(f"{file}: unreadable image: {text}") from None


def _check(image: Image.Image, file: Path) -> None:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise UserError(
            f"{file}: {image.width}×{image.height} pixels; at most {MAX_PIXELS} are read "
            "(a larger one is taken for a decompression bomb)"
        )
    if image.mode == "F":
        raise UserError(f"{file}: floating-point pixels have no fixed range; save it with 8 or 16 bits")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's JPEG with a preview behind the picture
        raise UserError(f"{file}: holds {frames} pictures; expected one per file")


def read_header(file: Path) -> Header:
    """Read an image's size and channels without decoding its pixels."""
    with _opened(file) as image:
        width, height = image.size
        if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # lies on its side
            width, height = height, width
        return Header(width, height, 1 if _is_grey(image) else 3)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def read_image(file: Path, channels: int, size: Size | None, resize: Resize) -> Array:
    """Read an image as (channels, H, W) uint8.

    16-bit values are divided by 256; an alpha channel is dropped; colour turns to grey by ITU-R 601.

    Args:
        file: the image.
        channels: 1 or 3.
        size: (H, W) to resize to, or None to leave it.
        resize: how: stretch, pad with black, or crop the middle (see :func:`resized`).

    Raises:
        UserError: naming the file and what is wrong with it.

    """
    with _opened(file) as image:
        upright = _eight_bits(ImageOps.exif_transpose(image), file)
        coloured = upright.convert("RGB") if upright.mode == "P" else upright
        wanted = coloured.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(resized(wanted, size, resize, Image.Resampling.BILINEAR, 0))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _eight_bits(image: Image.Image, file: Path) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{file}: values from {values.min()} to {values.max()}; allowed: 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def read_mask(file: Path, size: Size | None, resize: Resize, fill: int) -> Array:
    """Read a mask's values as (H, W) integers: grey values or palette indices, never blended.

    Args:
        file: the mask.
        size: (H, W) to resize to by nearest neighbour, or None.
        resize: as for its image.
        fill: the value that padding gets.

    Raises:
        UserError: naming the file and what is wrong with it.

    """
    with _opened(file) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise UserError(
                f"{file}: a mask of mode {image.mode}; expected one value per pixel (grey or palette)"
            )
        # A palette's indices are the classes; its colours are only for the eye.
        values = np.asarray(ImageOps.exif_transpose(image))
        values = values.view(np.uint8) if values.dtype == bool else values
        if size is None or values.shape == tuple(size):
            return values  # in the type they have: most masks are bytes
        wide = Image.fromarray(values.astype(np.int32))
        return np.asarray(resized(wide, size, resize, Image.Resampling.NEAREST, fill))


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
