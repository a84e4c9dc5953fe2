"""What a model answers, per kind of target: names and probabilities instead of numbers of outputs.

An answer is JSON: plain numbers, strings, lists and dictionaries.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lossbench.serving.link import Link
from lossbench.tasks.base import Task

Array = npt.NDArray[Any]
Answer = dict[str, Any]
LIKELIEST = 10
"""Next tokens that are named."""


def answers(task: Task, outputs: Tensor, inputs: Tensor, link: Link) -> list[Answer]:
    """Answer for each sample of a batch.

    Args:
        task: what the outputs mean.
        outputs: (N, outputs, *spatial), finite, on the CPU.
        inputs: encoded.
        link: fitted for this replicate.

    """
    return _ANSWERS[task.info.kind](task, outputs, inputs, link)


def probabilities(outputs: Tensor, link: Link) -> Array:
    """Calibrated probabilities over axis 1, float64."""
    found: Array = (outputs.double() / link.temperature).softmax(1).numpy()
    return found


def _label(task: Task, outputs: Tensor, inputs: Tensor, link: Link) -> list[Answer]:
    """One class per sample."""
    del inputs
    names = task.info.classes
    return [
        {
            "class": names[int(row.argmax())],
            "probability": _short(row.max()),
            "probabilities": {name: _short(value) for name, value in zip(names, row, strict=True)},
        }
        for row in probabilities(outputs, link)
    ]


def _mask(task: Task, outputs: Tensor, inputs: Tensor, link: Link) -> list[Answer]:
    """Class numbers per pixel and their probabilities; ``classes`` are the names, ``shares`` of pixels."""
    del inputs
    names = task.info.classes
    found = []
    for one in probabilities(outputs, link):
        mask = one.argmax(axis=0)
        share = np.bincount(mask.ravel(), minlength=len(names)) / mask.size
        found.append(
            {
                "classes": list(names),
                "mask": mask.tolist(),
                "probability": one.max(axis=0).round(4).tolist(),
                "shares": {name: _short(value) for name, value in zip(names, share, strict=True)},
            }
        )
    return found


def _labels(task: Task, outputs: Tensor, inputs: Tensor, link: Link) -> list[Answer]:
    """A probability per label, and the labels that have more than one half."""
    del inputs
    names = task.info.classes
    return [
        {
            "labels": [name for name, value in zip(names, row, strict=True) if value > 0.5],
            "probabilities": {name: _short(value) for name, value in zip(names, row, strict=True)},
        }
        for row in (outputs.double() / link.temperature).sigmoid().numpy()
    ]


def _boxes(task: Task, outputs: Tensor, inputs: Tensor, link: Link) -> list[Answer]:
    """Boxes (x0, y0, x1, y1) in pixels of the stored image, best first."""
    scores = outputs[:, : task.loss_classes] / link.temperature
    calibrated = torch.cat([scores, outputs[:, task.loss_classes :]], dim=1)
    nothing = torch.full((len(outputs), 1, 5), -1.0)
    decided = task.decide(task.digest(calibrated, nothing, inputs).numpy())
    return [
        {
            "boxes": [
                {
                    "class": task.info.classes[int(box[4])],
                    "score": _short(box[5]),
                    "box": [round(float(side), 2) for side in box[:4]],
                }
                for box in image
                if box[4] >= 0
            ]
        }
        for image in decided
    ]


def _tokens(task: Task, outputs: Tensor, inputs: Tensor, link: Link) -> list[Answer]:
    """The likeliest tokens after the end of the window."""
    del inputs
    found = []
    for row in probabilities(outputs[..., -1], link):
        best = np.argsort(-row, kind="stable")[:LIKELIEST]
        found.append(
            {
                "next": [
                    {"token": task.info.classes[int(index)], "probability": _short(row[index])}
                    for index in best
                ]
            }
        )
    return found


def _anomaly(task: Task, outputs: Tensor, inputs: Tensor, link: Link) -> list[Answer]:
    """The reconstruction's error, and the share of normal validation images with a smaller one."""
    scores = task.digest(outputs, torch.zeros(len(outputs), dtype=torch.long), inputs)[:, 0].double().numpy()
    normal = np.asarray(link.normal_scores)
    shares = np.interp(scores, normal, np.linspace(0, 1, len(normal)))
    return [
        {"score": float(f"{score:.6g}"), "above_normal": _short(share)}
        for score, share in zip(scores, shares, strict=True)
    ]


def _short(probability: Any) -> float:
    """Six digits: enough for a probability, and stable across machines."""
    return round(float(probability), 6)


_ANSWERS: dict[str, Callable[[Task, Tensor, Tensor, Link], list[Answer]]] = {
    "label": _label,
    "mask": _mask,
    "multilabel": _labels,
    "boxes": _boxes,
    "tokens": _tokens,
    "anomaly": _anomaly,
}
