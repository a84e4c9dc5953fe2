"""From replicates to a verdict: better, worse, tie or undecided."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.errors import nearest
from lossbench.statistics.equivalence import tost_p
from lossbench.statistics.family import floor_seeds, holm, seeds_for, smallest_p
from lossbench.statistics.paired import Interval, finite, mean_interval, pair_correlation, sign_flip_p

Array = npt.NDArray[Any]
FEWEST_FOR_TIE = 3
"""Scores come in steps (one test sample): two differences are too often equal to show a tie by it."""


class Verdict(StrEnum):
    """What may be said of an arm against another."""

    BETTER = "better"
    WORSE = "worse"
    TIE = "tie"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Rules:
    """What a verdict goes by.

    Attributes:
        level: family-wise.
        margin: differences within ± this do not matter, in the metric's unit.
        higher_is_better: of the metric.
        power: wanted of the number of seeds recommended.

    Raises:
        ValueError: if a number is out of its range.

    """

    level: float = 0.05
    margin: float = 0.01
    higher_is_better: bool = True
    power: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.level < 0.5:
            raise ValueError(f"level must lie between 0 and 0.5, found {self.level}")
        if not (self.margin > 0 and math.isfinite(self.margin)):
            raise ValueError(f"margin must be a number above 0, found {self.margin}")
        if not 0 < self.power < 1:
            raise ValueError(f"power must lie between 0 and 1, found {self.power}")


@dataclass(frozen=True)
class Contrast:
    """One arm against another on one metric; differences are arm minus baseline, in the metric's unit."""

    arm: str
    baseline: str
    metric: str
    difference: float
    median: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    margin: float
    p_tie: float
    n: int
    verdict: Verdict
    seeds_needed: int | None
    correlation: float
    diverged: int
    differences: tuple[float, ...]


Scores = Mapping[str, Array]
"""Arm → (n,) scores, index-aligned over the seeds."""


def compare(
    scores: Scores,
    baseline: str | None,
    metric: str,
    rules: Rules,
    diverged: Mapping[str, int] | None = None,
) -> list[Contrast]:
    """Give a verdict on every contrast of one experiment's primary metric.

    Better and worse need p after Holm ≤ level and an interval that excludes 0; a tie, which wins over
    both, needs the 90 % interval (at level 5 %) inside ± margin, and three seeds; else undecided.

    Args:
        scores: arm → scores, aligned over seeds; all finite (a diverged replicate has its test score).
        baseline: the arm the others are compared with; all pairs where None.
        metric: name.
        rules: level, margin, direction.
        diverged: arm → number of diverged replicates.

    Raises:
        ValueError: if the arms have not the same number of seeds, fewer than two, a score that is no
            finite number, or the baseline has no scores.

    """
    _check(scores, baseline)
    lost = diverged or {}
    pairs = _pairs(list(scores), baseline)
    p_values = [sign_flip_p(scores[arm] - scores[other]) for arm, other in pairs]
    return [
        _contrast(
            (arm, other),
            metric,
            (scores[arm], scores[other]),
            (p, p_holm),
            len(pairs),
            rules,
            lost.get(arm, 0) + lost.get(other, 0),
        )
        for (arm, other), p, p_holm in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def _pairs(arms: Sequence[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return [(second, first) for first, second in combinations(arms, 2)]
    return [(arm, baseline) for arm in arms if arm != baseline]


def _contrast(
    names: tuple[str, str],
    metric: str,
    scores: tuple[Array, Array],
    p: tuple[float, float],
    contrasts: int,
    rules: Rules,
    diverged: int,
) -> Contrast:
    differences = np.asarray(scores[0] - scores[1], dtype=np.float64)
    interval = mean_interval(differences, rules.level)
    few = len(differences) < FEWEST_FOR_TIE
    narrow = Interval(math.nan, math.nan) if few else mean_interval(differences, 2 * rules.level)
    return Contrast(
        arm=names[0],
        baseline=names[1],
        metric=metric,
        difference=float(differences.mean()),
        median=float(np.median(differences)),
        ci_low=interval.low,
        ci_high=interval.high,
        p=p[0],
        p_holm=p[1],
        margin=rules.margin,
        p_tie=tost_p(differences, rules.margin),
        n=len(differences),
        verdict=decide(float(differences.mean()), interval, narrow, p[1], rules),
        seeds_needed=seeds_needed(differences, contrasts, rules.level, rules.power),
        correlation=pair_correlation(*scores),
        diverged=diverged,
        differences=tuple(float(one) for one in differences),
    )


def decide(difference: float, interval: Interval, narrow: Interval, p_holm: float, rules: Rules) -> Verdict:
    """Apply the rules; a tie wins over a difference too small to matter."""
    if narrow.inside(-rules.margin, rules.margin):
        return Verdict.TIE
    if p_holm <= rules.level and interval.excludes(0):
        return Verdict.BETTER if (difference > 0) == rules.higher_is_better else Verdict.WORSE
    return Verdict.UNDECIDED


def seeds_needed(differences: Array, contrasts: int, level: float, power: float) -> int | None:
    """How many seeds a decision needs.

    Below the floor (Holm's first step out of reach) the floor's n; else the n for the wanted power at the
    difference and spread seen; None where the differences are all 0, or no number would do.

    Args:
        differences: (n,).
        contrasts: in the family.
        level: of the family.
        power: wanted.

    """
    nonzero = int(np.count_nonzero(differences))
    if nonzero == 0 and len(differences) >= FEWEST_FOR_TIE:
        return None
    if smallest_p(nonzero) * contrasts > level:
        return floor_seeds(contrasts, level) + len(differences) - nonzero
    spread = float(np.std(differences, ddof=1))  # n ≥ 2: a single difference lies below any floor
    effect = float(differences.mean()) / spread if spread else math.inf
    return seeds_for(effect, contrasts, level, power)


def _check(scores: Scores, baseline: str | None) -> None:
    if baseline is not None and baseline not in scores:
        raise ValueError(f"baseline '{baseline}' has no scores; {nearest(baseline, scores)}")
    lengths = {arm: len(finite(values, f"scores of arm '{arm}'")) for arm, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arms must be trained on the same seeds; found replicates per arm: {lengths}")
    if scores and next(iter(lengths.values())) < 2:
        raise ValueError("a verdict needs at least 2 seeds, found 1")
