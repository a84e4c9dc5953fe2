"""Small datasets and settings that the training tests share."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting, prepare

CLASSES = ("a", "b", "c")
CNN = {"name": "simple_cnn", "width": 4, "layers": 1, "hidden": 8}
UNET = {"name": "unet", "width": 4, "depth": 1, "convolutions": 1}
ADAM = {"name": "adam", "learning_rate": 0.01}


def labels_dataset(folder: Path, train: int = 96, validation: int = 40, shares: Any = None) -> Dataset:
    """Images of 8×8 whose bright row tells their class."""
    rng = np.random.default_rng(5)
    sizes = {"train": train, "validation": validation}
    for split, count in sizes.items():
        targets = rng.choice(len(CLASSES), count, p=shares).astype(np.int64)
        inputs = rng.integers(0, 120, (count, 1, 8, 8), dtype=np.uint8)
        inputs[np.arange(count), 0, 2 * targets] += 90
        _write(folder, split, inputs, targets)
        if split == "train":
            counts = tuple(int(n) for n in np.bincount(targets, minlength=len(CLASSES)))
    return _finish(folder, "label", (), counts, sizes)


def masks_dataset(folder: Path, train: int = 32, validation: int = 12) -> Dataset:
    """Images of 8×8 whose brightness tells the class of each position."""
    rng = np.random.default_rng(6)
    sizes = {"train": train, "validation": validation}
    for split, count in sizes.items():
        targets = rng.integers(0, len(CLASSES), (count, 8, 8)).astype(np.uint8)
        inputs = (targets[:, None] * 80 + rng.integers(0, 60, (count, 1, 8, 8))).astype(np.uint8)
        _write(folder, split, inputs, targets)
        if split == "train":
            counts = tuple(int(n) for n in np.bincount(targets.ravel(), minlength=len(CLASSES)))
    return _finish(folder, "mask", (8, 8), counts, sizes)


def setting(
    data: Dataset,
    network: Mapping[str, Any] | None = None,
    loss: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Setting:
    """Prepare a small training of what the dataset is for."""
    masks = data.info.kind == "mask"
    task = task_class("segmentation" if masks else "classification")(data.info)
    defaults = {"epochs": 2, "batch_size": 16, "optimizer": ADAM}
    return prepare(
        task,
        data,
        Network(**(network or (UNET if masks else CNN))),
        Recipe(**{**defaults, **recipe}),
        loss or {"name": "cross_entropy"},
        Compute(**(compute or {})),
    )


def digest(replicate: Replicate) -> str:
    """Hash everything of a replicate that must not depend on chance."""
    made = hashlib.sha256(repr((replicate.history, replicate.epoch, replicate.diverged)).encode())
    for name in sorted(replicate.state):
        made.update(name.encode() + replicate.state[name].numpy().tobytes())
    return made.hexdigest()


def _write(folder: Path, split: str, inputs: np.ndarray, targets: np.ndarray) -> None:
    (folder / split).mkdir(parents=True)
    np.save(folder / split / "inputs.npy", inputs)
    np.save(folder / split / "targets.npy", targets)


def _finish(
    folder: Path, kind: Any, shape: tuple[int, ...], counts: tuple[int, ...], sizes: dict[str, int]
) -> Dataset:
    info = DatasetInfo(kind, CLASSES, (1, 8, 8), shape, (0.3,), (0.2,), counts, sizes)
    info.write(folder)
    for name in ("manifest.parquet", "provenance.json"):
        (folder / name).write_bytes(b"{}")
    return Dataset.open(folder)
