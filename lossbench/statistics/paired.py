"""Paired differences over blocks: their interval and their p-values.

Two tests stand side by side, for they fail apart. Sign flips hold their level where the two arms' scores are
exchangeable seed by seed (identical distributions); with equal means but unequal shapes they do not. Hall's
t takes the skewness of the differences into account, which is where that shows. What counts is the larger p.

Nothing here is a bootstrap over seeds or a ±1.96 SE: at the seed counts of deep learning both claim too
much (false-positive rates of .18 and .13 at n = 5 where 5 % was asked for).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[Any]
EXACT_UP_TO = 32
"""Non-zero differences up to which all 2^n sign vectors are counted (by halves: 2^16 sums, milliseconds)."""
SAME = 1e-12
"""Scores that differ by less than this share of their size differ by rounding alone."""
DRAWS = 200_000
"""Sign vectors drawn beyond that."""
BYTE = 8
SKEW_NODES = 20


@dataclass(frozen=True)
class Interval:
    """Bounds of a confidence interval."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside."""
        return value < self.low or value > self.high

    def inside(self, low: float, high: float) -> bool:
        """Whether the interval lies wholly within (low, high)."""
        return low < self.low and self.high < high

    def within(self, low: float, high: float) -> "Interval":
        """Cut off what the quantity cannot be: no accuracy exceeds 1. That costs no coverage."""
        return Interval(min(max(self.low, low), high), max(min(self.high, high), low))


def mean_interval(values: Array, level: float) -> Interval:
    """T interval of the mean: mean ± t(1 − level/2, n − 1) · sd/√n.

    Args:
        values: (n,), in the metric's unit.
        level: 0.05 for a 95 % interval.

    Returns:
        Its bounds; NaN with fewer than two values, or where a value is NaN.

    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Interval(math.nan, math.nan)
    half = float(stats.t.ppf(1 - level / 2, len(values) - 1)) * float(stats.sem(values))
    return Interval(float(values.mean()) - half, float(values.mean()) + half)


def sign_flip_p(differences: Array, seed: int = 0, rounding: float = 0.0) -> float:
    """Two-sided p of the sign-flip permutation test (Fisher 1935).

    Under the null a block's difference is as likely d as −d. Exact over all 2^n sign vectors up to n = 32;
    above, Monte Carlo with the observed vector counted in: (b + 1)/(m + 1).

    Args:
        differences: (n,), finite; zeros carry no sign and are left out.
        seed: of the Monte Carlo draws.
        rounding: what their sum may be off by; sums that are closer count as equal.

    Returns:
        p in (0, 1]; 1 where every difference is 0.

    Raises:
        ValueError: if a difference is NaN or infinite.

    """
    nonzero = finite(differences, "differences")
    nonzero = nonzero[nonzero != 0]
    n = len(nonzero)
    if n == 0:
        return 1.0
    # Sums that differ by rounding alone count as equal.
    reached = abs(nonzero.sum()) - max(1e-12 * np.abs(nonzero).sum(), rounding)
    if reached <= 0:
        return 1.0
    if n <= EXACT_UP_TO:
        return 2 * _sums_at_least(nonzero, reached) / 2.0**n
    sized = np.sort(np.abs(nonzero))  # the same draws, whatever the order of seeds and arms
    extreme = int(np.count_nonzero(np.abs(_drawn_sums(sized, DRAWS, seed)) >= reached))
    return (extreme + 1) / (DRAWS + 1)


def _drawn_sums(values: Array, draws: int, seed: int) -> Array:
    """Sums Σ ±v under ``draws`` random sign vectors.

    Eight values at a time: a random byte chooses among their 256 signed sums, so that twenty thousand values
    cost seconds and no more memory than eight.
    """
    random = np.random.PCG64(seed)
    sums, chosen = np.zeros(draws), np.empty(draws)
    for start in range(0, len(values), BYTE):
        some = values[start : start + BYTE]
        # The upper bits of 16: what Generator.integers(…, dtype=uint16) takes, in a third of its time.
        bits = random.random_raw(-(-draws // 4)).astype("<u8", copy=False).view("<u2")[:draws]
        which = (bits >> (16 - len(some))).astype(np.intp)
        sums += np.take(_all_signed_sums(some), which, out=chosen, mode="clip")
    return sums


def _sums_at_least(values: Array, reached: float) -> int:
    """Count the sign vectors with Σ ±v ≥ ``reached``.

    The 2^n sums are never written down: every sum is one of the first half's 2^(n/2) plus one of the
    second half's, and a sorted half is counted by bisection (Horowitz and Sahni 1974).
    """
    half = len(values) // 2
    left, right = _all_signed_sums(values[:half]), np.sort(_all_signed_sums(values[half:]))
    below = np.searchsorted(right, reached - left, side="left")
    return int((len(right) - below).sum())


def _all_signed_sums(values: Array) -> Array:
    """All 2^n sums Σ ±v, built by doubling."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def hall_statistic(differences: Array, centre: float = 0.0) -> Array:
    """Student's t of mean ``centre``, transformed so that skewed differences follow t (Hall 1992, cubic).

    With r = (mean − centre)/sd and skewness γ: √n (r + γr²/3 + γ²r³/27 + γ/6n), monotone in r.

    Args:
        differences: (..., n), n ≥ 2.
        centre: the mean under the null.

    Returns:
        (...); ±inf where the differences do not vary, and NaN where they do not vary from ``centre``.

    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.shape[-1]
    spread = spreads(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (values.mean(-1) - centre) / spread
        cubic = hall_cubic(ratio, skewness(values), n)
        return np.asarray(np.sqrt(n) * np.where(np.isfinite(ratio), cubic, ratio))


def hall_cubic(ratio: Array | float, skew: Array | float, n: int) -> Array:
    """Hall's transformation of a ratio r: r + γr²/3 + γ²r³/27 + γ/6n; :func:`hall_ratio` undoes it."""
    return np.asarray(ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / (6 * n))


