"""Scoring one replicate."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lossbench.data.dataset import Dataset, Split
from lossbench.evaluation.thresholds import GRID, SUFFIX, Counts, applies, best_threshold
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
        decisions: (N, ...) what it made of each test sample; empty where nobody is shown them.
        texts: what it generated, where the task generates.
        threshold: chosen on validation data, where the task has one.

    """

    finite: bool
    scores: Scores
    calibration: Calibration | None
    decisions: Array
    texts: tuple[str, ...] = ()
    threshold: float | None = None


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
    """Predict each sample once with a replicate's weights, and score.

    A replicate whose outputs are not finite gets the score of the constant majority prediction.

    Args:
        state: its weights and buffers.
        network: the architecture.
        seed: of the replicate; it drives what is drawn in scoring.
        task: what scores it.
        metric: the experiment's primary one.
        data: the dataset.
        compute: where predictions are computed; scores are always float64 on the CPU.
        write: this replicate is shown: hand over its decisions, which may be as large as the test split,
            and have it generate texts, where the task does that.

    """
    test, nothing = data.split("test"), np.empty(0)
    targets = np.asarray(test.targets)
    with predicting(task, network, state, test.inputs, compute) as predictor:
        if task.adapts:
            validation = data.split("validation")
            fitted_on = predictor.digests(validation)[0]
            predictor.task = task = task.adapted(fitted_on, np.asarray(validation.targets))
        of_test = Positions(task, test) if task.calibrated else None
        counts = Counts(task, test.targets) if applies(task, metric) else None
        looks = [one.look for one in (of_test, counts) if one is not None]

        def look(which: slice, outputs: Tensor) -> None:
            for one in looks:
                one(which, outputs)

        digests, finite = predictor.digests(test, look=look, deciding=write)
        if not finite:
            digests = task.majority_digests(targets)
            decisions = task.decide(digests) if write else nothing
            return Scored(False, task.score(digests, targets), None, decisions)
        scores = task.score(digests, targets)
        trained_on = _training_score(task, metric, predictor, data.split("train"), len(test))
        sign = 1 if task.direction(metric).higher_is_better else -1
        scores.metrics[GAP] = sign * (trained_on - scores.metrics[metric])
        calibration = _calibration(predictor, data.split("validation"), of_test) if of_test else None
        threshold = None
        if counts is not None:
            threshold, scores.metrics[metric + SUFFIX] = _at_threshold(predictor, data, counts, metric)
        texts = tuple(task.generate(predictor.forward, seed)) if write else ()
    decisions = task.decide(digests) if write else nothing
    return Scored(True, scores, calibration, decisions, texts, threshold)


def _training_score(task: Task, metric: str, predictor: Predictor, train: Split, most: int) -> float:
    """Score an evenly spaced part of the training split, no larger than the test split."""
    rows = _spread(len(train), most)
    digests = predictor.digests(train, rows, deciding=False)[0]
    return task.score(digests, np.asarray(train.targets[rows])).metrics[metric]


def _at_threshold(predictor: Predictor, data: Dataset, of_test: Counts, metric: str) -> tuple[float, float]:
    """Choose the threshold on validation data; returns it, and what the test split scores there."""
    held_out = data.split("validation")
    validation = Counts(predictor.task, held_out.targets)
    for which, _, outputs in predictor.batches(held_out.inputs):
        validation.look(which, outputs)
    best = best_threshold(validation, metric)
    return float(GRID[best]), float(of_test.scores(metric)[best])


def _calibration(predictor: Predictor, validation: Split, of_test: "Positions") -> Calibration:
    held_out = Positions(predictor.task, validation)
    for which, _, outputs in predictor.batches(validation.inputs, held_out.samples):
        held_out.keep(outputs, which.start)
    return calibrate(*held_out.found(), *of_test.found())


class Positions:
    """At most POSITIONS evenly spaced positions of a split, their classes, and what a network put out there.

    Attributes:
        samples: (n,) the samples that they lie in, ascending.

    """

    def __init__(self, task: Task, split: Split) -> None:
        self._each = max(1, int(np.prod(split.targets.shape[1:])))
        # Samples enough for four times as many positions, so that the chosen are no close neighbours.
        self.samples = _spread(len(split), max(1, -(-4 * POSITIONS // self._each)))
        targets = np.asarray(split.targets[self.samples]).reshape(-1)
        ignored = task.info.ignore_index
        known = np.arange(len(targets)) if ignored is None else np.flatnonzero(targets != ignored)
        self._chosen = known[_spread(len(known), POSITIONS)]
        self._classes = targets[self._chosen].astype(np.int64)
        self._parts: list[Array] = []

    def look(self, which: slice, outputs: Tensor) -> None:
        """Look at outputs (n, C, *spatial) of the split's samples ``which``, one batch after another."""
        first, last = np.searchsorted(self.samples, [which.start, which.stop])
        places = torch.from_numpy(self.samples[first:last] - which.start)
        self.keep(outputs[places.to(outputs.device)], int(first))

    def keep(self, outputs: Tensor, first: int) -> None:
        """Keep what is wanted of outputs (n, C, *spatial) of ``samples`` from number ``first`` on."""
        start, stop = first * self._each, (first + len(outputs)) * self._each
        flat = outputs.cpu().movedim(1, -1).reshape(-1, outputs.shape[1])
        low, high = np.searchsorted(self._chosen, [start, stop])
        self._parts.append(flat[self._chosen[low:high] - start].double().numpy())

    def found(self) -> tuple[Array, Array]:
        """(M, C) float64 outputs, and (M,) classes."""
        return np.concatenate(self._parts), self._classes


def _spread(count: int, most: int) -> Array:
    """At most ``most`` of ``count`` numbers, evenly spaced."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)
