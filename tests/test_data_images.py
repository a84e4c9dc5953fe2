"""Pixels as they lie in the file: every orientation, mode, depth, compression and byte order, or one sentence."""

import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples
from PIL import Image

from lossbench.data.images import read_header, read_image, read_mask
from lossbench.errors import UserError

UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: np.rot90,
}
"""What EXIF's orientations ask a viewer to do."""
COMPRESSIONS = [None, "lzw", "deflate", "packbits", "zstd"]
GREY = (19595, 38470, 7471)


def pixels(seed: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    most = 2.0 if np.dtype(kind).kind == "f" else min(np.iinfo(kind).max, 2**31)
    return (np.random.default_rng(seed).random(shape) * most).astype(kind)


def tiff(file: Path, values: np.ndarray, orientation: int = 1, **options: Any) -> Path:
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(file, values, extratags=tags, metadata=None, **options)
    return file


def bands(image: np.ndarray) -> np.ndarray:
    return (image if image.ndim == 3 else image[..., None]).transpose(2, 0, 1)


SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))
LAYOUTS = {
    "L": ((), "minisblack", {}),
    "LA": ((2,), "minisblack", {"extrasamples": ["unassalpha"]}),
    "RGB": ((3,), "rgb", {}),
    "RGBA": ((4,), "rgb", {"extrasamples": ["unassalpha"]}),
    "RGB + NIR": ((4,), "rgb", {"extrasamples": ["unspecified"]}),
    "2 bands": ((2,), "minisblack", {"extrasamples": ["unspecified"]}),
    "RGB + A + NIR": ((5,), "rgb", {"extrasamples": ["unassalpha", "unspecified"]}),
    "7 bands": ((7,), "minisblack", {}),
}
KEPT = {"L": [0], "LA": [0], "RGB": [0, 1, 2], "RGBA": [0, 1, 2], "RGB + A + NIR": [0, 1, 2, 4]}
"""Bands that are no alpha; all others are kept whole."""


