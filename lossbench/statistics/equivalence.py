"""Ties are shown, not assumed: two one-sided tests (Schuirmann 1987), each by t and by Hall's t.

Skewed differences make the plain t too sure (at the margin .089 wrong ties of a nominal .05 with gamma(4)
differences and 8 seeds), so each side's p is the larger of the two.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from lossbench.statistics.family import fewest
from lossbench.statistics.paired import (
    Interval,
    hall_bounds,
    hall_ratio,
    hall_statistic,
    mean_interval,
    normal_skewness,
    spreads,
)

Array = npt.NDArray[Any]
FAR = 12.0
"""Standard deviations of s beyond which its distribution has nothing left."""
NODES, WEIGHTS = (
    (part + shift) / 2 for part, shift in zip(np.polynomial.legendre.leggauss(100), (1, 0), strict=True)
)
"""Of a quadrature over (0, 1)."""


def tost_p(differences: Array, margin: float) -> float:
    """P of the hypothesis that the mean difference lies outside ± margin.

    It is at most ``level`` exactly where :func:`tie_interval` at that level lies inside ± margin.

    Args:
        differences: (n,), in the metric's unit.
        margin: > 0, in the metric's unit.

    Returns:
        The largest of the four one-sided p-values; NaN with fewer than two differences.

    Raises:
        ValueError: if the margin is not a positive number.

    """
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"a tie needs a margin above 0, found {margin}")
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    return float(tost_ps(values, margin))


def tost_ps(differences: Array, margin: float) -> Array:
    """:func:`tost_p` over the last axis of (..., n), n ≥ 2, unchecked."""
    values = np.asarray(differences, dtype=np.float64)
    n = values.shape[-1]
    centre, error = values.mean(-1), spreads(values) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.minimum((centre + margin) / error, hall_statistic(values, -margin))
        below = np.maximum((centre - margin) / error, hall_statistic(values, margin))
    p = np.maximum(stats.t.sf(above, n - 1), stats.t.cdf(below, n - 1))
    # no spread: a difference of exactly the margin is 0/0, and no tie
    return np.asarray(np.nan_to_num(p, nan=1.0))


def tie_interval(differences: Array, level: float) -> Interval:
    """The (1 − 2·level) interval that shows a tie: the t interval and Hall's, joined.

    Args:
        differences: (n,), in the metric's unit.
        level: of each one-sided test.

    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return Interval(math.nan, math.nan)
    plain = mean_interval(values, 2 * level)
    low, high = hall_bounds(values, 2 * level)
    return Interval(min(plain.low, low), max(plain.high, high))


def tie_power(margin: float, n: int, level: float) -> float:
    """Probability that two truly equal arms are found to tie.

    The joined interval of :func:`tie_interval` lies inside ± margin, for normal differences of standard
    deviation 1: integrated over the distributions of s and of the skewness, which are independent of the
    mean.

    Args:
        margin: over the differences' standard deviation.
        n: blocks.
        level: of each one-sided test.

    """
    if n < 2:
        return 0.0
    freedom = n - 1
    quantile = float(special.stdtrit(freedom, 1 - level)) / math.sqrt(n)
    widest = margin / quantile  # a larger s leaves no room for any mean
    near = FAR / math.sqrt(2 * freedom)  # s lies within 1 ± this
    low, high = max(0.0, 1 - near), min(widest, 1 + near)
    if high <= low:
        return 0.0
    s = low + (high - low) * NODES
    skew, shares = normal_skewness(n)
    below = np.maximum(quantile, hall_ratio(quantile, skew, n))[:, None]
    above = np.maximum(quantile, -hall_ratio(-quantile, skew, n))[:, None]
    ends = math.sqrt(n) * (margin - above * s), math.sqrt(n) * (below * s - margin)
    inside = np.maximum(special.ndtr(ends[0]) - special.ndtr(ends[1]), 0.0)
    log_density = (
        math.log(2) + freedom / 2 * math.log(freedom / 2) - special.gammaln(freedom / 2)
        + (freedom - 1) * np.log(s) - freedom * s**2 / 2
    )  # fmt: skip
    return float((high - low) * np.sum(WEIGHTS * (shares @ inside) * np.exp(log_density)))


def seeds_for_tie(margin: float, level: float, wanted: float, least: int = 2) -> int | None:
    """Fewest seeds with which two equal arms are found to tie.

    Args:
        margin: over the differences' standard deviation, > 0.
        level: of each one-sided test.
        wanted: probability of finding the tie.
        least: seeds below which no tie is claimed.

    Returns:
        The number; None where no 100 000 seeds would do.

    """
    if not margin > 0:
        raise ValueError(f"a tie needs a margin above 0, found {margin}")
    return fewest(lambda n: tie_power(margin, n, level) >= wanted, start=least)
