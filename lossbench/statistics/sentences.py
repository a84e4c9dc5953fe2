"""Verdicts in words and digits that a person can read."""

import math

from lossbench.statistics.verdict import Contrast, Verdict


def digits(value: float, spread: float) -> str:
    """Write a value to the digit that its uncertainty (the interval's half width) leaves meaningful."""
    if not math.isfinite(value):
        return "–"
    places = (
        3 if not spread or not math.isfinite(spread) else max(0, min(6, 1 - math.floor(math.log10(spread))))
    )
    return f"{value:.{places}f}"


def p_value(p: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def sentence(
    contrast: Contrast, experiment: str, arm: str, baseline: str, level: float, tuned: int = 0
) -> str:
    """Say a contrast's verdict in one sentence.

    Args:
        contrast: the verdict.
        experiment: where.
        arm: the arm's loss, as the reader knows it.
        baseline: the baseline's.
        level: of the interval.
        tuned: trials the arms were tuned over.

    """
    half = (contrast.ci_high - contrast.ci_low) / 2
    show = [digits(value, half) for value in (abs(contrast.difference), contrast.ci_low, contrast.ci_high)]
    metric = contrast.metric.replace("_", " ")
    sign = "" if contrast.difference >= 0 else "−"
    low, high = (one.replace("-", "−") for one in show[1:])
    basis = f"{100 * (1 - level):.0f} % {low} to {high}"
    tests = f"{p_value(contrast.p_holm)} after Holm, {contrast.n} seeds"
    tuning = f", tuned over {tuned} trials" if tuned else ""
    match contrast.verdict:
        case Verdict.BETTER | Verdict.WORSE:
            word = "beats" if contrast.verdict == Verdict.BETTER else "is worse than"
            return (
                f"On {experiment} {arm} {word} {baseline} by {show[0]} {metric} ({basis}, {tests}{tuning})."
            )
        case Verdict.TIE:
            return (
                f"On {experiment} {arm} ties with {baseline}: {sign}{show[0]} {metric} ({basis}), within the margin "
                f"of {contrast.margin:g} (p = {contrast.p_tie:.3f} for a tie, {contrast.n} seeds{tuning})."
            )
        case Verdict.UNDECIDED:
            need = _need(contrast)
            return (
                f"On {experiment} {arm} against {baseline} is undecided: {sign}{show[0]} {metric} "
                f"({basis}, {tests}{tuning}); {need}."
            )


def _need(contrast: Contrast) -> str:
    if contrast.seeds_needed is None:
        return "no number of seeds would show a difference this small"
    if contrast.seeds_needed <= contrast.n:
        return "an effect as large as the one seen would usually show at this many seeds"
    return f"{contrast.seeds_needed} seeds would be needed to show a difference of the size seen"
