"""From replicates to a verdict: better, worse, tie, undecided, or not trained."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.errors import nearest
from lossbench.statistics.equivalence import seeds_for_tie
from lossbench.statistics.family import effect_quartiles, holm
from lossbench.statistics.paired import Interval, constant, finite
from lossbench.statistics.record import Verdict, pairs
from lossbench.statistics.samples import Paired, Sample, effect
from lossbench.statistics.trained import TRAINED, Condition, Training, condition

Array = npt.NDArray[Any]
FEWEST_FOR_TIE = 5
"""Scores come in steps (one test sample): a few differences are too often equal to show a tie by it."""


@dataclass(frozen=True)
class Rules:
    """What a verdict goes by.

    Attributes:
        level: family-wise.
        margin: differences within ± this do not matter, in the metric's unit.
        higher_is_better: of the metric.
        power: wanted of the number of seeds recommended.
        bounds: least and largest value the metric can have; intervals are cut to what a difference can be.
        step: what one test sample weighs, in the metric's unit; where it outweighs the margin nothing ties.

    Raises:
        ValueError: if a number is out of its range.

    """

    level: float = 0.05
    margin: float = 0.01
    higher_is_better: bool = True
    power: float = 0.8
    bounds: tuple[float, float] | None = None
    step: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.level < 0.5:
            raise ValueError(f"level must lie between 0 and 0.5, found {self.level}")
        if not (self.margin > 0 and math.isfinite(self.margin)):
            raise ValueError(f"margin must be a number above 0, found {self.margin}")
        if not 0 < self.power < 1:
            raise ValueError(f"power must lie between 0 and 1, found {self.power}")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"bounds must be two numbers, the lower first, found {self.bounds}")
        if not (self.step >= 0 and math.isfinite(self.step)):
            raise ValueError(f"step must be 0 or a number above it, found {self.step}")


@dataclass(frozen=True)
class Contrast:
    """One arm against another on one metric; differences are arm minus baseline, in the metric's unit.

    ``p`` is the larger of the sign-flip p and Hall's, ``p_holm`` and ``p_tie_holm`` are corrected for the
    family (and for looks, where several are declared). The interval of a tie covers ``1 − 2·tie_level`` and
    lies within the margin exactly where the tie is shown. ``ahead`` counts the seeds on which the arm
    scored better, ``equal`` those without a difference; None where seeds do not pair. ``once`` says that all
    seeds count as one: no number of them would decide.
    """

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
    p_tie_holm: float = math.nan
    tie_low: float = math.nan
    tie_high: float = math.nan
    tie_level: float = math.nan
    seeds_needed_low: int | None = None
    seeds_needed_high: int | None = None
    seeds_for_tie: int | None = None
    ahead: int | None = None
    equal: int | None = None
    higher_is_better: bool = True
    step: float = 0.0
    correction: str = "Holm"
    arm_condition: Condition = TRAINED
    baseline_condition: Condition = TRAINED
    once: bool = False

    @property
    def shown(self) -> Interval:
        """The interval to print and to draw: of a tie the one that shows it."""
        if self.verdict == Verdict.TIE:
            return Interval(self.tie_low, self.tie_high)
        return Interval(self.ci_low, self.ci_high)


Scores = Mapping[str, Array]
"""Arm → (n,) scores, index-aligned over the seeds."""


@dataclass(frozen=True)
class Stage:
    """One of several declared looks: the nominal levels a single contrast is held to there.

    Attributes:
        difference: of the two-sided p.
        tie: of each one-sided test of a tie.
        said: how the correction is called in a sentence.

    """

    difference: float
    tie: float
    said: str


@dataclass(frozen=True)
class Comparison:
    """Two arms, their scores, and what is known of their training.

    ``once`` says that a side's scores count as a single one (the same value on every seed, from a training
    whose seed may never have reached it).
    """

    arm: str
    baseline: str
    sample: Sample
    diverged: int = 0
    arm_condition: Condition = TRAINED
    baseline_condition: Condition = TRAINED
    once: bool = False

    @property
    def untrained(self) -> bool:
        """Whether either side was not trained."""
        return bool(self.arm_condition.untrained or self.baseline_condition.untrained)

    @property
    def collapsed(self) -> int:
        """Collapsed replicates of both sides."""
        return self.arm_condition.collapsed + self.baseline_condition.collapsed


def compare(
    scores: Scores,
    baseline: str | None,
    metric: str,
    rules: Rules,
    diverged: Mapping[str, int] | None = None,
    floors: Mapping[str, float] | None = None,
    training: Mapping[str, Training] | None = None,
    once: Collection[str] = (),
) -> list[Contrast]:
    """Give a verdict on every contrast of one experiment's primary metric.

    Args:
        scores: arm → scores, aligned over seeds; all finite (a diverged replicate has its test score).
        baseline: the arm the others are compared with; all pairs where None.
        metric: name.
        rules: level, margin, direction.
        diverged: arm → number of diverged replicates.
        floors: name → score of a predictor that needs no training.
        training: arm → what is known of how it was trained.
        once: arms whose scores count as one where they are all equal.

    Raises:
        ValueError: if the arms have not the same number of seeds, fewer than two, a score that is no
            finite number, or the baseline has no scores.

    """
    _check(scores, baseline)
    lost = diverged or {}
    states = {
        arm: condition(values, floors or {}, rules.margin, rules.higher_is_better, (training or {}).get(arm))
        for arm, values in scores.items()
    }
    compared = [
        Comparison(
            arm=arm,
            baseline=other,
            sample=Paired(scores[arm], scores[other]),
            diverged=lost.get(arm, 0) + lost.get(other, 0),
            arm_condition=states[arm],
            baseline_condition=states[other],
            once=any(one in once and constant(scores[one]) for one in (arm, other)),
        )
        for arm, other in pairs(list(scores), baseline)
    ]
    return judge(compared, metric, rules)


def judge(
    compared: Sequence[Comparison],
    metric: str,
    rules: Rules,
    stage: Stage | None = None,
    family: int | None = None,
) -> list[Contrast]:
    """Give the verdicts of one family of contrasts.

    Better and worse need p ≤ level after correction and an interval that excludes 0; a tie, which wins over
    both, needs both one-sided tests after correction, five seeds, no collapsed replicate, and a test sample
    that weighs no more than the margin. With an untrained arm on either side the verdict is "not trained".

    Args:
        compared: the contrasts.
        metric: name.
        rules: level, margin, direction.
        stage: of several declared looks; Holm's correction where None.
        family: contrasts in the family, where ``compared`` are the ones left to decide.

    """
    p_values = [1.0 if one.once else one.sample.p() for one in compared]
    ties = [math.nan if one.once else one.sample.p_tie(rules.margin) for one in compared]
    size = family or len(compared)
    known = [1.0 if math.isnan(p) else p for p in ties]
    if stage is None:
        adjusted, adjusted_ties = holm(p_values), holm(known)
        tie_levels = [rules.level / factor for factor in _holm_factors(known, rules.level)]
    else:
        adjusted = [min(1.0, p * rules.level / stage.difference) for p in p_values]
        adjusted_ties = [min(1.0, p * rules.level / stage.tie) for p in known]
        tie_levels = [stage.tie] * len(compared)
    return [
        _contrast(one, metric, rules, stage, size, p, p_holm, p_tie, p_tie_holm, tie_level)
        for one, p, p_holm, p_tie, p_tie_holm, tie_level in zip(
            compared, p_values, adjusted, ties, adjusted_ties, tie_levels, strict=True
        )
    ]


def _holm_factors(p_values: Sequence[float], level: float) -> list[int]:
    """By what Holm multiplies each p, in the order given; from the first that fails on, by what failed it."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    factors = [0] * len(p_values)
    failed: int | None = None
    for step, index in enumerate(order):
        factor = len(p_values) - step
        if failed is None and factor * p_values[index] > level:
            failed = factor
        factors[index] = failed or factor
    return factors


