"""Scoring one replicate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from lossbench.data.dataset import Dataset
from lossbench.params import Compute, Network
from lossbench.statistics.calibration import Calibration, calibrate
from lossbench.tasks.base import Scores, Task
from lossbench.training import predict

Array = npt.NDArray[Any]
POSITIONS = 50_000
"""Positions (pixels) that a calibration is fitted on and scored with: more changes nothing, and costs."""


@dataclass(frozen=True)
class Scored:
    """One replicate's test scores."""

    arm: str
    loss: str
    seed: int
    diverged: bool
    scores: Scores
    calibration: Calibration | None
    decisions: Array


def score_replicate(
    folder: Path, described: Mapping[str, Any], seed: int, task: Task, data: Dataset, compute: Compute
) -> Scored:
    """Load a replicate's weights, predict, score.

    A replicate whose outputs are not finite gets the score of the constant majority prediction.

    Args:
        folder: of the arm.
        described: its ``arm.json``.
        seed: which replicate.
        task: what scores it.
        data: the dataset.
        compute: where predictions are computed; scores are always float64 on the CPU.

    """
    network = Network.model_validate(described["model"])
    state = load_file(folder / f"seed-{seed}.safetensors")
    test = data.split("test")
    outputs = predict(task, network, state, test.inputs, compute).numpy()
    arm, loss = described["arm"], described["loss"]
    if not np.isfinite(outputs).all():
        scores = task.constant_scores(np.asarray(test.targets))
        decided = np.full(outputs[:, 0].shape, int(np.argmax(task.info.counts)))
        return Scored(arm, loss, seed, True, scores, None, decided)
    scores = task.score(outputs, np.asarray(test.targets))
    calibration = None
    if task.calibrated:
        validation = data.split("validation")
        held_out = predict(task, network, state, validation.inputs, compute).numpy()
        calibration = calibrate(
            *_positions(held_out, np.asarray(validation.targets), task.info.ignore_index),
            *_positions(outputs, np.asarray(test.targets), task.info.ignore_index),
        )
    return Scored(arm, loss, seed, seed in described["diverged"], scores, calibration, task.decide(outputs))


def _positions(outputs: Array, targets: Array, ignore_index: int | None) -> tuple[Array, Array]:
    """Flatten (N, C, *spatial) to (M, C) float64 and (M,), at most POSITIONS of them, evenly spaced."""
    flat = np.moveaxis(outputs, 1, -1).reshape(-1, outputs.shape[1])
    labels = targets.reshape(-1).astype(np.int64)
    keep = np.arange(len(labels)) if ignore_index is None else np.flatnonzero(labels != ignore_index)
    if len(keep) > POSITIONS:
        keep = keep[np.linspace(0, len(keep) - 1, POSITIONS).astype(np.int64)]
    return flat[keep].astype(np.float64), labels[keep]
