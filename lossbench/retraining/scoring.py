"""Champion and challenger on the same samples, example by example."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file
from scipy import stats

from lossbench.data.dataset import DatasetInfo, Split
from lossbench.recipe import Compute, Network
from lossbench.tasks.base import Scores, Task, task_for
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


def contender(
    name: str, described: Mapping[str, Any], weights: Path, info: DatasetInfo, metric: str
) -> Contender:
    """Load a replicate; weights are safetensors, which cannot hold code.

    Args:
        name: for sentences.
        described: its ``arm.json``.
        weights: the file.
        info: of its dataset.
        metric: of the experiment; it may be of the user's own.

    """
    task = task_for(described["task"], metric)(info, described.get("task_options"))
    return Contender(name, task, Network.model_validate(described["model"]), load_file(weights))


def read_contender(name: str, folder: Path, metric: str) -> Contender:
    """Load a logged model's folder: weights.safetensors, arm.json, dataset.json."""
    described = json.loads((folder / "arm.json").read_bytes())
    return contender(name, described, folder / "weights.safetensors", DatasetInfo.read(folder), metric)


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
        groups: of examples that count as one; N where every example is its own.

    """

    champion: float
    challenger: float
    gain: float
    low: float
    high: float
    examples: int
    groups: int


def paired_difference(
    champion: Scored,
    challenger: Scored,
    task: Task,
    metric: str,
    targets: Array,
    level: float,
    groups: Array | None = None,
) -> Difference:
    """Bootstrap interval of the paired difference over examples, or over groups of them.

    Both contenders are scored on the same resample of examples. Seeds do not vary here: the question is
    whether *this* challenger is better than *this* champion. The bounds are the wider ones of the
    percentile interval (Efron & Tibshirani 1993) and of the t interval with the bootstrap's standard error:
    a spent level soon asks for quantiles that no number of resamples reaches. Near-duplicates (frames of a
    video, images of a patient) are no examples of their own: whole groups are drawn (Field & Welsh 2007).

    Args:
        champion: scored on the split.
        challenger: scored on the same split.
        task: whose metric it is (statistics are alike for both).
        metric: the experiment's.
        targets: (N, ...) of the split.
        level: 0.05 for a two-sided 95 % interval: its lower bound errs upwards in 2.5 % of cases.
        groups: (N,) numbers 0 … G − 1; None where every example is its own.

    """
    sign = 1 if task.direction(metric).higher_is_better else -1
    random = np.random.Generator(np.random.PCG64(SEED))
    if metric in champion.scores.statistics and metric in challenger.scores.statistics:
        gains = sign * _from_sums(champion, challenger, task, metric, random, groups)
    else:
        score_of = partial(_metric, metric)
        gains = sign * _rescored(champion, challenger, task, targets, score_of, groups)
    low, high = np.nanquantile(gains, [level / 2, 1 - level / 2])
    first, second = champion.scores.metrics[metric], challenger.scores.metrics[metric]
    gain = sign * (second - first)
    units = len(targets) if groups is None else len(np.unique(groups))
    half = float(stats.t.ppf(1 - level / 2, max(1, units - 1)) * np.nanstd(gains))
    return Difference(
        first, second, gain, min(float(low), gain - half), max(float(high), gain + half), len(targets), units
    )


def _metric(metric: str, scores: Scores) -> Array:
    return np.array(scores.metrics[metric])


def drop_errors(
    champion: Scored,
    challenger: Scored,
    task: Task,
    targets: Array,
    score_of: Callable[[Scores], Array],
    groups: Array | None = None,
) -> Array:
    """Bootstrap standard errors of what the challenger loses, over examples.

    Args:
        champion: scored on the split, or on a part of it.
        challenger: scored on the same examples.
        task: whose scores these are.
        targets: (N, ...) of these examples.
        score_of: what is looked at, from scores to (k,).
        groups: of the examples, as for :func:`paired_difference`.

    Returns:
        (k,), 0 where no resample knows a value.

    """
    gains = np.ma.masked_invalid(_rescored(champion, challenger, task, targets, score_of, groups))
    errors: Array = np.ma.filled(gains.std(axis=0), 0.0)
    return errors


def _from_sums(
    champion: Scored,
    challenger: Scored,
    task: Task,
    metric: str,
    random: np.random.Generator,
    groups: Array | None,
) -> Array:
    first, second = (_summed(one.scores.statistics[metric], groups) for one in (champion, challenger))
    count = len(first)
    # How often each unit is drawn: a resample's sums are then one matrix product.
    drawn = random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    gains: Array = task.from_statistics(metric, drawn @ second) - task.from_statistics(metric, drawn @ first)
    return gains


def _summed(statistics: Array, groups: Array | None) -> Array:
    """(N, k) → (G, k): one row for each group."""
    if groups is None:
        return statistics
    names, places = np.unique(groups, return_inverse=True)
    found = np.zeros((len(names), *statistics.shape[1:]))
    np.add.at(found, places, statistics)
    return found


def _rescored(
    champion: Scored,
    challenger: Scored,
    task: Task,
    targets: Array,
    score_of: Callable[[Scores], Array],
    groups: Array | None,
) -> Array:
    """(RESCORINGS, ...) of what the challenger gains, each resample of examples scored anew."""
    random = np.random.Generator(np.random.PCG64(SEED))
    members = [] if groups is None else [np.flatnonzero(groups == one) for one in np.unique(groups)]
    gains = []
    for _ in range(RESCORINGS):
        if groups is None:
            rows = random.integers(len(targets), size=len(targets))
        else:
            rows = np.concatenate([members[one] for one in random.integers(len(members), size=len(members))])
        first, second = (
            score_of(task.score(one.digests[rows], targets[rows])) for one in (champion, challenger)
        )
        gains.append(second - first)
    return np.stack(gains)
