"""Scoring one replicate."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lossbench.data.dataset import Dataset, Split
from lossbench.errors import UserError
from lossbench.evaluation.thresholds import GRID, SUFFIX, Counted, Counts, applies, best_threshold
from lossbench.recipe import Compute, Network
from lossbench.statistics.calibration import Calibration, calibrate
from lossbench.tasks.base import GAP, Scores, Task
from lossbench.training.determinism import deterministic
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


@dataclass(frozen=True)
class Predicted:
    """All that a replicate's scores need of its outputs, on the CPU.

    Attributes:
        finite: whether all outputs on the test split are; if not, there is nothing but ``digests``.
        digests: (N, ...) of the test split.
        fitted_on: (V, ...) digests of the validation split, where the task adapts itself to a replicate.
        of_train: (n, ...) digests of an evenly spaced part of the training split.
        positions: outputs and classes of validation and of test positions, where the task is calibrated.
        counted: validation and test positions by their probability, where there is a threshold to choose.
        texts: what was generated, where the task generates.

    """

    finite: bool
    digests: Array
    fitted_on: Array | None = None
    of_train: Array | None = None
    positions: tuple[tuple[Array, Array], tuple[Array, Array]] | None = None
    counted: tuple[Counted, Counted] | None = None
    texts: tuple[str, ...] = ()


def predict_replicate(
    state: State,
    network: Network,
    seed: int,
    task: Task,
    metric: str,
    data: Dataset,
    compute: Compute,
    write: bool = False,
) -> Predicted:
    """Predict each sample once with a replicate's weights: what of scoring takes the device.

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
    test = data.split("test")
    with predicting(task, network, state, test.inputs, compute) as predictor:
        fitted_on = None
        if task.adapts:
            fitted_on = predictor.digests(data.split("validation"))[0]
            predictor.task = task = _adapted(task, fitted_on, data)
        seen = _Seen(task, test, metric)
        digests, finite = predictor.digests(test, look=seen.look, deciding=write)
        if not finite:
            return Predicted(False, digests, fitted_on)
        train, validation = data.split("train"), data.split("validation")
        of_train = predictor.digests(train, _trained_rows(train, test), deciding=False)[0]
        held_out = _Seen(task, validation, metric)
        held_out.look_at(predictor, validation)
        texts = tuple(task.generate(predictor.forward, seed)) if write else ()
    positions = counted = None
    if held_out.positions is not None and seen.positions is not None:
        positions = (held_out.positions.found(), seen.positions.found())
    if held_out.counts is not None and seen.counts is not None:
        counted = (Counted(held_out.counts.found), Counted(seen.counts.found))
    return Predicted(True, digests, fitted_on, of_train, positions, counted, texts)


def score_predicted(
    predicted: Predicted, task: Task, metric: str, data: Dataset, write: bool = False
) -> Scored:
    """Score what was predicted, in float64 on the CPU: no device is asked for anything.

    Args:
        predicted: by :func:`predict_replicate`.
        task: as it was given there.
        metric: the experiment's primary one.
        data: the dataset.
        write: as it was given there.

    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), deterministic(Compute()):
        return _score(predicted, task, metric, data, write)


def _score(predicted: Predicted, task: Task, metric: str, data: Dataset, write: bool) -> Scored:
    if predicted.fitted_on is not None:
        task = _adapted(task, predicted.fitted_on, data)
    targets, digests = np.asarray(data.split("test").targets), predicted.digests
    if not predicted.finite:
        digests = task.majority_digests(targets)
    scores = task.score(digests, targets)
    if not np.isfinite(scores.metrics[metric]):
        raise UserError(
            f"metric '{metric}' is {scores.metrics[metric]} on the {len(targets)} test samples, of which no "
            "verdict can be made; allowed: another metric, or other samples there"
        )
    decisions = task.decide(digests) if write else np.empty(0)
    if not predicted.finite:
        return Scored(False, scores, None, decisions)
    train = data.split("train")
    known = np.asarray(train.targets[_trained_rows(train, data.split("test"))])
    assert predicted.of_train is not None  # noqa: S101  # it is there where outputs are finite
    trained_on = task.score_by(metric, predicted.of_train, known)
    sign = 1 if task.direction(metric).higher_is_better else -1
    scores.metrics[GAP] = sign * (trained_on - scores.metrics[metric])
    calibration = None
    if predicted.positions is not None:
        of_validation, of_test = predicted.positions
        calibration = calibrate(*of_validation, *of_test)
    threshold = None
    if predicted.counted is not None:
        validation, counts = predicted.counted
        best = best_threshold(validation, metric)
        threshold, scores.metrics[metric + SUFFIX] = float(GRID[best]), float(counts.scores(metric)[best])
    return Scored(True, scores, calibration, decisions, predicted.texts, threshold)


def _adapted(task: Task, fitted_on: Array, data: Dataset) -> Task:
    return task.adapted(fitted_on, np.asarray(data.split("validation").targets))


def _trained_rows(train: Split, test: Split) -> Array:
    """Choose an evenly spaced part of the training split, no larger than the test split."""
    return _spread(len(train), len(test))


class _Seen:
    """What is kept of outputs on a split for calibration, and for a threshold; None where there is no use."""

    def __init__(self, task: Task, split: Split, metric: str) -> None:
        self.positions = Positions(task, split) if task.calibrated else None
        self.counts = Counts(task, split.targets) if applies(task, metric) else None

    def look(self, which: slice, outputs: Tensor) -> None:
        """Look at outputs of the split's samples ``which``, one batch after another."""
        for one in (self.positions, self.counts):
            if one is not None:
                one.look(which, outputs)

    def look_at(self, predictor: Predictor, split: Split) -> None:
        """Predict what there is a use for: all samples, or those in which the positions lie."""
        if self.counts is not None:
            for which, _, outputs in predictor.batches(split.inputs):
                self.look(which, outputs)
        elif self.positions is not None:
            for which, _, outputs in predictor.batches(split.inputs, self.positions.samples):
                self.positions.keep(outputs, which.start)


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
