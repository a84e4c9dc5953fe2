"""From an image file to its bands as stored: any depth, any number of bands, and which way up they lie."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from lossbench.data.samples import Array
from lossbench.errors import UserError

if TYPE_CHECKING:
    import tifffile

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""Those whose readers start no other program and follow no reference."""
MAX_PIXELS = 2**26
"""67 million: a larger image is a decompression bomb, or wants cutting before it is trained on."""
MAX_VALUES = 2**28
"""Of all bands of one image, and of one tile of it."""
MOST_PAGES = 64
"""Of a TIFF that are looked at; more are pictures of their own."""
ORIENTATION = 0x0112
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF and BigTIFF begin, in both byte orders."""
ASSOCIATED = 1
ALPHA = (ASSOCIATED, 2)
"""Values of TIFF's ExtraSamples that say alpha; all others are bands like the rest."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3
PILLOWS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
"""TIFF's compressions that Pillow's wheels decode; JPEG 2000, PNG, WebP and JPEG XL within a TIFF are not."""
SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, 5: 4, 6: 3, 8: 3}
"""TIFF's photometric interpretation → samples of a pixel; 5 is CMYK, 6 YCbCr, 8 CIE L*a*b*."""

# What Pillow's, tifffile's and imagecodecs' readers are known to raise on damaged bytes.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Stored:
    """What a file says of its pixels, before they are decoded.

    Attributes:
        width: as stored, before any turning.
        height: likewise.
        bands: without alpha; 3 where a palette or inks become colour.
        rgb: the first three bands are red, green and blue.
        dtype: of a pixel's values, as NumPy names it.
        orientation: as EXIF counts, 1 to 8; 1 where nothing valid is said.
        mode: what to call it in a message.
        levels: the largest value the file can hold, where that is less than its type's (4-bit grey: 15).
        black: the number that is black in a TIFF of grey where 0 is white; such are decoded as shown,
            black as 0.

    """

    width: int
    height: int
    bands: int
    rgb: bool
    dtype: str
    orientation: int
    mode: str
    levels: int | None = None
    black: int | None = None


@dataclass(frozen=True)
class Decoded:
    """An image's values (H, W, S) as stored, not turned; alpha, if there is any, comes last.

    ``palette`` is (entries, 3), the colours of a mask's indices, where the file has such.
    """

    values: Array
    stored: Stored
    palette: Array | None = None


@contextmanager
def sentences(file: Path) -> Iterator[None]:
    """Turn whatever is wrong with an image into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; the pixels are what counts
            yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{file}: not an image Lossbench can read; allowed: {', '.join(FORMATS)}; move it elsewhere"
        ) from None
    except DAMAGE as error:
        text = " ".join(str(error).removesuffix(f": '{file}'").split())[:300] or type(error).__name__
        raise UserError(f"{file}: unreadable image: {text}") from None


def inspect(file: Path) -> Stored:
    """Read what a file says of its pixels, without decoding them where its format allows."""
    with sentences(file), file.open("rb") as stream:
        if _is_tiff(stream):
            with _tiff(stream) as page:
                return _tiff_stored(page, file)
        with Image.open(stream, formats=FORMATS) as image:
            return _stored(image, _raw(image), file)


def decode(file: Path, colours: bool = True) -> Decoded:
    """Decode a file.

    Args:
        file: the image.
        colours: a palette's entries become their colours, inks become RGB, few levels are spread over all of
            their type; False keeps indices and levels as they are, for a mask.

    Raises:
        UserError: naming the file and what is wrong with it.

    """
    # Always by a file object: by name, Pillow maps an uncompressed TIFF in its turned shape.
    with sentences(file), file.open("rb") as stream:
        if _is_tiff(stream):
            with _tiff(stream) as page:
                stored = _tiff_stored(page, file)
                if not _within_pillow(page):
                    return Decoded(_tiff_values(page, stored, colours), stored)
            stream.seek(0)
            with Image.open(stream, formats=("TIFF",)) as image:
                values = _values(image, stored, colours)  # Pillow turns TIFFs itself
                return Decoded(turned_back(values, stored.orientation), stored, _palette(image, colours))
        with Image.open(stream, formats=FORMATS) as image:
            raw = _raw(image)  # decoding forgets it
            stored = _stored(image, raw, file)
            values = _deep_values(raw, stored, stream) if raw.deep else _values(image, stored, colours)
            return Decoded(values, stored, _palette(image, colours))


def turned(values: Array, orientation: int) -> Array:
    """Turn (H, W, …) upright, as EXIF orientation says."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def turned_back(values: Array, orientation: int) -> Array:
    """Undo :func:`turned`."""
    return turned(values, {6: 8, 8: 6}.get(orientation, orientation))


