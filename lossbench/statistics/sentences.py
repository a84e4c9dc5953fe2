"""Verdicts in words and digits that a person can read."""

import math

from lossbench.statistics.verdict import Contrast, Verdict

WORDS = {"iou": "IoU", "f1": "F1", "map": "mAP", "auroc": "AUROC", "nll": "NLL", "ece": "ECE", "mse": "MSE"}
MOST_PLACES = 6


def digits(value: float, spread: float) -> str:
    """Write a value to the digit that its uncertainty (the interval's half width) leaves meaningful."""
    return _written(value, _places(spread))


def p_value(p: float) -> str:
    """Write a p-value."""
    if math.isnan(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def metric_name(metric: str) -> str:
    """Write a metric as people do: ``mean_iou`` is mean IoU."""
    return " ".join(WORDS.get(word, word) for word in metric.split("_"))


def sentence(
    contrast: Contrast, experiment: str, arm: str, baseline: str, level: float, tuned: int = 0
) -> str:
    """Say a contrast's verdict in one sentence.

    "A beats B by x (95 % a to b)" and "A is worse than B by x (95 % a to b)" both count in the direction
    of their word; ties and undecided contrasts are given as A minus B, with sign.

    Args:
        contrast: the verdict.
        experiment: where.
        arm: the arm's loss, as the reader knows it.
        baseline: the baseline's.
        level: of the interval.
        tuned: trials the arms were tuned over.

    """
    metric = metric_name(contrast.metric)
    settled = contrast.verdict in (Verdict.BETTER, Verdict.WORSE)
    value, basis = _with_interval(contrast, level, metric, settled)
    tests = f"{p_value(contrast.p_holm)} after Holm, {contrast.n} seeds"
    tuning = f", tuned over {tuned} trials" if tuned else ""
    against = f"On {experiment} {arm}"
    match contrast.verdict:
        case Verdict.BETTER | Verdict.WORSE:
            word = "beats" if contrast.verdict == Verdict.BETTER else "is worse than"
            return f"{against} {word} {baseline} by {value} ({basis}, {tests}{tuning}){_lost(contrast)}."
        case Verdict.TIE:
            return (
                f"{against} ties with {baseline}: {value} ({basis}), within the margin of "
                f"{contrast.margin:g} ({p_value(contrast.p_tie)} for a tie, {contrast.n} seeds{tuning})"
                f"{_lost(contrast)}."
            )
        case Verdict.UNDECIDED:
            return (
                f"{against} against {baseline} is undecided: {value} ({basis}, {tests}{tuning}); "
                f"{_need(contrast)}{_lost(contrast)}."
            )


def _with_interval(contrast: Contrast, level: float, metric: str, unsigned: bool) -> tuple[str, str]:
    """Write the difference with its metric, and its interval."""
    bounds = [contrast.ci_low, contrast.ci_high]
    difference = contrast.difference
    if unsigned:
        difference, bounds = abs(difference), sorted(abs(bound) for bound in bounds)
    places = _places((contrast.ci_high - contrast.ci_low) / 2, *(bounds if unsigned else []))
    low, high = (_written(bound, places) for bound in bounds)
    return f"{_written(difference, places)} {metric}", f"{_percent(level)} {low} to {high}"


def _places(spread: float, *never_zero: float) -> int:
    """Decimal places: the half width's second digit where its first is 1 or 2, else the first.

    A bound on which a verdict rests is not to be rounded to 0; it gets as many places as that takes.
    """
    if not spread or not math.isfinite(spread):
        places = 3
    else:
        exponent = math.floor(math.log10(spread))
        leading = spread / 10.0**exponent
        places = (1 if leading < 3 else 0) - exponent
    places = max(0, min(MOST_PLACES, places))
    while places < MOST_PLACES and any(bound and float(f"{bound:.{places}f}") == 0 for bound in never_zero):
        places += 1
    return places


def _written(value: float, places: int) -> str:
    if not math.isfinite(value):
        return "–"
    written = f"{value:.{places}f}"
    return written.removeprefix("-") if float(written) == 0 else written.replace("-", "−")


def _percent(level: float) -> str:
    return f"{100 * (1 - level):g} %"


def _need(contrast: Contrast) -> str:
    if contrast.seeds_needed is None:
        return "no number of seeds would show a difference this small"
    if contrast.seeds_needed <= contrast.n:
        return "an effect as large as the one seen would usually show at this many seeds"
    return f"{contrast.seeds_needed} seeds would be needed to show a difference of the size seen"


def _lost(contrast: Contrast) -> str:
    if not contrast.diverged:
        return ""
    return f"; {contrast.diverged} diverged replicate{'s' if contrast.diverged > 1 else ''} counted"
