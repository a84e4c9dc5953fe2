"""What kinds of targets differ in: how samples are described and counted. A new kind is a row of KINDS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossbench.data.dataset import Kind
from lossbench.data.samples import Array, Samples


def _named(samples: Samples, classes: tuple[str, ...]) -> list[str | None]:
    return [classes[label] if 0 <= label < len(classes) else None for label in samples.labels]


def _joined(samples: Samples, classes: tuple[str, ...]) -> list[str]:
    return ["|".join(np.array(classes)[row > 0]) for row in samples.labels]


def _nothing(samples: Samples, classes: tuple[str, ...]) -> dict[str, Any]:
    return {}


def _of_masks(samples: Samples, classes: tuple[str, ...]) -> dict[str, Any]:
    facts, (height, width) = samples.mask_facts or {}, samples.targets.shape[1:3]
    read = {key: facts[key] for key in ("mask_values", "stray", "foreground")}
    return {"mask_width": width, "mask_height": height, **read}


def _of_tokens(samples: Samples, classes: tuple[str, ...]) -> dict[str, Any]:
    targets, vocabulary = samples.labels, len(classes)
    both = (np.asarray(samples.inputs), targets)
    strays = [((some < 0) | (some >= vocabulary)).sum(axis=1) for some in both]
    return {"stray": sum(strays), "unknown": (targets == 0).mean(axis=1)}


def _of_boxes(samples: Samples, classes: tuple[str, ...]) -> dict[str, Any]:
    height, width = samples.inputs.shape[-2:]
    x0, y0, x1, y1, label = np.moveaxis(samples.labels, -1, 0)
    inside = (x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0) & (x1 <= width) & (y1 <= height)
    there = label != -1
    stray = there & ~(inside & np.isin(label, range(len(classes))))
    return {"boxes": there.sum(axis=1), "stray_boxes": stray.sum(axis=1), "dropped_boxes": 0}


def _numbered(samples: Samples, classes: int) -> Array:
    return _binned(samples.labels, classes)


def _binned(labels: Array, classes: int) -> Array:
    valid = (labels >= 0) & (labels < classes)
    return np.bincount(labels[valid].astype(np.int64).ravel(), minlength=classes)


def _positions(samples: Samples, classes: int) -> Array:
    counts: Array = (samples.mask_facts or {})["counts"].sum(axis=0)
    return counts


def _positives(samples: Samples, classes: int) -> Array:
    counts: Array = (samples.labels > 0).sum(axis=0)
    return counts


@dataclass(frozen=True)
class Described:
    """One kind, as the manifest and the dataset's counts see it.

    Attributes:
        label: what stands in the manifest's column of that name, from samples and class names; None: nothing.
        columns: that the manifest has beside those of all kinds, from samples and class names.
        always: the names of these columns.
        counted: training targets per class, from samples and the number of classes.

    """

    label: Callable[[Samples, tuple[str, ...]], Any] = lambda *_: None
    columns: Callable[[Samples, tuple[str, ...]], dict[str, Any]] = _nothing
    always: tuple[str, ...] = ()
    counted: Callable[[Samples, int], Array] = _numbered


KINDS: dict[Kind, Described] = {
    "label": Described(label=_named),
    "anomaly": Described(label=_named),
    "multilabel": Described(label=_joined, counted=_positives),
    "mask": Described(
        columns=_of_masks,
        always=("mask_width", "mask_height", "mask_values", "stray", "foreground"),
        counted=_positions,
    ),
    "tokens": Described(columns=_of_tokens, always=("unknown", "stray")),
    "boxes": Described(
        columns=_of_boxes,
        always=("boxes", "stray_boxes", "dropped_boxes"),
        counted=lambda samples, classes: _binned(samples.labels[..., 4], classes),
    ),
}