def _contrast(
    one: Comparison,
    metric: str,
    rules: Rules,
    stage: Stage | None,
    family: int,
    p: float,
    p_holm: float,
    p_tie: float,
    p_tie_holm: float,
    tie_level: float,
) -> Contrast:
    sample = one.sample
    interval = _bounded(sample.interval(rules.level), rules.bounds)
    shown = _bounded(sample.tie_interval(tie_level), rules.bounds)
    if one.once:
        interval = shown = Interval(math.nan, math.nan)
    differences = sample.differences
    paired = len(differences) > 0
    needed = _needed(sample, family, rules)
    signed = differences if rules.higher_is_better else -differences
    tied = may_tie(one, rules) and p_tie_holm <= rules.level
    return Contrast(
        arm=one.arm,
        baseline=one.baseline,
        metric=metric,
        difference=sample.difference,
        median=sample.median,
        ci_low=interval.low,
        ci_high=interval.high,
        p=p,
        p_holm=p_holm,
        margin=rules.margin,
        p_tie=p_tie,
        n=sample.n,
        verdict=(
            Verdict.NOT_TRAINED if one.untrained else decide(sample.difference, interval, p_holm, tied, rules)
        ),
        seeds_needed=None if one.once else needed[0],
        correlation=sample.correlation,
        diverged=one.diverged,
        differences=tuple(float(value) for value in differences),
        p_tie_holm=math.nan if math.isnan(p_tie) else p_tie_holm,
        tie_low=shown.low,
        tie_high=shown.high,
        tie_level=tie_level,
        seeds_needed_low=None if one.once else needed[1],
        seeds_needed_high=None if one.once else needed[2],
        seeds_for_tie=None if one.once or one.collapsed else _for_tie(sample, family, rules),
        ahead=int(np.count_nonzero(signed > 0)) if paired else None,
        equal=int(np.count_nonzero(signed == 0)) if paired else None,
        higher_is_better=rules.higher_is_better,
        step=rules.step,
        correction=stage.said if stage else "Holm",
        arm_condition=one.arm_condition,
        baseline_condition=one.baseline_condition,
        once=one.once,
    )


