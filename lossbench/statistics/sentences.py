"""Verdicts in words and digits that a person can read."""

import math

from lossbench.statistics.family import MOST_SEEDS
from lossbench.statistics.record import Verdict
from lossbench.statistics.trained import share_interval
from lossbench.statistics.verdict import Contrast
from lossbench.statistics.writing import LEAST_POWER, metric_name, p_value, places_of, written

FEWEST_TUNING_SEEDS = 3


def sentence(
    contrast: Contrast,
    experiment: str,
    arm: str,
    baseline: str,
    level: float,
    tuned: int = 0,
    budget: str = "",
    scope: str = "arm",
    tuning_seeds: int = 0,
) -> str:
    """Say a contrast's verdict in a sentence, with what bears on it in further ones.

    "A beats B by x (95 % a to b)" and "A is worse than B by x (95 % a to b)" both count in the direction
    of their word; ties and undecided contrasts are given as A minus B, with sign. The interval beside a tie
    is the one that shows it.

    Args:
        contrast: the verdict.
        experiment: where; "" for nowhere in particular.
        arm: the arm's loss, as the reader knows it.
        baseline: the baseline's.
        level: of the interval.
        tuned: trials the arms were tuned over.
        scope: whether they were tuned once an ``arm``, or anew for each ``replicate``.
        tuning_seeds: that each trial was trained with.
        budget: how the contrast hangs on the budget, from :func:`lossbench.statistics.budget_sensitive`.

    """
    anew = " for each replicate" if scope == "replicate" else ""
    tuning = f", tuned over {tuned} trial{'s' * (tuned > 1)}{anew}" if tuned else ""
    said = _verdict(contrast, experiment, arm, baseline, level, tuning)
    few = bool(tuned) and scope == "arm" and tuning_seeds in range(1, FEWEST_TUNING_SEEDS)
    further = [
        _edges(contrast, arm, baseline),
        f"Budget-sensitive: {budget}." if budget else "",
        _few_tuning_seeds(tuning_seeds) if few else "",
    ]
    return " ".join([said, *(one for one in further if one)])


def _few_tuning_seeds(count: int) -> str:
    """With one, a sixth of equal losses are told apart at eight replicates (benchmarks/statistics.py)."""
    return (
        f"Tuned with {count} seed{'s' * (count > 1)}: losses that do not differ are told apart more often "
        f"than the level says; give 'tuning' {FEWEST_TUNING_SEEDS} seeds, or each replicate its search."
    )


def _verdict(contrast: Contrast, experiment: str, arm: str, baseline: str, level: float, tuning: str) -> str:
    where = f"On {experiment} {arm}" if experiment else arm
    tests = f"{p_value(contrast.p_holm, level)} after {contrast.correction}, {seeds_said(contrast)}{tuning}"
    lost = _lost(contrast)
    match contrast.verdict:
        case Verdict.BETTER | Verdict.WORSE:
            value, basis = _with_interval(contrast, level, unsigned=True)
            word = "beats" if contrast.verdict == Verdict.BETTER else "is worse than"
            return f"{where} {word} {baseline} by {value} ({basis}, {tests}){lost}."
        case Verdict.TIE:
            value, basis = _with_interval(contrast, 2 * contrast.tie_level, tie=True)
            return (
                f"{where} ties with {baseline}: {value} ({basis}), within the margin of {contrast.margin:g} "
                f"({p_value(contrast.p_tie_holm, level)} for a tie after {contrast.correction}, "
                f"{seeds_said(contrast)}{tuning}){lost}."
            )
        case Verdict.UNDECIDED:
            value, basis = _with_interval(contrast, level)
            found = f"{value} ({basis}, {tests}){_apart(contrast, level)}; {_need(contrast)}{lost}"
            return f"{where} against {baseline} is undecided: {found}."
        case Verdict.NOT_TRAINED:
            value, _ = _with_interval(contrast, level)
            why = _untrained(contrast, arm, baseline)
            return f"{where} cannot be judged against {baseline} ({value}): {why}{lost}."


def _apart(contrast: Contrast, level: float) -> str:
    """Say why there is no verdict where the interval or the test alone would give one."""
    leaves = _leaves_0_out(contrast)
    if leaves and contrast.p_holm > level:
        return (
            "; the interval leaves 0 out, but p decides: it needs no normal differences, and counts all "
            "contrasts and looks"
        )
    if contrast.p_holm <= level and not leaves:
        return "; p is small, but the interval holds 0, and a verdict needs both"
    return ""


def _leaves_0_out(contrast: Contrast) -> bool:
    """Whether the interval does; False without one. Then no bound of it is written as 0."""
    return contrast.ci_low > 0 or contrast.ci_high < 0


def seeds_said(contrast: Contrast) -> str:
    """Say how many seeds there are and on how many the arm scored better: "higher on 7 of 8 seeds"."""
    seeds = f"{contrast.n} seed{'s' * (contrast.n != 1)}"
    if contrast.ahead is None:
        return seeds
    way = "higher" if contrast.higher_is_better else "lower"
    equal = f", equal on {contrast.equal}" if contrast.equal else ""
    return f"{way} on {contrast.ahead} of {seeds}{equal}"


def rounded(contrast: Contrast, level: float) -> tuple[str, str]:
    """Write difference and interval for a table; beside a tie the interval that shows it."""
    tie = contrast.verdict == Verdict.TIE
    value, interval = _with_interval(contrast, 2 * contrast.tie_level if tie else level, tie=tie)
    share, _, bounds = interval.partition(" % ")
    if not bounds:
        return value.split(" ", 1)[0], "–"
    return value.split(" ", 1)[0], f"{bounds} ({share} %)"