@settings(max_examples=examples(150), deadline=None)
@given(
    shape=SHAPES,
    layout=st.sampled_from(list(LAYOUTS)),
    kind=st.sampled_from([np.uint8, np.uint16]),
    orientation=st.integers(1, 8),
    compression=st.sampled_from(COMPRESSIONS),
    byteorder=st.sampled_from("<>"),
    tile=st.sampled_from([None, (16, 16)]),
    big=st.booleans(),
    apply=st.booleans(),
    planes=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_tiff_is_read_as_numpy_turns_its_raw_pixels(
    shape, layout, kind, orientation, compression, byteorder, tile, big, apply, planes, seed
) -> None:
    more, photometric, options = LAYOUTS[layout]
    raw = pixels(seed, (*shape, *more), kind)
    written, config = raw, "contig" if more else None
    if more and planes:
        written, config = raw.transpose(2, 0, 1), "separate"
    with tempfile.TemporaryDirectory() as folder:
        file = tiff(
            Path(folder) / "x.tif", written, orientation, photometric=photometric, planarconfig=config,
            compression=compression, byteorder=byteorder, tile=tile, bigtiff=big, **options,
        )  # fmt: skip
        how = "apply" if apply else "ignore"
        expected = bands(UPRIGHT[orientation](raw) if apply else raw)
        if layout in KEPT:
            expected = expected[KEPT[layout]]
        header = read_header(file, how)
        assert (header.channels, header.height, header.width) == expected.shape
        assert (header.dtype, header.orientation) == (np.dtype(kind).name, orientation)
        found = read_image(file, header.channels, None, "stretch", dtype=header.dtype, orientation=how)
        np.testing.assert_array_equal(found, expected)
        if layout == "L":
            np.testing.assert_array_equal(read_mask(file, None, "stretch", 0, how), expected[0])


@settings(max_examples=examples(120), deadline=None)
@given(
    shape=SHAPES,
    form=st.sampled_from(["PNG", "TIFF", "WEBP", "JPEG"]),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
    orientation=st.integers(1, 8),
    apply=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_pillow_writes_is_read_as_numpy_turns_it(shape, form, mode, orientation, apply, seed) -> None:
    """The oracle decodes the same file without its tag."""
    if mode == "I;16":
        image = Image.fromarray(pixels(seed, shape, np.uint16))
    else:
        image = Image.fromarray(pixels(seed, (*shape, 3), np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, tagged = io.BytesIO(), io.BytesIO()
    try:
        image.save(plain, form, lossless=True) if form == "WEBP" else image.save(plain, form)
    except (OSError, KeyError, ValueError):
        return  # the format has no such mode
    image.save(tagged, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    decoded = Image.open(plain)
    if mode != "I;16":
        decoded = decoded.convert("L" if decoded.mode in ("1", "L", "LA") else "RGB")
    raw = np.asarray(decoded)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x"
        file.write_bytes(tagged.getvalue())
        how = "apply" if apply else "ignore"
        expected = bands(UPRIGHT[orientation](raw) if apply else raw)
        header = read_header(file, how)
        assert (header.channels, header.height, header.width) == expected.shape
        found = read_image(file, header.channels, None, "stretch", dtype=header.dtype, orientation=how)
        np.testing.assert_array_equal(found, expected)


@each("orientation", range(1, 9))
def test_an_image_is_resized_after_it_was_turned(orientation: int, tmp_path: Path) -> None:
    raw = pixels(1, (32, 24, 3), np.uint8)
    for name, compression in (("none", None), ("lzw", "lzw"), ("jpeg", "jpeg")):
        file = tiff(tmp_path / f"{name}.tif", raw, orientation, photometric="rgb", compression=compression)
        whole = read_image(file, 3, None, "stretch").transpose(1, 2, 0)
        small = np.asarray(Image.fromarray(whole).resize((9, 7), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(read_image(file, 3, (7, 9), "stretch").transpose(1, 2, 0), small)
        assert whole.shape[:2] == ((24, 32) if orientation > 4 else (32, 24))


@pytest.mark.parametrize(
    ("kind", "wanted"), [(np.uint8, "uint16"), (np.uint16, "uint16"), (np.uint16, "uint8")]
)
def test_depths_are_brought_together_without_a_loss_of_scale(kind: type, wanted: str, tmp_path: Path) -> None:
    raw = pixels(0, (5, 6, 3), kind)
    file = tmp_path / "x.png"
    file.write_bytes(imagecodecs.png_encode(raw))
    assert read_header(file).dtype == np.dtype(kind).name
    found = read_image(file, 3, None, "stretch", dtype=wanted).transpose(1, 2, 0)
    share = raw / np.iinfo(kind).max
    assert np.abs(found / np.iinfo(wanted).max - share).max() <= 1 / 255
    if wanted == "uint16":
        np.testing.assert_allclose(found / 65535, share, atol=1e-9)


@settings(max_examples=examples(60), deadline=None)
@given(
    shape=SHAPES,
    kind=st.sampled_from(
        [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]
    ),
    low=st.integers(-2000, 2000),
    width=st.integers(1, 5000),
    count=st.sampled_from([1, 3, 4]),
)
def test_a_declared_range_becomes_the_whole_of_the_type(shape, kind, low, width, count) -> None:
    info = np.iinfo(kind) if np.dtype(kind).kind != "f" else None
    raw = np.random.default_rng(0).integers(low - 100, low + width + 100, (*shape, count))
    raw = raw.clip(info.min, info.max).astype(kind) if info else raw.astype(kind)
    with tempfile.TemporaryDirectory() as folder:
        layout = "contig" if count > 1 else None
        written = raw if count > 1 else raw[..., 0]
        file = tiff(Path(folder) / "x.tif", written, photometric="minisblack", planarconfig=layout)
        share = ((raw.astype(np.float64) - low) / width).clip(0, 1)
        for dtype, most in (("uint8", 255), ("uint16", 65535), ("float32", 1)):
            found = read_image(file, count, None, "stretch", dtype=dtype, span=(low, low + width))
            assert found.dtype == dtype
            step = 0.51 if most > 1 else 1e-6
            np.testing.assert_allclose(found, bands(share * most), atol=step)


def test_twelve_bits_in_sixteen_keep_their_depth(tmp_path: Path) -> None:
    raw = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(raw).save(tmp_path / "x.png")
    tiff(tmp_path / "x.tif", raw, photometric="minisblack", compression="deflate")
    for name in ("x.png", "x.tif"):
        kept = read_image(tmp_path / name, 1, None, "stretch", dtype="uint16")[0]
        np.testing.assert_array_equal(kept, raw)
        spread = read_image(tmp_path / name, 1, None, "stretch", dtype="uint16", span=(0, 4095))[0]
        assert len(np.unique(spread)) == 4096
        assert (spread.min(), spread.max()) == (0, 65535)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_mask_of_few_bits_counts_from_0(bits: int, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 2**bits, (8, 8)).astype(np.uint8)
    for form in ("L", "P"):
        image = Image.fromarray(raw, form)
        if form == "P":
            image.putpalette([7, 7, 7] * 256)
        image.save(tmp_path / "x.png", bits=bits)
        np.testing.assert_array_equal(read_mask(tmp_path / "x.png", None, "stretch", 0), raw)
    image = read_image(tmp_path / "x.png", 1, None, "stretch")
    assert image.max() == 7  # a palette's colours, where it is an image
    for levels in (2**bits - 1, 200):
        (tmp_path / "x.pgm").write_bytes(b"P5 8 8 %d\n" % levels + raw.tobytes())
        np.testing.assert_array_equal(read_mask(tmp_path / "x.pgm", None, "stretch", 0), raw)


def test_grey_of_deep_colours_is_weighed_as_that_of_shallow_ones(tmp_path: Path) -> None:
    raw = pixels(3, (6, 5, 3), np.uint16)
    tiff(tmp_path / "x.tif", raw, photometric="rgb")
    found = read_image(tmp_path / "x.tif", 1, None, "stretch", dtype="uint16")[0]
    np.testing.assert_allclose(found, raw @ (np.array(GREY) / 65536), atol=0.5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_with_a_further_band_become_as_many_as_are_wanted(channels: int, tmp_path: Path) -> None:
    raw = pixels(3, (6, 5, 4), np.uint8)
    tiff(tmp_path / "x.tif", raw, photometric="rgb", extrasamples=["unspecified"])
    found = read_image(tmp_path / "x.tif", channels, None, "stretch")
    colours = Image.fromarray(raw[..., :3])
    expected = {1: np.asarray(colours.convert("L")), 3: raw[..., :3], 4: raw}[channels]
    np.testing.assert_array_equal(found, bands(expected))
    with pytest.raises(UserError, match=r"x\.tif: 4 bands; 'channels: 5' cannot be made of that"):
        read_image(tmp_path / "x.tif", 5, None, "stretch")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("planes", [False, True])
def test_colours_multiplied_with_alpha_are_read_as_they_were(
    kind: type, planes: bool, tmp_path: Path
) -> None:
    raw = pixels(0, (6, 5, 4), kind)
    raw[..., 3] = raw[..., 3] // 2 + np.iinfo(kind).max // 2
    share = raw[..., 3:] / np.iinfo(kind).max
    raw[..., :3] = (raw[..., :3] * share).astype(kind)
    config = {"planarconfig": "separate" if planes else "contig", "extrasamples": ["assocalpha"]}
    tiff(tmp_path / "x.tif", raw.transpose(2, 0, 1) if planes else raw, photometric="rgb", **config)
    found = read_image(tmp_path / "x.tif", 3, None, "stretch", dtype=np.dtype(kind).name)
    np.testing.assert_allclose(found, bands(raw[..., :3] / share), atol=1)


def test_alpha_is_a_band_only_where_it_is_counted(tmp_path: Path) -> None:
    raw = pixels(3, (6, 5, 4), np.uint8)
    Image.fromarray(raw).save(tmp_path / "x.png")
    assert read_header(tmp_path / "x.png").channels == 3
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 4, None, "stretch"), bands(raw))


def frames(file: Path, **options: Any) -> Path:
    tifffile.imwrite(file, np.zeros((3, 8, 8), np.uint16), photometric="minisblack", **options)
    return file


def with_thumbnail(file: Path) -> Path:
    with tifffile.TiffWriter(file) as writer:
        writer.write(np.full((8, 8), 7, np.uint16), photometric="minisblack")
        writer.write(np.zeros((4, 4), np.uint16), photometric="minisblack", subfiletype=1)
    return file


def test_several_pictures_in_a_file_are_refused_and_a_thumbnail_is_none(tmp_path: Path) -> None:
    for number, options in enumerate(({}, {"imagej": True}, {"bigtiff": True}, {"metadata": None})):
        with pytest.raises(UserError, match="holds 3 pictures; expected one per file"):
            read_header(frames(tmp_path / f"{number}.tif", **options))
    found = read_image(with_thumbnail(tmp_path / "x.tif"), 1, None, "stretch", dtype="uint16")
    assert found.shape == (1, 8, 8)
    assert (found == 7).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((4, 4), np.float32), "floating-point pixels have no fixed range; say 'range: "),
        (np.zeros((4, 4), np.int16), "int16 pixels have no fixed range; say 'range: "),
        (np.zeros((4, 4), np.complex64), "pixels of type complex64"),
    ],
)
def test_values_without_a_scale_need_a_range(values: np.ndarray, says: str, tmp_path: Path) -> None:
    tiff(tmp_path / "x.tif", values, photometric="minisblack")
    with pytest.raises(UserError, match=says):
        read_image(tmp_path / "x.tif", 1, None, "stretch")


@each("compression", [None, "lzw", "deflate", "packbits"])
@each("kind", [np.uint8, np.uint16, np.float32])
@each("tile", [None, (16, 16)])
@each("share", [0.5, 0.95])
def test_half_a_tiff_is_no_image(compression, kind, tile, share, tmp_path: Path) -> None:
    raw = pixels(0, (64, 64), kind)
    options = {"rowsperstrip": 8} if tile is None else {"tile": tile}
    file = tiff(tmp_path / "x.tif", raw, photometric="minisblack", compression=compression, **options)
    read_image(file, 1, None, "stretch", dtype="float32", span=(0, 9))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"x\.tif: unreadable image"):
        read_image(file, 1, None, "stretch", dtype="float32", span=(0, 9))


def test_no_number_is_refused_even_within_a_range(tmp_path: Path) -> None:
    tiff(tmp_path / "x.tif", np.full((4, 4), np.nan, np.float32), photometric="minisblack")
    with pytest.raises(UserError, match=r"x\.tif: holds values that are no numbers"):
        read_image(tmp_path / "x.tif", 1, None, "stretch", dtype="float32", span=(0, 1))


@each("bits", [1, 4, 8, 16, 32])
@each("compression", [None, "deflate", "packbits"])
def test_a_mask_that_calls_0_white_is_read_as_shown_or_by_its_numbers(
    bits: int, compression: str | None, tmp_path: Path
) -> None:
    most = 2**bits - 1
    numbers = np.random.default_rng(bits).choice([0, 1, most], (6, 16))
    kind = bool if bits == 1 else {4: "uint8"}.get(bits, f"uint{bits}")
    for photometric in ("miniswhite", "minisblack"):
        file = tmp_path / f"{photometric}.tif"
        if bits == 4:  # which tifffile does not write: two numbers a byte
            packed = (numbers[:, ::2] << 4 | numbers[:, 1::2]).astype(np.uint8)
            four_bits(file, packed, numbers.shape, 0 if photometric == "miniswhite" else 1)
        else:
            tifffile.imwrite(file, numbers.astype(kind), photometric=photometric, compression=compression)
    white, black = (tmp_path / f"{one}.tif" for one in ("miniswhite", "minisblack"))
    assert (read_header(white).white_is_zero, read_header(black).white_is_zero) == (True, False)
    if bits == 32:  # no class has such a number
        with pytest.raises(UserError, match="mask values from"):
            read_mask(white, None, "stretch", 0)
        return
    np.testing.assert_array_equal(read_mask(white, None, "stretch", 0), most - numbers)
    np.testing.assert_array_equal(read_mask(white, None, "stretch", 0, white_is_zero="ignore"), numbers)
    for declared in ("apply", "ignore"):
        found = read_mask(black, None, "stretch", 0, white_is_zero=declared)  # type: ignore[arg-type]  # a literal
        np.testing.assert_array_equal(found, numbers)


def four_bits(file: Path, packed: np.ndarray, shape: tuple[int, int], photometric: int) -> None:
    """Write an uncompressed TIFF of 4-bit grey in one strip."""
    tags = [
        (256, 3, shape[1]), (257, 3, shape[0]), (258, 3, 4), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 3, shape[0]), (279, 4, packed.size),
    ]  # fmt: skip
    at = 8 + packed.size + packed.size % 2
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<I", at) + packed.tobytes().ljust(at - 8, b"\0")
    file.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))