def hall_p(differences: Array, centre: float = 0.0) -> Array:
    """Two-sided p of Hall's skewness-corrected t over the last axis; 1 where nothing leaves ``centre``."""
    freedom = np.asarray(differences).shape[-1] - 1
    p = 2 * stats.t.sf(np.abs(hall_statistic(differences, centre)), freedom)
    return np.asarray(np.nan_to_num(p, nan=1.0))


def hall_bounds(values: Array, level: float) -> tuple[float, float]:
    """Interval of the mean that holds exactly the centres which :func:`hall_p` does not reject."""
    n = len(values)
    spread, skew = float(spreads(values)), float(skewness(values))
    quantile = float(stats.t.ppf(1 - level / 2, n - 1)) / math.sqrt(n)
    centre = float(np.mean(values))
    low, high = (centre - spread * float(hall_ratio(q, skew, n)) for q in (quantile, -quantile))
    return low, high


def hall_ratio(quantile: Array | float, skew: Array | float, n: int) -> Array:
    """Mean over standard deviation at which Hall's statistic is √n · ``quantile``: the cubic inverted.

    r = 3/γ · (∛(1 + γ(q − γ/6n)) − 1).

    Args:
        quantile: q, of t over √n.
        skew: γ of the differences.
        n: their number.

    """
    skew = np.asarray(skew, dtype=np.float64)
    moved = quantile - skew / (6 * n)
    flat = np.abs(skew) < 1e-8
    safe = np.where(flat, 1.0, skew)
    return np.asarray(np.where(flat, moved, 3 / safe * (np.cbrt(1 + safe * moved) - 1)))


def normal_skewness(n: int) -> tuple[Array, Array]:
    """Quadrature over the skewness of n normal differences, which says nothing of their t (Basu 1955).

    Returns:
        (k,) values and (k,) weights: of a normal distribution with its variance, cut to what n values can
        have.

    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(SKEW_NODES)
    variance = 6 * (n - 2) / ((n + 1) * (n + 3))
    most = (n - 2) / math.sqrt(n - 1)
    return np.clip(math.sqrt(variance) * nodes, -most, most), weights / weights.sum()


def spreads(values: Array) -> Array:
    """Standard deviation over the last axis; exactly 0 where the values differ by rounding alone."""
    spread = values.std(-1, ddof=1)
    return np.where(np.ptp(values, axis=-1) <= SAME * np.abs(values).max(-1), 0.0, spread)


def skewness(values: Array) -> Array:
    """Third standardised moment over the last axis; 0 where nothing varies."""
    deviations = values - values.mean(-1, keepdims=True)
    second, third = (deviations**2).mean(-1), (deviations**3).mean(-1)
    flat = spreads(values) == 0
    return np.where(flat, 0.0, third / np.where(flat, 1.0, second) ** 1.5)


def difference_p(differences: Array, rounding: float = 0.0) -> float:
    """P of "the arms do not differ": the larger of the sign-flip p and Hall's.

    Args:
        differences: (n,), finite, in the metric's unit.
        rounding: what their sum may be off by, that of :func:`rounding`.

    Returns:
        p in (0, 1]; 1 with fewer than two differences.

    """
    values = finite(differences, "differences")
    if len(values) < 2:
        return 1.0
    return max(sign_flip_p(values, rounding=rounding), float(hall_p(values)))


def rounding(first: Array | float, second: Array | float) -> Array:
    """What each difference of scores may be off by: a share of the *scores*, which may be far larger."""
    return np.asarray(SAME * np.maximum(np.abs(first), np.abs(second)))


def less(first: Array | float, second: Array | float) -> Array:
    """First − second, with one value for differences that differ by rounding alone; exactly 0 for none.

    0.9813 − 0.9812 and 0.9807 − 0.9806 are one difference, which the last digits that a float holds of the
    scores would make two.

    Args:
        first: (n,), in the metric's unit.
        second: (n,), or one number for all.

    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    close = np.broadcast_to(rounding(first, second), difference.shape)
    difference = np.where((np.abs(difference) <= close) & np.isfinite(close), 0.0, difference)
    if difference.ndim == 0:
        return difference
    sizes = np.abs(difference)
    order = np.argsort(sizes, kind="stable")
    ranked, off = sizes[order], close[order]
    with np.errstate(invalid="ignore"):
        begins = np.diff(ranked, prepend=-np.inf) > np.minimum(off, np.roll(off, 1))
    begins[:1] = True
    begins[1:] |= ranked[:-1] == 0
    begins |= ~np.isfinite(ranked)  # what a replicate lacks stays lacking
    shared = np.empty_like(sizes)
    shared[order] = ranked[begins][np.cumsum(begins) - 1]
    return np.asarray(np.copysign(shared, difference))


def constant(values: Array) -> bool:
    """Whether there is only one value, but for rounding: such values count once, however often they stand."""
    values = np.asarray(values, dtype=np.float64)
    return bool(np.ptp(values) <= SAME * np.abs(values).max())


def pair_correlation(first: Array, second: Array) -> float:
    """Pearson correlation of two arms over blocks: what pairing was worth; NaN where an arm is constant."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def finite(values: Array, what: str) -> Array:
    """Return ``values`` as float64, refusing what no statistic can be made of.

    Raises:
        ValueError: if they are not one-dimensional, or one is NaN or infinite.

    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"{what} must be one value per seed, found shape {values.shape}")
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{what} must be finite, found {values[where]} at position {where}")
    return values
