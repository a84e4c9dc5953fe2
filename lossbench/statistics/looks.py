"""Looking more than once: declared numbers of seeds at which one decides, and arms that stop once decided.

Adding seeds after "undecided" until something is decided raises false verdicts from .04 to .14. So looks are
declared before, and the level is spent over them: half at the first, the rest linearly in seeds (a spending
function; Lan and DeMets 1983). What a single look may spend follows from the joint distribution of the
statistics at all looks (Armitage, McPherson and Rowe 1969). Contrasts share the level evenly, for Holm's
steps would lend a contrast at one look what it has not spent at another.

A contrast once decided stays decided (racing): its arm gets no further seeds. Everything here is pure:
scores and the record of looks go in, decisions and the seeds still wanted come out.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

from lossbench.statistics.paired import constant
from lossbench.statistics.record import SETTLED, Found, Plan, Record, Row, pairs, same_plan, spending
from lossbench.statistics.samples import Paired
from lossbench.statistics.trained import Training, condition
from lossbench.statistics.verdict import Comparison, Contrast, Rules, Stage, judge

Array = npt.NDArray[Any]
NODES = 400
FAR = 9.0
"""Standard deviations beyond which the normal distribution has nothing left."""


def nominal_levels(looks: Sequence[int], level: float, two_sided: bool = True) -> tuple[float, ...]:
    """Level at which a contrast's p is judged at each look, so that all looks together hold ``level``.

    Args:
        looks: ascending numbers of seeds.
        level: of one contrast, over all looks.
        two_sided: for a difference; one-sided for each side of a tie.

    """
    return _nominal(tuple(looks), level, two_sided)


@cache
def _rule() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Nodes and weights of Gauss and Legendre: all but a tenth of the time, and the same at every look."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return nodes, weights


@lru_cache(maxsize=256)
def _nominal(looks: tuple[int, ...], level: float, two_sided: bool) -> tuple[float, ...]:
    spent = np.diff([0.0, *spending(looks, level)])
    information = np.array(looks) / looks[-1]
    found: list[float] = []
    points = weights = np.zeros(0)  # the sum's sub-density where nothing was rejected yet, by quadrature
    before = 0.0
    for now, allowance in zip(information, spent, strict=True):
        if not len(points):
            bound = float(stats.norm.isf(allowance / (2 if two_sided else 1)))
        else:
            bound = _bound(points, weights, now, now - before, float(allowance), two_sided)
        found.append(float(stats.norm.sf(bound)) * (2 if two_sided else 1))
        low = -bound if two_sided else -FAR
        nodes, parts = _rule()
        scale = math.sqrt(now) * (bound - low) / 2
        reached = math.sqrt(now) * (bound + low) / 2 + scale * nodes
        step = math.sqrt(now - before)
        if not len(points):
            density = stats.norm.pdf(reached / step) / step
        else:
            density = stats.norm.pdf((reached[:, None] - points) / step) @ weights / step
        points, weights, before = reached, density * parts * scale, now
    return tuple(found)


def _bound(
    points: Array, weights: Array, now: float, added: float, allowance: float, two_sided: bool
) -> float:
    """|z| (or z) beyond which a look rejects with probability ``allowance``, given no rejection before."""

    def excess(bound: float) -> float:
        edge, step = bound * math.sqrt(now), math.sqrt(added)
        beyond = stats.norm.sf((edge - points) / step)
        if two_sided:
            beyond = beyond + stats.norm.cdf((-edge - points) / step)
        return float(beyond @ weights) - allowance

    return float(brentq(excess, 0.0, FAR, xtol=1e-12))


def stage_of(plan: Plan, look: int, contrasts: int) -> Stage | None:
    """Levels a contrast is held to at a look; None where one look is all, and Holm corrects."""
    if len(plan.looks) == 1:
        return None
    share = plan.level / contrasts
    names = ", ".join(str(one) for one in plan.looks)
    return Stage(
        difference=nominal_levels(plan.looks, share)[look],
        tie=nominal_levels(plan.looks, share, two_sided=False)[look],
        said=f"{contrasts} contrast{'s' * (contrasts > 1)} and looks at {names} seeds",
    )


@dataclass(frozen=True)
class Progress:
    """Where an experiment stands.

    Attributes:
        contrasts: every contrast, each at the look that decided it or, undecided, at the last one taken.
        record: with all looks that the scores allow.
        wanted: arm → seeds it lacks for the next look; empty where all is decided or no look is left.
        ignored: arm → seeds with scores that no look uses; they are discounted.
        said: sentences on what was discounted.

    """

    contrasts: tuple[Contrast, ...]
    record: Record
    wanted: Mapping[str, tuple[int, ...]]
    ignored: Mapping[str, tuple[int, ...]]
    said: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether no look is left to take."""
        return not self.wanted


Replicates = Mapping[str, Mapping[int, float]]
"""Arm → seed → score."""


