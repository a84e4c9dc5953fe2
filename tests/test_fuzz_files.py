"""Files of any bytes: images, masks, IDX, CIFAR's forms and archives are read or refused in a sentence."""

import contextlib
import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from data_cases import idx
from fuzz_cases import damaged, fuzzed, sandbox
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from lossbench.data.images import read_header, read_image, read_mask
from lossbench.data.sources import obtaining
from lossbench.data.sources.cifar import SHA1, reader_of, unpickled
from lossbench.data.sources.idx import read_idx
from lossbench.data.sources.obtaining import unpack
from lossbench.errors import UserError


def encoded(form: str, mode: str, **options: object) -> bytes:
    """An image of 12×9 in a format."""
    values = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def with_metadata() -> dict[str, object]:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "x" * 40, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"pnginfo": text, "exif": exif}


def tiff(bands: int, kind: type, **options: object) -> bytes:
    """A TIFF that Pillow alone does not read."""
    stream = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 200, (9, 12, bands)).astype(kind)
    layout = "contig" if bands > 1 else None
    tifffile.imwrite(stream, values.squeeze(), photometric="minisblack", planarconfig=layout, **options)
    return stream.getvalue()


IMAGES = [
    encoded("PNG", "RGB", **with_metadata()), encoded("PNG", "L"), encoded("PNG", "P"), encoded("PNG", "RGBA"),
    encoded("PNG", "1"), encoded("PNG", "I;16"), encoded("JPEG", "RGB"), encoded("JPEG", "L", progressive=True),
    encoded("JPEG", "CMYK"), encoded("BMP", "RGB"), encoded("TIFF", "RGB"), encoded("TIFF", "L", compression="tiff_lzw"),
    encoded("TIFF", "RGB", compression="jpeg"), encoded("WEBP", "RGB"), encoded("GIF", "P"), encoded("PPM", "RGB"),
    tiff(5, np.uint16, compression="lzw"), tiff(1, np.uint16, compression="deflate", predictor=True), tiff(4, np.uint8),
    tiff(1, np.float32, tile=(16, 16)), tiff(2, np.uint8, bigtiff=True), tiff(3, np.uint16, byteorder=">"),
    imagecodecs.png_encode(np.full((9, 12, 3), 300, np.uint16)), b"P6 2 2 1000\n" + bytes(24),
]  # fmt: skip


@fuzzed(quick=50, long=1500, content=damaged(*IMAGES) | st.binary(max_size=64))
def test_an_image_of_any_bytes_is_read_or_refused_by_name(content: bytes) -> None:
    with sandbox() as folder:
        file = folder / "some.png"
        file.write_bytes(content)
        for read in (
            lambda: read_header(file),
            lambda: read_image(file, 3, (8, 8), "pad"),
            lambda: read_image(file, 1, None, "stretch"),
            lambda: read_image(file, 5, (8, 8), "crop", dtype="uint16"),
            lambda: read_image(
                file, 1, None, "stretch", dtype="float32", span=(0, 1000), orientation="ignore"
            ),
            lambda: read_mask(file, (8, 8), "crop", 0),
        ):
            try:
                read()
            except UserError as refusal:
                assert str(refusal).startswith(f"{file}: ")
                assert len(str(refusal)) < 1000


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises a size; its pixels are nearly nothing."""
    content = bytearray(encoded("PNG", "RGB"))
    import struct
    import zlib

    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (60_000, 60_000), (8193, 8192), (0, 0), (0, 5)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    for read in (read_header, lambda file: read_image(file, 3, None, "stretch")):
        with pytest.raises(UserError, match=r"bomb\.png"):
            read(tmp_path / "bomb.png")


IDX = [idx(np.zeros((3, 4, 5))), idx(np.arange(7)), idx(np.zeros((0, 4, 5)))]
SIZES = st.binary(min_size=12, max_size=12).map(lambda sizes: bytes([0, 0, 8, 3]) + sizes)


@fuzzed(content=damaged(*IDX) | SIZES | st.binary(max_size=32), dimensions=st.sampled_from([1, 3]))
def test_an_idx_file_of_any_bytes_is_read_whole_or_refused_by_name(content: bytes, dimensions: int) -> None:
    with contextlib.suppress(UserError):
        assert read_idx(content, dimensions, "some").nbytes <= len(content)


PICKLES = [
    pickle.dumps({b"labels": [1, 2], b"data": np.zeros((2, 6), np.uint8)}, protocol=protocol)
    for protocol in (0, 2, 4, 5)
]


@fuzzed(quick=50, long=2000, content=damaged(*PICKLES) | st.binary(max_size=64))
def test_a_python_batch_of_any_bytes_runs_nothing(content: bytes) -> None:
    with sandbox(), contextlib.suppress(UserError):
        unpickled(content, "data_batch_1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x96"
        + (2**35).to_bytes(8, "little"),  # a bytearray of 32 GiB is announced, and nothing follows
        b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b".",  # place 2³¹ − 1 of a memo that is an array
    ],
    ids=["bytearray", "memo"],
)
def test_a_pickle_that_announces_gigabytes_takes_none(content: bytes) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "from lossbench.data.sources.cifar import unpickled\n"
        f"unpickled({content!r}, 'data_batch_1')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.splitlines()[-1].startswith(
        "lossbench.errors.UserError: CIFAR-10 data_batch_1: not a Python"
    )


class Evil:
    """Unpickling it makes a folder, where pickles are trusted."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, ("made",)


