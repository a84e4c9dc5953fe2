"""What turns a replicate's outputs into probabilities: one temperature, fitted on its validation split."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import Tensor

from lossbench.data.dataset import Split
from lossbench.errors import UserError
from lossbench.statistics.calibration import fit_temperature
from lossbench.tasks.base import Task
from lossbench.training.prediction import Predictor

Array = npt.NDArray[Any]
FILE = "serving.json"
SAMPLES = 5_000
"""Of the validation split that the link is fitted on, at most: evenly spaced ones."""
NUMBERS = 2**23
"""Outputs that are held at a time in float64."""
POSITIONS = 50_000
QUANTILES = 101


@dataclass(frozen=True)
class Link:
    """From outputs to what is answered.

    Attributes:
        temperature: scores are divided by it before softmax (multi-label: sigmoid).
        normal_scores: ascending quantiles of the scores of normal validation images (anomaly detection).
        diverged: outputs were not finite; there is nothing to answer with.

    """

    temperature: float = 1.0
    normal_scores: tuple[float, ...] = ()
    diverged: bool = False

    def write(self, folder: Path, **more: Any) -> None:
        """Write ``serving.json``; ``more`` are further facts a server needs."""
        content = {**asdict(self), **more}
        (folder / FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Link":
        """Read ``serving.json``.

        Raises:
            UserError: if there is none: the model was logged before answers were calibrated.

        """
        try:
            content = json.loads((folder / FILE).read_bytes())
        except FileNotFoundError:
            raise UserError(
                f"{folder}: no {FILE}; the model comes from an older Lossbench: "
                "log it anew with `lossbench track`"
            ) from None
        known = {key: content[key] for key in asdict(cls()) if key in content}
        return TypeAdapter(cls).validate_python(known)


def fit_link(task: Task, predictor: Predictor, validation: Split) -> Link:
    """Fit the link of one replicate.

    Args:
        task: what the outputs mean.
        predictor: the replicate, on the CPU.
        validation: its validation split.

    """
    rows = _spread(len(validation), SAMPLES)
    if task.info.kind == "anomaly":
        return _fit_scores(predictor, validation, rows)
    pairs = []
    positions = max(1, int(np.prod(task.info.target_shape)))
    most = min(POSITIONS, NUMBERS // max(2, task.loss_classes))
    step = max(1, len(rows) * positions // most)
    for at, _, outputs in predictor.batches(validation.inputs, rows):
        encoded = task.encode_targets(torch.from_numpy(np.array(validation.targets[rows[at]])))
        scores, labels = labelled_scores(task, outputs.cpu(), encoded)
        if not bool(torch.isfinite(scores).all()):
            return Link(diverged=True)
        pairs.append((scores[::step].double().numpy(), labels[::step].numpy()))
    found = [np.concatenate(parts) for parts in zip(*pairs, strict=True)]
    return Link(round(fit_temperature(found[0], found[1]), 6) if len(found[1]) else 1.0)


def labelled_scores(task: Task, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (M, C) and classes (M,) of all labelled positions of a batch.

    A label of its own (multi-label) counts as two classes with scores 0 and z, for sigmoid(z / T) is their
    softmax; a detector's cells are positions, background among their classes.
    """
    if task.info.kind == "multilabel":
        flat = outputs.reshape(-1)
        return torch.stack([torch.zeros_like(flat), flat], dim=1), (targets.reshape(-1) > 0).long()
    seen = task.loss_target(targets)
    labels = seen.reshape(-1).long()
    scores = outputs[:, : task.loss_classes].movedim(1, -1).reshape(-1, task.loss_classes)
    if task.info.ignore_index is None:
        return scores, labels
    known = labels != task.info.ignore_index
    return scores[known], labels[known]


def _fit_scores(predictor: Predictor, normal: Split, rows: Array) -> Link:
    digests, finite = predictor.digests(normal, rows, deciding=False)
    if not finite:
        return Link(diverged=True)
    quantiles = np.quantile(digests[:, 0].astype(np.float64), np.linspace(0, 1, QUANTILES))
    return Link(normal_scores=tuple(float(f"{value:.9g}") for value in quantiles))


def _spread(count: int, most: int) -> Array:
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
