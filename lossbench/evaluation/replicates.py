"""Scoring one replicate."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Dataset, Split
from lossbench.recipe import Compute, Network
from lossbench.statistics.calibration import Calibration, calibrate
from lossbench.tasks.base import GAP, Scores, Task
from lossbench.training.prediction import Predictor, State, predicting

Array = npt.NDArray[Any]
POSITIONS = 50_000
"""Positions (pixels, tokens) that a calibration is fitted on and scored with, at most."""


@dataclass(frozen=True)
class Scored:
    """One replicate's test scores.

    Attributes:
        finite: whether all its outputs are.
        scores: on the test split.
        calibration: of its probabilities, where the task has any.
        decisions: (N, ...) what it made of each test sample.
        texts: what it generated, where the task generates.

    """

    finite: bool
    scores: Scores
    calibration: Calibration | None
    decisions: Array
    texts: tuple[str, ...] = ()


def score_replicate(
    state: State,
    network: Network,
    seed: int,
    task: Task,
    metric: str,
    data: Dataset,
    compute: Compute,
    write: bool = False,
) -> Scored:
    """Predict with a replicate's weights, and score.

    A replicate whose outputs are not finite gets the score of the constant majority prediction.

    Args:
        state: its weights and buffers.
        network: the architecture.
        seed: of the replicate; it drives what is drawn in scoring.
        task: what scores it.
        metric: the experiment's primary one.
        data: the dataset.
        compute: where predictions are computed; scores are always float64 on the CPU.
        write: have it generate texts, where the task does that.

    """
    test = data.split("test")
    targets = np.asarray(test.targets)
    with predicting(task, network, state, test.inputs, compute) as predictor:
        if task.adapts:
            validation = data.split("validation")
            fitted_on = predictor.digests(validation)[0]
            predictor.task = task = task.adapted(fitted_on, np.asarray(validation.targets))
        digests, finite = predictor.digests(test)
        if not finite:
            digests = task.majority_digests(targets)
            return Scored(False, task.score(digests, targets), None, task.decide(digests))
        scores = task.score(digests, targets)
        trained_on = _training_score(task, metric, predictor, data.split("train"), len(test))
        sign = 1 if task.direction(metric).higher_is_better else -1
        scores.metrics[GAP] = sign * (trained_on - scores.metrics[metric])
        calibration = _calibration(task, predictor, data) if task.calibrated else None
        texts = tuple(task.generate(predictor.forward, seed)) if write else ()
    return Scored(True, scores, calibration, task.decide(digests), texts)


def _training_score(task: Task, metric: str, predictor: Predictor, train: Split, most: int) -> float:
    """Score an evenly spaced part of the training split, no larger than the test split."""
    rows = _spread(len(train), most)
    part = Split(np.asarray(train.inputs[rows]), np.asarray(train.targets[rows]))
    return task.score(predictor.digests(part)[0], part.targets).metrics[metric]


def _calibration(task: Task, predictor: Predictor, data: Dataset) -> Calibration:
    held_out, test = data.split("validation"), data.split("test")
    return calibrate(*_positions(task, predictor, held_out), *_positions(task, predictor, test))


def _positions(task: Task, predictor: Predictor, split: Split) -> tuple[Array, Array]:
    """At most POSITIONS evenly spaced positions: (M, C) float64 outputs and (M,) classes."""
    each = max(1, int(np.prod(split.targets.shape[1:])))
    # Samples enough for four times as many positions, so that the chosen are no close neighbours.
    samples = _spread(len(split), max(1, -(-4 * POSITIONS // each)))
    targets = np.asarray(split.targets[samples]).reshape(-1).astype(np.int64)
    ignored = task.info.ignore_index
    known = np.arange(len(targets)) if ignored is None else np.flatnonzero(targets != ignored)
    chosen = known[_spread(len(known), POSITIONS)]
    parts, start = [], 0
    for _, _, outputs in predictor.batches(np.asarray(split.inputs[samples])):
        flat = outputs.cpu().movedim(1, -1).reshape(-1, outputs.shape[1])
        mine = chosen[(chosen >= start) & (chosen < start + len(flat))] - start
        parts.append(flat[mine].double().numpy())
        start += len(flat)
    return np.concatenate(parts), targets[chosen]


def _spread(count: int, most: int) -> Array:
    """At most ``most`` of ``count`` numbers, evenly spaced."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
