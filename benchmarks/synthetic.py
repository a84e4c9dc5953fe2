"""Made-up datasets and settings that benchmarks train on where real data would add nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Dataset, DatasetInfo, Kind
from lossbench.losses import REGISTRY
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.training.setting import Setting, prepare

CLASSES = 10
TASKS: Mapping[str, str] = {
    "label": "classification",
    "mask": "segmentation",
    "multilabel": "multilabel",
    "boxes": "detection",
    "anomaly": "anomaly",
    "tokens": "language_model",
}
Row = dict[str, Any]
Array = npt.NDArray[Any]


def synthetic(
    folder: Path, kind: Kind, shape: tuple[int, ...], samples: int, test: int = 0, validation: int = 64
) -> Dataset:
    """Noise in which a dark band, or the brightness of a place, tells the class (or each label, or box).

    Args:
        folder: written to.
        kind: of the targets.
        shape: (C, H, W) of an image, or (L,) of a window of tokens.
        samples: of the training split.
        test: of the test split.
        validation: of the validation split, at least; an eighth of ``samples`` if that is more.

    """
    rng = np.random.default_rng(0)
    sizes = {"train": samples, "validation": max(validation, samples // 8)} | ({"test": test} if test else {})
    counts: tuple[int, ...] = ()
    for split, count in sizes.items():
        drawn = _tokens(rng, count, shape[0]) if kind == "tokens" else _images(rng, kind, count, shape)
        inputs, targets = drawn
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "inputs.npy", inputs)
        np.save(folder / split / "targets.npy", targets)
        counts = counts or _count(kind, targets)
    names = ("normal", "anomaly") if kind == "anomaly" else tuple(map(str, range(CLASSES)))
    mean, std = (0.3,) * shape[0], (0.2,) * shape[0]
    extra = {"level": "char", "length": shape[0], "characters_per_token": 1.0} if kind == "tokens" else {}
    info = DatasetInfo(kind, names, shape, targets.shape[1:], mean, std, counts, sizes, extra=extra)
    info.write(folder)
    return Dataset.open(folder)


def _tokens(rng: np.random.Generator, count: int, length: int) -> tuple[Array, Array]:
    """Draw windows in which every token is the one before it, moved on by one, most of the time."""
    steps = np.where(rng.random((count, length + 1)) < 0.8, 1, rng.integers(0, CLASSES, (count, length + 1)))
    text = (steps.cumsum(1) % CLASSES).astype(np.int32)
    return text[:, :-1], text[:, 1:]


def _images(rng: np.random.Generator, kind: Kind, count: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Draw images and targets, and write what tells these into those."""
    inputs = rng.integers(0, 160, (count, *shape), dtype=np.uint8)
    height, width = shape[1:]
    if kind == "anomaly":
        inputs[:, :, height // 4 : height // 2] //= 2
        return inputs, np.zeros(count, np.int64)
    if kind == "boxes":
        return inputs, _boxes(rng, inputs)
    if kind == "mask":
        coarse = rng.integers(0, CLASSES, (count, height // 8, width // 8)).astype(np.uint8)
        targets: Array = coarse.repeat(8, axis=1).repeat(8, axis=2)
        inputs[:] = targets[:, None] * 20 + inputs // 4
        return inputs, targets
    labels = rng.integers(0, CLASSES, count)
    present = np.eye(CLASSES, dtype=bool)[labels]
    if kind == "multilabel":
        present |= rng.random(present.shape) < 0.2
    for label in range(CLASSES):
        inputs[present[:, label], :, 2 * label : 2 * label + 3, :] //= 2
    return inputs, present.astype(np.uint8) if kind == "multilabel" else labels


def _boxes(rng: np.random.Generator, inputs: Array) -> Array:
    """Draw a box an image, whose brightness tells its class; another place is left empty."""
    count, height, width = len(inputs), *inputs.shape[2:]
    side = min(height, width) // 2
    targets = np.full((count, 2, 5), -1.0, np.float32)
    left, top = rng.integers(0, width - side, count), rng.integers(0, height - side, count)
    labels = rng.integers(0, CLASSES, count)
    targets[:, 0] = np.stack([left, top, left + side, top + side, labels], 1)
    for image, x, y, label in zip(inputs, left, top, labels, strict=True):
        image[:, y : y + side, x : x + side] = 70 + 20 * label
    return targets


def _count(kind: Kind, targets: Array) -> tuple[int, ...]:
    if kind == "anomaly":
        return (len(targets), 0)
    if kind == "multilabel":
        return tuple(int(count) for count in targets.sum(axis=0))
    if kind == "boxes":
        targets = targets[..., 4][targets[..., 4] >= 0].astype(np.int64)
    return tuple(int(count) for count in np.bincount(targets.ravel(), minlength=CLASSES))


def losses_for(kind: Kind) -> dict[str, Row]:
    """Every registered loss that such targets are for: name → its block of params.yaml."""
    several = kind in ("multilabel", "anomaly")
    dimensions = {"label": 0, "multilabel": 0, "tokens": 1}.get(kind, 2)
    other = "binary_cross_entropy" if several else "cross_entropy"
    found = {}
    for name, cls in REGISTRY.items():
        if cls.spatial > dimensions or not (cls.multi if several else cls.single):
            continue
        if cls.auxiliary and kind == "anomaly":  # its targets are the augmented inputs: nothing to prepare
            continue
        found[name] = {"sum": {other: 1.0, name: 0.1}} if cls.only_in_sum else {"name": name}
    return found


def setting(
    data: Dataset,
    network: Row,
    device: str = "cpu",
    loss: Row | None = None,
    engine: str = "loop",
    precision: str = "fp32",
    graphs: bool = False,
    **recipe: Any,
) -> Setting:
    """Prepare the training of what a dataset is for; an epoch of Adam unless ``recipe`` says otherwise."""
    task = task_class(TASKS[data.info.kind])(data.info)
    compute = Compute.model_validate(
        {"device": device, "engine": engine, "precision": precision, "graphs": graphs}
    )
    defaults = {"epochs": 1, "batch_size": 64, "optimizer": {"name": "adam", "learning_rate": 1e-3}}
    chosen = loss or {"name": "cross_entropy"}
    return prepare(task, data, Network(**network), Recipe(**{**defaults, **recipe}), chosen, compute)
