"""Made-up datasets and settings that benchmarks train on where real data would add nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Dataset, DatasetInfo, Kind
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.training import Setting, prepare

CLASSES = 10
TASKS: Mapping[str, str] = {
    "label": "classification",
    "mask": "segmentation",
    "multilabel": "multilabel",
}
Row = dict[str, Any]
Array = npt.NDArray[Any]


def synthetic(folder: Path, kind: Kind, shape: tuple[int, int, int], samples: int, test: int = 0) -> Dataset:
    """Noise in which a dark band, or the brightness of a place, tells the class (or each label)."""
    rng = np.random.default_rng(0)
    sizes = {"train": samples, "validation": max(64, samples // 8), **({"test": test} if test else {})}
    counts: tuple[int, ...] = ()
    for split, count in sizes.items():
        inputs = rng.integers(0, 160, (count, *shape), dtype=np.uint8)
        targets = _draw(rng, kind, inputs)
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "inputs.npy", inputs)
        np.save(folder / split / "targets.npy", targets)
        counts = counts or _count(kind, targets)
    names = tuple(map(str, range(CLASSES)))
    mean, std = (0.3,) * shape[0], (0.2,) * shape[0]
    info = DatasetInfo(kind, names, shape, targets.shape[1:], mean, std, counts, sizes)
    info.write(folder)
    return Dataset.open(folder)


def _draw(rng: np.random.Generator, kind: Kind, inputs: Array) -> Array:
    """Draw targets, and write what tells them into ``inputs``."""
    count, height, width = len(inputs), *inputs.shape[2:]
    if kind == "mask":
        coarse = rng.integers(0, CLASSES, (count, height // 8, width // 8)).astype(np.uint8)
        targets: Array = coarse.repeat(8, axis=1).repeat(8, axis=2)
        inputs[:] = targets[:, None] * 20 + inputs // 4
        return targets
    labels = rng.integers(0, CLASSES, count)
    present = np.eye(CLASSES, dtype=bool)[labels]
    if kind == "multilabel":
        present |= rng.random(present.shape) < 0.2
    for label in range(CLASSES):
        inputs[present[:, label], :, 2 * label : 2 * label + 3, :] //= 2
    return present.astype(np.uint8) if kind == "multilabel" else labels


def _count(kind: Kind, targets: Array) -> tuple[int, ...]:
    if kind == "multilabel":
        return tuple(int(count) for count in targets.sum(axis=0))
    return tuple(int(count) for count in np.bincount(targets.ravel(), minlength=CLASSES))


def setting(
    data: Dataset,
    network: Row,
    device: str = "cpu",
    loss: Row | None = None,
    engine: str = "loop",
    **recipe: Any,
) -> Setting:
    """Prepare the training of what a dataset is for; an epoch of Adam unless ``recipe`` says otherwise."""
    task = task_class(TASKS[data.info.kind])(data.info)
    compute = Compute.model_validate({"device": device, "engine": engine})
    defaults = {"epochs": 1, "batch_size": 64, "optimizer": {"name": "adam", "learning_rate": 1e-3}}
    chosen = loss or {"name": "cross_entropy"}
    return prepare(task, data, Network(**network), Recipe(**{**defaults, **recipe}), chosen, compute)
