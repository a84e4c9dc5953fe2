"""Champion and challenger on the same samples, example by example."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from lossbench.data.dataset import DatasetInfo, Split
from lossbench.recipe import Compute, Network
from lossbench.tasks.base import Scores, Task, task_class
from lossbench.training.prediction import State, predicting

Array = npt.NDArray[Any]
RESAMPLES = 4000
"""Of the bootstrap over examples, where the metric follows from sums."""
RESCORINGS = 400
"""Of the bootstrap where every resample has to be scored anew."""
SEED = 0


@dataclass(frozen=True)
class Contender:
    """A trained replicate with what it takes to run it.

    Attributes:
        name: for sentences.
        task: on the dataset that it was trained on: its classes, its normalisation.
        network: the architecture.
        state: weights and buffers.

    """

    name: str
    task: Task
    network: Network
    state: State

    @property
    def info(self) -> DatasetInfo:
        """The dataset that it was trained on."""
        return self.task.info


def contender(name: str, described: Mapping[str, Any], weights: Path, info: DatasetInfo) -> Contender:
    """Load a replicate; weights are safetensors, which cannot hold code.

    Args:
        name: for sentences.
        described: its ``arm.json``.
        weights: the file.
        info: of its dataset.

    """
    task = task_class(described["task"])(info, described.get("task_options"))
    return Contender(name, task, Network.model_validate(described["model"]), load_file(weights))


def read_contender(name: str, folder: Path) -> Contender:
    """Load a logged model's folder: weights.safetensors, arm.json, dataset.json."""
    described = json.loads((folder / "arm.json").read_bytes())
    return contender(name, described, folder / "weights.safetensors", DatasetInfo.read(folder))


@dataclass(frozen=True)
class Scored:
    """One contender's outputs on a split, and their scores."""

    digests: Array
    finite: bool
    scores: Scores


def score(one: Contender, split: Split) -> Scored:
    """Score a contender on a split; outputs that are not finite score as the constant prediction."""
    targets = np.asarray(split.targets)
    with predicting(one.task, one.network, one.state, split.inputs, Compute()) as predictor:
        digests, finite = predictor.digests(split, deciding=False)
    if not finite:
        digests = one.task.majority_digests(targets)
    return Scored(digests, finite, one.task.score(digests, targets))


@dataclass(frozen=True)
class Difference:
    """Challenger against champion on one split.

    Attributes:
        champion: its score.
        challenger: its score.
        gain: how much better the challenger is, whichever way the metric counts.
        low: lower bound of the gain over examples.
        high: upper bound.
        examples: N.

    """

    champion: float
    challenger: float
    gain: float
    low: float
    high: float
    examples: int


def paired_difference(
    champion: Scored, challenger: Scored, task: Task, metric: str, targets: Array, level: float
) -> Difference:
    """Percentile-bootstrap interval of the paired difference over examples (Efron & Tibshirani 1993).

    Both contenders are scored on the same resample of examples. Seeds do not vary here: the question is
    whether *this* challenger is better than *this* champion.

    Args:
        champion: scored on the split.
        challenger: scored on the same split.
        task: whose metric it is (statistics are alike for both).
        metric: the experiment's.
        targets: (N, ...) of the split.
        level: 0.05 for a two-sided 95 % interval: its lower bound errs upwards in 2.5 % of cases.

    """
    sign = 1 if task.direction(metric).higher_is_better else -1
    random = np.random.Generator(np.random.PCG64(SEED))
    if metric in champion.scores.statistics and metric in challenger.scores.statistics:
        gains = _from_sums(champion, challenger, task, metric, random)
    else:
        gains = _rescored(champion, challenger, task, targets, lambda one: np.array(one.metrics[metric]))
    low, high = np.nanquantile(sign * gains, [level / 2, 1 - level / 2])
    first, second = champion.scores.metrics[metric], challenger.scores.metrics[metric]
    return Difference(first, second, sign * (second - first), float(low), float(high), len(targets))


def drop_errors(
    champion: Scored, challenger: Scored, task: Task, targets: Array, score_of: Callable[[Scores], Array]
) -> Array:
    """Bootstrap standard errors of what the challenger loses, over examples.

    Args:
        champion: scored on the split, or on a part of it.
        challenger: scored on the same examples.
        task: whose scores these are.
        targets: (N, ...) of these examples.
        score_of: what is looked at, from scores to (k,).

    Returns:
        (k,), 0 where no resample knows a value.

    """
    gains = np.ma.masked_invalid(_rescored(champion, challenger, task, targets, score_of))
    errors: Array = np.ma.filled(gains.std(axis=0), 0.0)
    return errors


def _from_sums(
    champion: Scored, challenger: Scored, task: Task, metric: str, random: np.random.Generator
) -> Array:
    first, second = (one.scores.statistics[metric] for one in (champion, challenger))
    count = len(first)
    # How often each example is drawn: a resample's sums are then one matrix product.
    drawn = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    gains: Array = task.from_statistics(metric, drawn @ second) - task.from_statistics(metric, drawn @ first)
    return gains


def _rescored(
    champion: Scored, challenger: Scored, task: Task, targets: Array, score_of: Callable[[Scores], Array]
) -> Array:
    """(RESCORINGS, ...) of what the challenger gains, each resample of examples scored anew."""
    random = np.random.Generator(np.random.PCG64(SEED))
    gains = []
    for _ in range(RESCORINGS):
        rows = random.integers(len(targets), size=len(targets))
        first, second = (
            score_of(task.score(one.digests[rows], targets[rows])) for one in (champion, challenger)
        )
        gains.append(second - first)
    return np.stack(gains)