def _bounded(interval: Interval, bounds: tuple[float, float] | None) -> Interval:
    """Cut to what a difference of two values within ``bounds`` can be."""
    if bounds is None or math.isnan(interval.low):
        return interval
    widest = bounds[1] - bounds[0]
    return interval.within(-widest, widest)


def may_tie(one: Comparison, rules: Rules) -> bool:
    """Whether the scores are of a kind that a tie can be shown with at all."""
    return (
        one.sample.n >= FEWEST_FOR_TIE and not one.once and not one.collapsed and rules.step <= rules.margin
    )


def decide(difference: float, interval: Interval, p_holm: float, tied: bool, rules: Rules) -> Verdict:
    """Apply the rules; a tie wins over a difference too small to matter."""
    if tied:
        return Verdict.TIE
    if p_holm <= rules.level and interval.excludes(0):
        return Verdict.BETTER if (difference > 0) == rules.higher_is_better else Verdict.WORSE
    return Verdict.UNDECIDED


def _needed(sample: Sample, family: int, rules: Rules) -> tuple[int | None, int | None, int | None]:
    """Seeds for the difference seen, and for the quartiles of what it may be in truth."""

    def seeds(size: float) -> int | None:
        return sample.seeds_for(size, family, rules.level, rules.power)

    seen = effect(sample)
    smaller, larger = effect_quartiles(seen, sample.n)
    known = math.isfinite(seen) and sample.n > 1
    return seeds(seen), seeds(larger) if known else None, seeds(smaller) if known else None


def _for_tie(sample: Sample, family: int, rules: Rules) -> int | None:
    """Seeds that show a tie of truly equal arms, at the spread seen and the level of Holm's first step."""
    if sample.n < 2 or rules.step > rules.margin:
        return None
    if not sample.spread:
        return FEWEST_FOR_TIE
    if not math.isfinite(sample.spread):  # of scores whose squares overflow
        return None
    return seeds_for_tie(rules.margin / sample.spread, rules.level / family, rules.power, FEWEST_FOR_TIE)


def _check(scores: Scores, baseline: str | None) -> None:
    if baseline is not None and baseline not in scores:
        raise ValueError(f"baseline '{baseline}' has no scores; {nearest(baseline, scores)}")
    lengths = {arm: len(finite(values, f"scores of arm '{arm}'")) for arm, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arms must be trained on the same seeds; found replicates per arm: {lengths}")
    if scores and next(iter(lengths.values())) < 2:
        raise ValueError("a verdict needs at least 2 seeds, found 1")
