"""Ties are shown, not assumed: two one-sided tests (Schuirmann 1987)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import integrate, stats

from lossbench.statistics.family import fewest

Array = npt.NDArray[Any]


def tost_p(differences: Array, margin: float) -> float:
    """P of the hypothesis that the mean difference lies outside ± margin.

    It is at most ``level`` exactly where the (1 − 2·level) t interval lies inside ± margin.

    Args:
        differences: (n,), in the metric's unit.
        margin: > 0, in the metric's unit.

    Returns:
        The larger of the two one-sided p-values; NaN with fewer than two differences.

    Raises:
        ValueError: if the margin is not a positive number.

    """
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"a tie needs a margin above 0, found {margin}")
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    center, spread = float(values.mean()), float(stats.sem(values))
    if spread == 0:
        return 0.0 if abs(center) < margin else 1.0
    freedom = len(values) - 1
    above = stats.t.sf((center + margin) / spread, freedom)
    below = stats.t.cdf((center - margin) / spread, freedom)
    return float(max(above, below))


def tie_power(margin: float, n: int, level: float) -> float:
    """Probability that two truly equal arms are found to tie.

    P(|d̄| + t(1 − level, n − 1)·s/√n < margin) for normal differences of standard deviation 1, integrated
    over the distribution of s.

    Args:
        margin: over the differences' standard deviation.
        n: blocks.
        level: of each one-sided test.

    """
    if n < 2:
        return 0.0
    freedom = n - 1
    critical = float(stats.t.ppf(1 - level, freedom))
    widest = margin * math.sqrt(n) / critical  # a larger s leaves no room for any mean
    spread = stats.chi(freedom, scale=1 / math.sqrt(freedom))

    def tied_and(s: float) -> float:
        room = margin * math.sqrt(n) - critical * s
        return float((2 * stats.norm.cdf(room) - 1) * spread.pdf(s))

    typical = min(widest, 1.0)
    inner = integrate.quad(tied_and, 0, typical)[0]
    outer = integrate.quad(tied_and, typical, min(widest, typical + 8 / math.sqrt(freedom)))[0]
    return float(inner + outer)


def seeds_for_tie(margin: float, level: float, wanted: float) -> int | None:
    """Fewest seeds with which two equal arms are found to tie.

    Args:
        margin: over the differences' standard deviation, > 0.
        level: of each one-sided test.
        wanted: probability of finding the tie.

    Returns:
        The number; None where no 100 000 seeds would do.

    """
    if not margin > 0:
        raise ValueError(f"a tie needs a margin above 0, found {margin}")
    return fewest(lambda n: tie_power(margin, n, level) >= wanted, start=2)
