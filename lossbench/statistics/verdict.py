"""From replicates to a verdict: better, worse, tie or undecided."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.statistics.equivalence import tost_p
from lossbench.statistics.family import floor_seeds, holm, seeds_for, smallest_p
from lossbench.statistics.paired import Interval, mean_interval, pair_correlation, sign_flip_p

Array = npt.NDArray[Any]


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

    """

    level: float = 0.05
    margin: float = 0.01
    higher_is_better: bool = True
    power: float = 0.8


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
    both, needs the 90 % interval (at level 5 %) inside ± margin; else undecided.

    Args:
        scores: arm → scores, aligned over seeds; all finite (a diverged replicate has its test score).
        baseline: the arm the others are compared with; all pairs where None.
        metric: name.
        rules: level, margin, direction.
        diverged: arm → number of diverged replicates.

    Raises:
        ValueError: if the arms have not the same number of seeds, fewer than two, or a NaN.

    """
    _check(scores)
    lost = diverged or {}
    pairs = _pairs(list(scores), baseline)
    differences = [scores[arm] - scores[other] for arm, other in pairs]
    adjusted = holm([sign_flip_p(one) for one in differences])
    return [
        _contrast(
            (arm, other),
            metric,
            (scores[arm], scores[other]),
            p,
            len(pairs),
            rules,
            lost.get(arm, 0) + lost.get(other, 0),
        )
        for (arm, other), p in zip(pairs, adjusted, strict=True)
    ]


def _pairs(arms: Sequence[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return [(second, first) for first, second in combinations(arms, 2)]
    return [(arm, baseline) for arm in arms if arm != baseline]


def _contrast(
    names: tuple[str, str],
    metric: str,
    scores: tuple[Array, Array],
    p_holm: float,
    contrasts: int,
    rules: Rules,
    diverged: int,
) -> Contrast:
    differences = np.asarray(scores[0] - scores[1], dtype=np.float64)
    interval = mean_interval(differences, rules.level)
    narrow = mean_interval(differences, 2 * rules.level)
    return Contrast(
        arm=names[0],
        baseline=names[1],
        metric=metric,
        difference=float(differences.mean()),
        median=float(np.median(differences)),
        ci_low=interval.low,
        ci_high=interval.high,
        p=sign_flip_p(differences),
        p_holm=p_holm,
        margin=rules.margin,
        p_tie=tost_p(differences, rules.margin),
        n=len(differences),
        verdict=decide(float(differences.mean()), interval, narrow, p_holm, rules),
        seeds_needed=seeds_needed(differences, contrasts, rules),
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


def seeds_needed(differences: Array, contrasts: int, rules: Rules) -> int | None:
    """How many seeds a decision needs.

    Below the floor (Holm's first step out of reach) the floor's n; else the n for the wanted power at the
    difference and spread seen; None where the differences are all 0, or no number would do.
    """
    nonzero = differences[differences != 0]
    if len(nonzero) and smallest_p(len(nonzero)) * contrasts > rules.level:
        return floor_seeds(contrasts, rules.level) + len(differences) - len(nonzero)
    spread = float(np.std(differences, ddof=1))
    effect = (
        float(differences.mean()) / spread
        if spread
        else math.inf * bool(len(nonzero))
        if len(nonzero)
        else 0.0
    )
    return seeds_for(effect, contrasts, rules.level, rules.power)


def _check(scores: Scores) -> None:
    lengths = {arm: len(values) for arm, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arms must be trained on the same seeds; found replicates per arm: {lengths}")
    if scores and next(iter(lengths.values())) < 2:
        raise ValueError("a verdict needs at least 2 seeds")
    for arm, values in scores.items():
        if not np.isfinite(values).all():
            raise ValueError(f"arm '{arm}' has a score that is not a finite number")