def progress(
    scores: Replicates,
    baseline: str | None,
    metric: str,
    rules: Rules,
    plan: Plan,
    record: Record | None = None,
    diverged: Mapping[str, Collection[int]] | None = None,
    floors: Mapping[str, float] | None = None,
    training: Mapping[str, Training] | None = None,
    once: Collection[str] = (),
) -> Progress:
    """Take every declared look that the scores allow, and say what the next one needs.

    A look is taken as soon as every contrast still open has all its seeds. What the record says was decided
    stays so, also where scores were computed anew since.

    Args:
        scores: arm → seed → score.
        baseline: the arm the others are compared with; all pairs where None.
        metric: name.
        rules: level, margin, direction.
        plan: the declared looks.
        record: of looks taken before.
        diverged: arm → seeds of its diverged replicates.
        floors: name → score of a predictor that needs no training.
        training: arm → what is known of how it was trained.
        once: arms whose scores count as one where they are all equal.

    Raises:
        UserError: if the plan is not the one under which looks were taken.

    """
    record = record or Record()
    same_plan(plan, record)
    compared = pairs(list(scores), baseline)
    open_pairs = list(compared)
    settled: dict[tuple[str, str], Contrast] = {}
    rows: list[Row] = []
    for look, count in enumerate(plan.looks):
        seeds = plan.at(look)
        missing = _missing(scores, open_pairs, seeds)
        if missing or not open_pairs:
            break
        found = judge(
            [
                _comparison(one, scores, seeds, rules, diverged or {}, floors or {}, training or {}, once)
                for one in open_pairs
            ],
            metric,
            rules,
            stage_of(plan, look, len(compared)),
            family=len(compared),
        )
        known = record.taken[look].found if look < len(record.taken) else {}
        found = [_as_recorded(one, known) for one in found]
        settled |= {(one.arm, one.baseline): one for one in found}
        fresh = {(one.arm, one.baseline): _found(one) for one in found}
        rows.append(Row(count, seeds, known or fresh))  # what was written down once stays to the digit
        open_pairs = [(one.arm, one.baseline) for one in found if one.verdict not in SETTLED]
    wanted = _missing(scores, open_pairs, plan.at(len(rows))) if len(rows) < len(plan.looks) else {}
    ignored = _ignored(scores, plan)
    return Progress(
        contrasts=tuple(settled[one] for one in compared if one in settled),
        record=replace(record, looks=plan.looks, level=plan.level, taken=(*rows, *record.taken[len(rows) :])),
        wanted=wanted,
        ignored=ignored,
        said=_discounted(ignored, plan),
    )


def _missing(
    scores: Replicates, open_pairs: Sequence[tuple[str, str]], seeds: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    arms = dict.fromkeys(arm for pair in open_pairs for arm in pair)
    lacking = {arm: tuple(seed for seed in seeds if seed not in scores[arm]) for arm in arms}
    return {arm: seeds for arm, seeds in lacking.items() if seeds}


def _comparison(
    pair: tuple[str, str],
    scores: Replicates,
    seeds: Sequence[int],
    rules: Rules,
    diverged: Mapping[str, Collection[int]],
    floors: Mapping[str, float],
    training: Mapping[str, Training],
    once: Collection[str],
) -> Comparison:
    values = {arm: np.array([scores[arm][seed] for seed in seeds]) for arm in pair}
    states = {
        arm: condition(values[arm], floors, rules.margin, rules.higher_is_better, training.get(arm))
        for arm in pair
    }
    arm, other = pair
    return Comparison(
        arm=arm,
        baseline=other,
        sample=Paired(values[arm], values[other]),
        diverged=sum(seed in seeds for one in pair for seed in diverged.get(one, ())),
        arm_condition=states[arm],
        baseline_condition=states[other],
        once=any(one in once and constant(values[one]) for one in pair),
    )


def _as_recorded(contrast: Contrast, known: Mapping[tuple[str, str], Found]) -> Contrast:
    """Keep a decision that was taken: a look is taken once."""
    found = known.get((contrast.arm, contrast.baseline))
    if found is None or found.verdict == contrast.verdict:
        return contrast
    return replace(contrast, verdict=found.verdict, p_holm=found.p, p_tie_holm=found.p_tie)


def _found(contrast: Contrast) -> Found:
    return Found(contrast.p_holm, contrast.p_tie_holm, contrast.verdict)


def _ignored(scores: Replicates, plan: Plan) -> dict[str, tuple[int, ...]]:
    """Scores on seeds that no look uses."""
    declared = set(plan.seeds[: plan.looks[-1]])
    extra = {arm: tuple(sorted(set(of_arm) - declared)) for arm, of_arm in scores.items()}
    return {arm: seeds for arm, seeds in extra.items() if seeds}


def _discounted(ignored: Mapping[str, tuple[int, ...]], plan: Plan) -> tuple[str, ...]:
    if not ignored:
        return ()
    seeds = sorted({seed for of_arm in ignored.values() for seed in of_arm})
    names = ", ".join(str(seed) for seed in seeds)
    return (
        f"seed{'s' * (len(seeds) > 1)} {names} of {', '.join(sorted(ignored))} count for nothing: no "
        "declared look "
        f"({', '.join(str(look) for look in plan.looks)} of the seeds in params.yaml) uses them",
    )