def _is_tiff(stream: IO[bytes]) -> bool:
    found = stream.read(4) in TIFF
    stream.seek(0)
    return found


# -- PNG, JPEG and the like, by Pillow -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Raw:
    """How pixels lie in the file: Pillow's codec and raw mode, where they begin, a PPM's largest value."""

    codec: str
    mode: str
    offset: int
    most: int | None

    @property
    def deep(self) -> bool:
        """Whether Pillow would drop the lower half: 16-bit colours, or 16-bit grey with alpha."""
        colours = self.mode.startswith("RGB") or self.mode.startswith("LA")
        return colours and (";16" in self.mode or (self.most or 0) > 255)


def _raw(image: Image.Image) -> _Raw:
    tiles = getattr(image, "tile", [])
    if not tiles or image.format not in ("PNG", "PPM"):
        return _Raw("", "", 0, None)
    codec, _, offset, args = tiles[0]
    if isinstance(args, tuple):
        return _Raw(codec, str(args[0]), offset, next((one for one in args if isinstance(one, int)), None))
    return _Raw(codec, str(args), offset, None)


def _stored(image: Image.Image, raw: _Raw, file: Path) -> Stored:
    check_pixels(image.width, image.height, file)
    if image.format == "TIFF":
        raise UserError(f"{file}: unreadable image: begins like a TIFF, but not as the standard has it")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's JPEG with a preview behind the picture
        raise UserError(f"{file}: holds {frames} pictures; expected one per file")
    dtype, levels = "uint8", None
    if raw.deep or image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
        dtype = "uint16"
    elif image.mode in ("I", "F"):
        dtype = {"I": "int32", "F": "float32"}[image.mode]
    if image.format == "PPM" and image.mode in ("L", "I") and raw.most not in (None, 0, 255, 65535):
        levels = raw.most
    elif image.mode == "L" and raw.mode in ("L;2", "L;4"):
        levels = 2 ** int(raw.mode[2:]) - 1
    bands = 1 if raw.mode.startswith("LA") else _bands(image.mode)
    width, height = image.size
    orientation = _orientation(image)
    return Stored(width, height, bands, bands == 3, dtype, orientation, image.mode, levels)


def check_pixels(width: int, height: int, file: Path) -> None:
    """Refuse decompression bombs."""
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{file}: {width}×{height} pixels; at most {MAX_PIXELS} are read "
            "(a larger one is taken for a decompression bomb)"
        )


def _orientation(image: Image.Image) -> int:
    """What the file says; a damaged block of EXIF says nothing, and the pixels are whole."""
    try:
        return _valid(image.getexif().get(ORIENTATION, 1))
    except (SyntaxError, struct.error):
        return 1


def _valid(orientation: Any) -> int:
    return int(orientation) if orientation in range(1, 9) else 1


def _bands(mode: str) -> int:
    return 1 if mode in ("1", "L", "LA", "La", "F") or mode.startswith("I") else 3