def test_a_pickle_that_names_a_function_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"not a Python batch as published: it names posix\.mkdir"):
        unpickled(pickle.dumps({b"labels": Evil(), b"data": 0}), "data_batch_1")
    assert not (tmp_path / "made").exists()


JSON = [
    json.dumps(list(range(9))).encode(),
    b"[" * 200_000,
    b"{}",
    b"[[1]]",
    b"[1e999]",
    b"[-1]",
    b"[256]",
    b'["a"]',
    b"9" * 5000,
]


@fuzzed(
    form=st.sampled_from(
        ["data_batch_1.bin", "data_batch_1.png", "cifar-10-python.tar.gz", "cifar-10-batches-py"]
    ),
    content=damaged(encoded("PNG", "RGB")) | st.sampled_from([png_of(1024, 10_000), png_of(60_000, 60_000)]),
    labels=st.sampled_from(JSON) | damaged(JSON[0]),
)
def test_a_folder_of_cifar_batches_of_any_bytes_is_refused(form: str, content: bytes, labels: bytes) -> None:
    with sandbox() as folder:
        if form == "cifar-10-batches-py":
            (folder / form).mkdir()
            form += "/data_batch_1"
        (folder / form).write_bytes(content)
        (folder / "train_lables.json").write_bytes(labels)
        read = reader_of(folder, ours=False)
        assert read is not None
        with contextlib.suppress(UserError):
            read(next(iter(SHA1)))


def archive_of(*members: tuple[str, bytes, bytes, str]) -> bytes:
    """A tar of (name, type, content, link target)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, kind, content, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


NAMES = st.sampled_from(
    ["package/a", "../out", "/tmp/out", "package/../../out", "package", "a\nb", "package/a/b", ".", ""]
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
MEMBERS = st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=9), NAMES), max_size=5)


@fuzzed(members=MEMBERS)
def test_an_archive_of_any_members_writes_nothing_outside(
    members: list[tuple[str, bytes, bytes, str]],
) -> None:
    with sandbox() as folder:
        file = folder / "some.tgz"
        file.write_bytes(
            archive_of(*[(n, k, c if k == tarfile.REGTYPE else b"", t) for n, k, c, t in members])
        )
        with contextlib.suppress(UserError):
            unpack(file, folder / "into")
        assert {one.name for one in folder.iterdir()} <= {"some.tgz", "into"}


@fuzzed(content=damaged(archive_of(("package/a", tarfile.REGTYPE, b"content", ""))))
def test_an_archive_of_any_bytes_is_unpacked_or_refused(content: bytes) -> None:
    with sandbox() as folder:
        (folder / "some.tgz").write_bytes(content)
        with contextlib.suppress(UserError):
            unpack(folder / "some.tgz", folder / "into")


def test_an_archive_that_unpacks_to_far_more_than_it_should_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obtaining, "MAX_UNPACKED", 1000)
    parts = [(f"package/{number}", tarfile.REGTYPE, bytes(400), "") for number in range(3)]
    (tmp_path / "bomb.tgz").write_bytes(archive_of(*parts))
    with pytest.raises(UserError, match=r"bomb\.tgz: refused: more than 1000 bytes once unpacked"):
        unpack(tmp_path / "bomb.tgz", tmp_path / "into")


def test_a_header_that_promises_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    info = tarfile.TarInfo("package/bomb")
    info.size = 2**40
    (tmp_path / "bomb.tgz").write_bytes(gzip.compress(info.tobuf() + bytes(1024)))
    with pytest.raises(UserError, match=r"bomb\.tgz: refused"):
        unpack(tmp_path / "bomb.tgz", tmp_path / "into")
    assert not list((tmp_path / "into").rglob("bomb"))
