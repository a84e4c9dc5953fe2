"""Was it trained? Floors, collapsed replicates, tuned values at an edge, contrasts that hang on the budget.

A verdict is worth as much as the trainings behind it: against an arm that has not learnt the class prior
any loss wins.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from lossbench.statistics.writing import digits

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Edge:
    """A tuned value that stands at an end of the range it was searched in.

    Attributes:
        parameter: tuned.
        value: that was chosen.
        end: of what was tried.
        seeds: for how many replicates it was chosen, where each has a search of its own.
        of: their number; 0 where one search is all replicates'.

    """

    parameter: str
    value: float
    end: Literal["lowest", "highest"]
    seeds: int = 0
    of: int = 0


@dataclass(frozen=True)
class Training:
    """What is known of how an arm was trained.

    Attributes:
        last_losses: (n,) last training loss of each replicate.
        constant_loss: what the best constant outputs reach under the same loss on the training targets.
        edges: tuned values at the end of their range.

    """

    last_losses: Sequence[float] = ()
    constant_loss: float | None = None
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True)
class Condition:
    """What an arm's training lets its scores mean.

    Attributes:
        untrained: why the arm counts as untrained, a clause each; empty where it was trained.
        collapsed: replicates at a floor's score.
        edges: tuned values at the end of their range.

    """

    untrained: tuple[str, ...] = ()
    collapsed: int = 0
    edges: tuple[Edge, ...] = field(default=())


TRAINED = Condition()
"""Nothing is known against the arm."""


def condition(
    scores: Array,
    floors: Mapping[str, float],
    margin: float,
    higher_is_better: bool,
    training: Training | None = None,
) -> Condition:
    """Judge how an arm was trained.

    Untrained: its mean does not exceed the best floor by more than the margin, or the median of its last
    training losses is above what constant outputs reach (the median: one replicate that diverged is a
    collapse, not an untrained arm). A replicate is collapsed if it does not exceed the best floor by more
    than the margin.

    Args:
        scores: (n,) of the deciding metric.
        floors: name → score of a predictor that needs no training, on the same metric; may be empty.
        margin: > 0, in the metric's unit.
        higher_is_better: of the metric.
        training: what is known of the trainings.

    """
    training = training or Training()
    found = [_at_floor(scores, floors, margin, higher_is_better), _above_constant(training)]
    return Condition(
        untrained=tuple(clause for clause in found if clause),
        collapsed=int(np.count_nonzero(_collapsed(scores, floors, margin, higher_is_better))),
        edges=training.edges,
    )


def best_floor(floors: Mapping[str, float], higher_is_better: bool) -> tuple[str, float] | None:
    """Name and score of the best floor; None where none is finite."""
    finite = {name: value for name, value in floors.items() if math.isfinite(value)}
    if not finite:
        return None
    return (max if higher_is_better else min)(finite.items(), key=lambda item: item[1])


def _collapsed(scores: Array, floors: Mapping[str, float], margin: float, higher: bool) -> Array:
    best = best_floor(floors, higher)
    if best is None:
        return np.zeros(len(scores), dtype=bool)
    sign = 1 if higher else -1
    return np.asarray(sign * (np.asarray(scores, dtype=np.float64) - best[1]) <= margin)


def _at_floor(scores: Array, floors: Mapping[str, float], margin: float, higher: bool) -> str:
    best = best_floor(floors, higher)
    mean = float(np.mean(scores))
    if best is None or not _collapsed(np.array([mean]), floors, margin, higher)[0]:
        return ""
    name, value = best
    way = "above" if higher else "below"
    return (
        f"its mean of {mean:.3g} is not {way} the {value:.3g} of {_name(name)}, "
        f"which needs no training, by more than {margin:g}"
    )


def _above_constant(training: Training) -> str:
    if training.constant_loss is None or not len(training.last_losses):
        return ""
    last = np.asarray(training.last_losses, dtype=np.float64)
    median = float(np.median(np.where(np.isfinite(last), last, np.inf)))
    if not median > training.constant_loss:
        return ""
    constant = f"where the best constant output has {training.constant_loss:.3g}"
    return f"its training loss ended at {median:.3g}, {constant}"


def _name(floor: str) -> str:
    return f"'{floor.replace('_', ' ')}'"


def share_interval(count: int, n: int, level: float = 0.05) -> tuple[float, float]:
    """Exact (Clopper–Pearson) interval of a share: 0 of 8 is compatible with up to .37.

    Args:
        count: replicates that collapsed.
        n: all.
        level: 0.05 for a 95 % interval.

    """
    found = stats.binomtest(count, n).proportion_ci(1 - level, "exact")
    return float(found.low), float(found.high)


def seeds_to_exclude(share: float, level: float = 0.05) -> int:
    """Seeds without a collapse that exclude a ``share`` of collapses (one-sided): 29 for .1."""
    if not 0 < share < 1:
        raise ValueError(f"a share must lie between 0 and 1, found {share}")
    return math.ceil(math.log(level) / math.log(1 - share))


@dataclass(frozen=True)
class AtBudget:
    """A contrast trained for a share of the epochs, with a schedule of its own."""

    share: float
    verdict: str
    difference: float


def budget_sensitive(contrasts: Sequence[AtBudget], margin: float) -> str:
    """Say how a contrast changes over the last doubling of the budget.

    Verdict, or size by more than the margin, between the largest budget and the largest that is half of it
    or less.

    Args:
        contrasts: one a budget, in any order.
        margin: in the metric's unit.

    Returns:
        A clause, "from 50 % to 100 % of the epochs the verdict goes from better to tie"; "" where nothing
        changes, or no budget is half the largest.

    """
    if not contrasts:
        return ""
    last = max(contrasts, key=lambda one: one.share)
    # shares are written by people: 0.5 of 1.0 must count whatever the rounding
    before = [one for one in contrasts if one.share <= last.share / 2 * (1 + 1e-9)]
    if not before:
        return ""
    half = max(before, key=lambda one: one.share)
    where = f"from {100 * half.share:g} % to {100 * last.share:g} % of the epochs"
    if half.verdict != last.verdict:
        return f"{where} the verdict goes from {half.verdict} to {last.verdict}"
    if abs(last.difference - half.difference) > margin:
        first, second = (digits(one.difference, margin / 3) for one in (half, last))
        return f"{where} the difference goes from {first} to {second}"
    return ""
