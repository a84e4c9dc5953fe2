"""Contrasts at smaller budgets: whether a verdict hangs on how long one trains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lossbench.execution.declared import plan_of
from lossbench.reporting.inputs import Evaluated, Study
from lossbench.statistics.looks import stage_of
from lossbench.statistics.record import Plan
from lossbench.statistics.samples import Paired
from lossbench.statistics.trained import AtBudget, Condition, Training, budget_sensitive, condition
from lossbench.statistics.verdict import Comparison, Contrast, Rules, judge

Judged = tuple[Contrast, tuple[int, ...]]
"""A contrast, and the seeds it was judged on."""


@dataclass(frozen=True)
class Budgeted:
    """One contrast at every budget, the whole last; empty where no budgets are declared.

    Attributes:
        contrasts: share of the epochs and what was found there.
        clause: how the verdict hangs on the budget; "" where it does not.

    """

    contrasts: tuple[tuple[float, Contrast], ...] = ()
    clause: str = ""


def budgeted(
    one: Evaluated, study: Study, judged: Sequence[Judged], rules: Rules, floors: Mapping[str, float]
) -> list[Budgeted]:
    """Judge contrasts at the smaller budgets, each on the seeds that it was judged on at the whole.

    Args:
        one: the experiment's outs.
        study: all outs.
        judged: contrasts at the whole budget, with their seeds.
        rules: of the verdicts.
        floors: name → score of a predictor that needs no training.

    """
    if "budgets" not in one.tables or not judged:
        return [Budgeted()] * len(judged)
    plan, found = plan_of(study.params), [[(1.0, contrast)] for contrast, _ in judged]
    for share in sorted({float(share) for share in one.tables["budgets"]["share"]}, reverse=True):
        compared = [_comparison(one, share, contrast, seeds, rules, floors) for contrast, seeds in judged]
        there = [(number, each) for number, each in enumerate(compared) if each is not None]
        contrasts = _judge([each for _, each in there], one.metric, rules, plan, len(judged))
        for (number, _), contrast in zip(there, contrasts, strict=True):
            found[number].insert(0, (share, contrast))
    return [Budgeted(tuple(each), _clause(each, rules.margin)) for each in found]


def _clause(found: Sequence[tuple[float, Contrast]], margin: float) -> str:
    at = [AtBudget(share, str(contrast.verdict), contrast.difference) for share, contrast in found]
    return budget_sensitive(at, margin)


def _judge(
    compared: Sequence[Comparison], metric: str, rules: Rules, plan: Plan | None, family: int
) -> list[Contrast]:
    if plan is None:
        return judge(compared, metric, rules, family=family)
    return [
        contrast
        for each in compared
        for contrast in judge(
            [each], metric, rules, stage_of(plan, plan.looks.index(each.sample.n), family), family
        )
    ]


def _comparison(
    one: Evaluated,
    share: float,
    contrast: Contrast,
    seeds: Sequence[int],
    rules: Rules,
    floors: Mapping[str, float],
) -> Comparison | None:
    """Two arms at a budget; None where a replicate has no score."""
    table = one.tables["budgets"]
    chosen = table[(table["share"] == share) & (table["metric"] == one.metric)]
    values, states, lost = [], [], 0
    for arm in (contrast.arm, contrast.baseline):
        mine = chosen[chosen["arm"] == arm].set_index("seed")
        scores = np.array([float(mine["value"].get(seed, math.nan)) for seed in seeds])
        if not np.isfinite(scores).all():
            return None
        values.append(scores)
        states.append(_condition(one, arm, share, scores, rules, floors))
        lost += int(sum(bool(mine["diverged"][seed]) for seed in seeds))
    return Comparison(
        arm=contrast.arm,
        baseline=contrast.baseline,
        sample=Paired(values[0], values[1]),
        diverged=lost,
        arm_condition=states[0],
        baseline_condition=states[1],
    )


def _condition(
    one: Evaluated,
    arm: str,
    share: float,
    scores: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    rules: Rules,
    floors: Mapping[str, float],
) -> Condition:
    described = next(each for each in one.arms[arm]["budgets"] if each["share"] == share)
    constant = one.arms[arm].get("constant_loss")
    training = Training(
        last_losses=tuple(math.inf if loss is None else loss for loss in described["last_losses"]),
        constant_loss=None if constant is None else float(constant),
    )
    return condition(scores, floors, rules.margin, rules.higher_is_better, training)