def _with_interval(
    contrast: Contrast, level: float, unsigned: bool = False, tie: bool = False
) -> tuple[str, str]:
    """Write the difference with its metric, and its interval."""
    bounds = [contrast.shown.low, contrast.shown.high]
    half = (bounds[1] - bounds[0]) / 2
    difference = contrast.difference
    never = bounds if not tie and _leaves_0_out(contrast) else []
    if unsigned:
        difference, bounds = abs(difference), sorted(abs(bound) for bound in bounds)
    places = places_of(difference, half, *never)
    if tie:
        places = _below(contrast.margin, bounds, places)
    low, high = (written(bound, places) for bound in bounds)
    value = f"{written(difference, places)} {metric_name(contrast.metric)}"
    if math.isnan(half):
        return value, "no interval"
    return value, f"{100 * (1 - level):.3g} % {low} to {high}"


def _below(margin: float, bounds: list[float], places: int) -> int:
    """As many places as it takes for a bound within the margin not to be rounded to it."""
    while places < LEAST_POWER and any(
        abs(bound) < margin <= abs(float(f"{bound:.{places}f}")) for bound in bounds
    ):
        places += 1
    return places


def _need(contrast: Contrast) -> str:
    """Say how many seeds a decision would take."""
    needed, tie = contrast.seeds_needed, contrast.seeds_for_tie
    if contrast.once:
        return (
            "scores or differences are the same on all seeds and so count as one: more of this kind would "
            "decide nothing"
        )
    if contrast.n < 2:
        return f"one seed shows no spread: it takes {needed or 'more'} seeds at least to show any difference"
    if needed is None and contrast.difference:
        most = f"{MOST_SEEDS:,}".replace(",", " ")
        said = f"more than {most} seeds would be needed to show a difference of the size seen"
    elif needed is None:
        said = "no number of seeds would show a difference this small"
    elif needed <= contrast.n:
        said = "an effect as large as the one seen would usually show at this many seeds"
    else:
        said = f"{_about(contrast)} would be needed to show a difference of the size seen"
    if contrast.step > contrast.margin:
        return f"{said}, and no tie can be: one test sample weighs {contrast.step:.2g}, more than the margin"
    if contrast.arm_condition.collapsed or contrast.baseline_condition.collapsed:
        return f"{said}, and no tie can be: a replicate collapsed"
    beyond = contrast.ci_low >= contrast.margin or contrast.ci_high <= -contrast.margin
    if beyond or tie is None or (needed is not None and tie >= needed):
        return said
    return f"{said}, and {_more(tie, contrast.n)} would show a tie if there is no difference"


def _about(contrast: Contrast) -> str:
    low, high = contrast.seeds_needed_low, contrast.seeds_needed_high
    if low is None or low == high:
        return f"about {contrast.seeds_needed} seeds"
    upper = f"to {high}" if high is not None else "or many more"
    return f"about {contrast.seeds_needed} seeds (likely {low} {upper})"


def _more(tie: int, n: int) -> str:
    return f"about {tie} seeds" if tie > n else "this many seeds usually"


def _untrained(contrast: Contrast, arm: str, baseline: str) -> str:
    """Say which side was not trained, why, and what to change."""
    sides = ((arm, contrast.arm_condition), (baseline, contrast.baseline_condition))
    found = [f"{name} was not trained: {' and '.join(one.untrained)}" for name, one in sides if one.untrained]
    return "; ".join(found) + "; train longer, or search other learning rates, before comparing"


def _edges(contrast: Contrast, arm: str, baseline: str) -> str:
    """Say which tuned values stand at the end of their range."""
    sides = ((arm, contrast.arm_condition), (baseline, contrast.baseline_condition))
    found = [
        f"{name}'s {edge.parameter.replace('_', ' ')} of {edge.value:g} is the {edge.end} that was tried"
        + (f" (for {edge.seeds} of {edge.of} seeds)" if edge.of else "")
        for name, one in sides
        for edge in one.edges
    ]
    if not found:
        return ""
    return f"At the edge: {'; '.join(found)}; a wider search may change this."


def _lost(contrast: Contrast) -> str:
    """Count diverged and collapsed replicates, these with the exact interval of their share."""
    said = ""
    if contrast.diverged:
        said += f"; {contrast.diverged} diverged replicate{'s' * (contrast.diverged > 1)} counted"
    for side, one in (("its own", contrast.arm_condition), ("the other's", contrast.baseline_condition)):
        if one.collapsed and not one.untrained:
            low, high = share_interval(one.collapsed, contrast.n)
            said += (
                f"; {one.collapsed} of {contrast.n} replicates ({side}) collapsed to a floor's score "
                f"(95 % {100 * low:.0f} to {100 * high:.0f} of 100 would)"
            )
    return said


def level_over_report(families: int, level: float) -> str:
    """Say what the level means for a page with several families of statements.

    Args:
        families: experiments with differences, the same with ties, and one for the declared claims.
        level: of each.

    """
    each = (
        "A family of statements (one experiment's differences, its ties, or the declared claims) holds a "
        f"false one with a probability of at most {100 * level:g} %, as long as losses that do not differ "
        "have exchangeable scores seed by seed"
    )
    if families < 2:
        return each + "."
    share = 100 * min(1.0, families * level)
    return f"{each}; there are {families} families here, so some statement errs with up to {share:.3g} %."
