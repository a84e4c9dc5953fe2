"""A dataset on disk: memory-mapped arrays per split, a manifest, and what is known about them.

Layout of ``data/<dataset>``::

    dataset.json          DatasetInfo
    provenance.json       source, version, licence, SHA-256 of what was read
    manifest.parquet      one row per sample
    <split>/inputs.npy    (n, *input_shape); images are uint8, uint16 where a file has 16 bits,
                          or float32 in 0..1
    <split>/targets.npy   (n, *target_shape)
    <split>/weights.npy   (n,) or (n, *target_shape), float32: how much each counts in training; where the
                          data say so, of train and validation alone, as is
    <split>/soft.npy      (n, classes), float32: the distribution over the classes to train on

Training reads nothing else, whatever the source was.
"""

import json
from dataclasses import asdict, dataclass, field
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from lossbench.errors import UserError

SPLITS = ("train", "validation", "test", "reference")
TRAINED = ("train", "validation")
"""Splits that a replicate may be trained on, where it divides them anew."""

Kind = Literal["label", "mask", "tokens", "boxes", "multilabel", "anomaly"]
"""What a target is: a class per sample, a class per position, the next token, padded boxes
``(K, 5)`` of (x0, y0, x1, y1, class; class −1 pads), a 0/1 per label, or whether a sample is normal (0) or
not (1), with normal samples alone in training and validation."""


FULL = {"uint8": 255, "uint16": 65535, "float32": 1}
"""Type of stored images → the value of white."""


def full_scale(dtype: object) -> int:
    """The stored value of white: what is scaled to 1; values of other types are taken as they are."""
    return FULL.get(str(dtype).removeprefix("torch."), 1)


@dataclass(frozen=True)
class DatasetInfo:
    """What a task, a model and a loss must know about a dataset before they see it.

    Attributes:
        kind: what a target is.
        classes: names, in the order of their numbers.
        input_shape: of one sample, channels first for images: (C, H, W).
        target_shape: of one sample's target: () for a label, (H, W) for a mask.
        mean: per channel, of the training inputs scaled to 0..1 (images only).
        std: likewise.
        counts: per class, of the training targets (samples, positions, boxes or positives).
        sizes: samples per split.
        ignore_index: the target value that stands for "unknown", if any.
        extra: what the source says to its task; of images ``reading``: how they are read, where not as usual;
            ``weights``: sample or position, where training weighs them; ``soft``: true with soft labels.

    """

    kind: Kind
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: tuple[int, ...]
    sizes: dict[str, int]
    ignore_index: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def reading(self) -> dict[str, Any]:
        """How images were read: ``dtype``, ``orientation``, ``range``, where they differ from the usual."""
        found: dict[str, Any] = self.extra.get("reading", {})
        return found

    @property
    def dtype(self) -> str:
        """Of stored images."""
        return str(self.reading.get("dtype", "uint8"))

    @property
    def weights(self) -> str | None:
        """What has a weight in training: a ``sample`` or a ``position``; None for all alike."""
        found: str | None = self.extra.get("weights")
        return found

    @property
    def soft(self) -> bool:
        """Whether training targets are distributions over the classes, beside the labels that are scored."""
        return bool(self.extra.get("soft", False))

    def write(self, folder: Path) -> None:
        """Write ``dataset.json``."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "DatasetInfo":
        """Read ``dataset.json``."""
        try:
            content = (folder / "dataset.json").read_bytes()
        except FileNotFoundError:
            raise UserError(
                f"{folder}: no dataset.json; run `dvc repro` to fetch the dataset first"
            ) from None
        return TypeAdapter(cls).validate_json(content)


@dataclass(frozen=True)
class Split:
    """One split, memory-mapped, index-aligned: inputs, targets, and what only training reads, or None."""

    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None = None
    soft: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.inputs)


def give_back(array: npt.NDArray[Any]) -> None:
    """Let the kernel have the pages of a mapped array again; whoever reads it next maps them anew.

    What was read from a map counts as this process's memory until the map is closed, though the page cache
    holds it already. An array of any other kind is left alone, as are maps with changes of their own.
    """
    if isinstance(array, np.memmap) and array.mode == "r" and isinstance(array.base, mmap):
        array.base.madvise(MADV_DONTNEED)


@dataclass(frozen=True)
class Dataset:
    """A fetched dataset, opened for reading."""

    folder: Path
    info: DatasetInfo

    @classmethod
    def open(cls, folder: Path | str) -> "Dataset":
        """Open ``data/<dataset>``; nothing is read into memory yet."""
        folder = Path(folder)
        return cls(folder, DatasetInfo.read(folder))

    def split(self, name: str) -> Split:
        """Map one split's arrays, read-only."""
        trained = name in TRAINED
        return Split(
            self._mapped(name, "inputs"),
            self._mapped(name, "targets"),
            self._mapped(name, "weights") if trained and self.info.weights else None,
            self._mapped(name, "soft") if trained and self.info.soft else None,
        )

    def _mapped(self, split: str, what: str) -> npt.NDArray[Any]:
        made: npt.NDArray[Any] = np.load(self.folder / split / f"{what}.npy", mmap_mode="r")
        return made