def _values(image: Image.Image, stored: Stored, colours: bool) -> Array:
    """(H, W, S) of what Pillow reads without loss."""
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    elif image.mode == "1" and colours:
        image = image.convert("L")
    elif _bands(image.mode) == 3 and image.mode not in ("RGB", "RGBA") and (colours or image.mode != "P"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if stored.dtype == "uint16" or values.dtype == np.bool_:
        values = values.astype(stored.dtype)
    if not colours and stored.levels is not None:
        values = np.rint(values * (stored.levels / np.iinfo(values.dtype).max)).astype(values.dtype)
    return values if values.ndim == 3 else values[..., None]


def _palette(image: Image.Image, colours: bool) -> Array | None:
    """(entries, 3) uint8 of the indices that were kept."""
    found = image.getpalette("RGB") if image.mode == "P" and not colours else None
    return None if found is None else np.array(found, np.uint8).reshape(-1, 3)


def _deep_values(raw: _Raw, stored: Stored, stream: IO[bytes]) -> Array:
    """(H, W, S) uint16 of colours that Pillow would cut down to 8 bits."""
    stream.seek(0)
    content = stream.read()
    if raw.codec == "zip":
        import imagecodecs

        values: Array = imagecodecs.png_decode(content)
    elif raw.codec == "ppm":
        count = stored.width * stored.height * 3
        values = np.frombuffer(content, ">u2", count, raw.offset).reshape(stored.height, stored.width, 3)
    else:
        raise UserError(f"{stream.name}: 16-bit colours written as text; save it as a binary PPM or PNG")
    if values.ndim != 3 or values.shape[:2] != (stored.height, stored.width) or values.dtype.itemsize != 2:
        raise ValueError(f"pixels of shape {values.shape}")
    return _spread(values.astype(np.uint16), raw.most or 65535)


def _unmultiplied(values: Array, bands: int, alpha: int, stored: Stored) -> Array:
    """Colours as they were before they were multiplied with alpha, as Pillow gives those of 8 bits."""
    full = (stored.levels or np.iinfo(values.dtype).max) if stored.dtype.startswith("uint") else 1
    share = values[..., bands + alpha, None].astype(np.float64)
    colours = np.divide(
        values[..., :bands] * float(full), share, where=share > 0, out=values[..., :bands] * 1.0
    )
    colours = colours if full == 1 else np.rint(colours.clip(0, full))
    return np.concatenate([colours.astype(values.dtype), values[..., bands:]], axis=2)


def _spread(values: Array, levels: int) -> Array:
    """Spread 0…levels over all of the type, as Pillow does for few bits."""
    full = np.iinfo(values.dtype).max
    if levels == full:
        return values
    return np.rint(np.minimum(values, levels) * (full / levels)).astype(values.dtype)


# -- TIFF ----------------------------------------------------------------------------------------------------


@contextmanager
def _tiff(stream: IO[bytes]) -> Iterator["tifffile.TiffPage"]:
    """Open the one picture of a TIFF."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is raised
    with tifffile.TiffFile(stream, name="") as tiff:
        count = len(tiff.pages)
        pages = [tiff.pages[number].aspage() for number in range(min(count, MOST_PAGES))]
        # A thumbnail or a smaller copy is no picture of its own, nor is a mask of transparency.
        whole = [page for page in pages if not (page.is_reduced or page.is_mask)] or pages[:1]
        stacked = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
        frames = max(len(whole) + count - len(pages), stacked)
        if frames > 1:
            raise UserError(f"{stream.name}: holds {frames} pictures; expected one per file")
        yield whole[0]


def _extra(page: "tifffile.TiffPage") -> tuple[int, ...]:
    """ExtraSamples, one for each sample beyond the colours; 0 (unspecified) where the file says nothing."""
    beyond = max(0, page.samplesperpixel - SAMPLES.get(int(page.photometric), page.samplesperpixel))
    tag = page.tags.get(338)
    value = () if tag is None else tag.value
    said = tuple(int(one) for one in (value if isinstance(value, tuple) else (value,)))[:beyond]
    return said + (0,) * (beyond - len(said))


def _within_pillow(page: "tifffile.TiffPage") -> bool:
    """Whether Pillow reads all of it: at most 8 bits, unsigned, known colours with at most alpha beside."""
    extra, file, photometric = _extra(page), page.parent, int(page.photometric)
    planes = int(page.planarconfig) == 2 and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
    return (
        photometric in SAMPLES
        and int(page.compression) in PILLOWS
        and not planes  # of grey with alpha it reads none
        and not (file.is_bigtiff and file.byteorder == ">")  # nor these
        and page.bitspersample in (1, 2, 4, 8)
        and int(page.sampleformat) in (1, 4)
        and (not extra or (len(extra) == 1 and extra[0] in ALPHA))
    )


def _tiff_stored(page: "tifffile.TiffPage", file: Path) -> Stored:
    width, height, bits, samples = page.imagewidth, page.imagelength, page.bitspersample, page.samplesperpixel
    check_pixels(width, height, file)
    if min(width, height, samples) < 1:
        raise UserError(f"{file}: unreadable image: {width}×{height} pixels of {samples} samples")
    photometric, simple = int(page.photometric), _within_pillow(page)
    grey = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    if not (simple or grey or photometric == RGB):
        name = getattr(page.photometric, "name", photometric)
        raise UserError(
            f"{file}: a TIFF of colours {name} with {samples} samples of {bits} bits; allowed: grey, RGB and "
            "further bands of any depth, other colours with 8 bits"
        )
    dtype = "uint8" if simple else _tiff_type(page, file)
    bands = (1 if grey else 3) if simple else samples - sum(one in ALPHA for one in _extra(page))
    few = dtype.startswith("uint") and bits < 8 * np.dtype(dtype).itemsize
    by_pillow = simple and (bits == 1 or not grey)  # truth values, and a palette's indices, need no levels
    tag = page.tags.get(ORIENTATION)
    return Stored(
        width,
        height,
        bands,
        photometric == RGB or (simple and not grey),
        dtype,
        _valid(1 if tag is None else tag.value),
        _tiff_mode(photometric, samples),
        2**bits - 1 if few and not by_pillow else None,
        2**bits - 1 if photometric == WHITE_IS_ZERO and dtype.startswith("uint") else None,
    )


def _tiff_mode(photometric: int, samples: int) -> str:
    if photometric == PALETTE:
        return "P"
    return "L" if samples == 1 else "RGB" if (photometric, samples) == (RGB, 3) else f"{samples} bands"


def _tiff_type(page: "tifffile.TiffPage", file: Path) -> str:
    kind = page.dtype
    if kind is None or kind.kind not in "buif" or page.shaped[1] != 1:
        raise UserError(f"{file}: pixels of type {kind} in {page.shape}; allowed: integers, floating point")
    most = max(page.samplesperpixel * page.imagewidth * page.imagelength, int(np.prod(page.chunks)))
    if most > MAX_VALUES:
        raise UserError(f"{file}: {most} values at once; at most {MAX_VALUES} are read")
    return "uint8" if kind.kind == "b" else str(np.dtype(kind).newbyteorder("="))


def _tiff_values(page: "tifffile.TiffPage", stored: Stored, colours: bool) -> Array:
    """(H, W, S) of what Pillow does not read, or not all of."""
    pieces = int(np.prod(page.chunked))
    if len(page.dataoffsets) < pieces:  # those missing would come out black
        raise ValueError(f"{len(page.dataoffsets)} of {pieces} strips or tiles are there")
    found = page.asarray(squeeze=False, maxworkers=1)  # (separate samples, 1, H, W, samples together)
    values = found[:, 0].transpose(1, 2, 0, 3).reshape(stored.height, stored.width, page.samplesperpixel)
    extra = _extra(page)
    first = page.samplesperpixel - len(extra)
    alphas = [first + place for place, one in enumerate(extra) if one in ALPHA]
    others = [place for place in range(page.samplesperpixel) if place not in alphas]
    values = np.ascontiguousarray(values[..., others + alphas], stored.dtype)
    if stored.dtype.startswith("uint") and int(page.photometric) == WHITE_IS_ZERO:
        values = (stored.levels or np.iinfo(values.dtype).max) - values
    if ASSOCIATED in extra:
        values = _unmultiplied(values, len(others), alphas.index(first + extra.index(ASSOCIATED)), stored)
    return _spread(values, stored.levels) if colours and stored.levels is not None else values