@each("compression", ["jpeg2000", "png", "webp", "jpegxl", "jpeg", "lzma", "zstd"])
@each("tile", [None, (16, 16)])
def test_compressions_that_pillow_does_not_have_are_read(compression: str, tile: Any, tmp_path: Path) -> None:
    raw = pixels(3, (20, 30, 3), np.uint8)
    tiff(tmp_path / "x.tif", raw, 6, photometric="rgb", compression=compression, tile=tile)
    stored = tifffile.imread(tmp_path / "x.tif")  # some of them lose a little
    found = read_image(tmp_path / "x.tif", 3, None, "stretch").transpose(1, 2, 0)
    np.testing.assert_allclose(
        found.astype(int), np.rot90(stored, -1), atol=3 if compression == "jpeg" else 0
    )


def with_chunk(file: Path, name: bytes, content: bytes) -> Path:
    """Write a PNG with a block of metadata before its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(1, (5, 7, 3), np.uint8)).save(buffer, "PNG")
    whole = buffer.getvalue()
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    file.write_bytes(whole[:33] + chunk + whole[33:])  # after the signature and IHDR
    return file


@each("content", [b"", b"MM", b"nonsense", b"Exif\0\0nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08"])
@each("form", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_block_of_metadata_costs_no_image(form: str, content: bytes, tmp_path: Path) -> None:
    raw = pixels(1, (5, 7, 3), np.uint8)
    file = tmp_path / "x"
    if form == "PNG":
        with_chunk(file, b"eXIf", content)
    else:
        lossless = {"lossless": True} if form == "WEBP" else {}
        Image.fromarray(raw).save(file, form, exif=content or b"Exif\0\0", **lossless)
    assert read_header(file).orientation == 1
    found = read_image(file, 3, None, "stretch").transpose(1, 2, 0)
    assert found.shape == raw.shape
    if form != "JPEG":
        np.testing.assert_array_equal(found, raw)
