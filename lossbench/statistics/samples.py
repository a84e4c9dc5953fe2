"""What a contrast is computed from: scores that pair up by seed, or two sets of seeds that do not."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from lossbench.statistics.equivalence import tie_interval, tost_p
from lossbench.statistics.family import seeds_needed, seeds_unpaired, smallest_p, smallest_unpaired_p
from lossbench.statistics.paired import (
    Interval,
    constant,
    difference_p,
    hall_cubic,
    hall_ratio,
    less,
    mean_interval,
    pair_correlation,
    rounding,
    skewness,
    spreads,
)

Array = npt.NDArray[Any]
LARGE = 1000
"""Scores of the smaller side beyond which Welch's t alone is exact enough."""
MOST_SPLITS = 200_000
"""Ways to deal scores to two arms up to which all are counted; beyond, as many are drawn."""
CHUNK = 5_000


class Sample(Protocol):
    """Scores of two arms, and what can be said of the difference of their means."""

    @property
    def n(self) -> int:
        """Replicates a side (the smaller side's, where they do not pair)."""

    @property
    def differences(self) -> Array:
        """(n,) differences, seed by seed; empty where seeds do not pair."""

    @property
    def difference(self) -> float:
        """Of the means."""

    @property
    def median(self) -> float:
        """Of the differences, or difference of the medians."""

    @property
    def spread(self) -> float:
        """Standard deviation of a difference of single scores; NaN with fewer than two a side."""

    @property
    def correlation(self) -> float:
        """Of the pairs; NaN without."""

    def p(self) -> float:
        """P of no difference."""

    def smallest_p(self) -> float:
        """Smallest p that this many seeds can give, whatever the scores."""

    def seeds_for(self, size: float, contrasts: int, level: float, wanted: float) -> int | None:
        """How many seeds show a difference of ``size`` standard deviations with the power wanted."""

    def p_tie(self, margin: float) -> float:
        """P of a difference beyond the margin."""

    def interval(self, level: float) -> Interval:
        """Give the (1 − level) interval of the difference."""

    def tie_interval(self, level: float) -> Interval:
        """Give the interval that lies inside ± margin exactly where ``p_tie`` is at most ``level``."""


@dataclass(frozen=True)
class Paired:
    """Two arms trained on the same seeds, (n,) each."""

    first: Array
    second: Array

    @cached_property
    def differences(self) -> Array:
        """(n,); 0 where two scores differ by rounding alone."""
        return less(self.first, self.second)

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.differences)

    @property
    def difference(self) -> float:
        """Mean."""
        return float(self.differences.mean()) if self.n else math.nan

    @property
    def median(self) -> float:
        """Median."""
        return float(np.median(self.differences)) if self.n else math.nan

    @property
    def spread(self) -> float:
        """Of the differences."""
        return float(spreads(self.differences)) if self.n > 1 else math.nan

    @property
    def correlation(self) -> float:
        """Pearson's."""
        return pair_correlation(self.first, self.second)

    def p(self) -> float:
        """Larger of sign-flip and Hall."""
        return difference_p(self.differences, float(rounding(self.first, self.second).sum()))

    def smallest_p(self) -> float:
        """Of the sign flips."""
        return smallest_p(self.n)

    def seeds_for(self, size: float, contrasts: int, level: float, wanted: float) -> int | None:
        """As many more as differences of exactly 0 cost, which carry no sign."""
        nonzero = np.count_nonzero(self.differences) / self.n
        return seeds_needed(size, nonzero, contrasts, level, wanted)

    def p_tie(self, margin: float) -> float:
        """TOST, by t and Hall."""
        return tost_p(self.differences, margin)

    def interval(self, level: float) -> Interval:
        """Paired t."""
        return mean_interval(self.differences, level)

    def tie_interval(self, level: float) -> Interval:
        """T and Hall, joined."""
        return tie_interval(self.differences, level)


def effect(sample: Sample) -> float:
    """Difference over its standard deviation; infinite without spread, NaN where unknown, 0 for none."""
    if sample.difference == 0 and sample.n > 1:
        return 0.0
    return sample.difference / sample.spread if sample.spread else math.copysign(math.inf, sample.difference)


@dataclass(frozen=True)
class Unpaired:
    """Two arms trained on different seeds: (n1,) and (n2,) scores.

    The test deals the pooled scores to the arms anew and compares Welch's t (Janssen 1997): exact where the
    two distributions are the same, right for many seeds where only the means are. As with pairs the larger p
    counts, here of that and Welch's own. A tie's p is corrected for skewness, too, as Hall's t is: unequal
    shapes, and equal ones with unequal numbers of seeds, skew the difference of the means.
    """

    first: Array
    second: Array

    @property
    def n(self) -> int:
        """Seeds of the smaller side."""
        return min(len(self.first), len(self.second))

    @property
    def differences(self) -> Array:
        """None pair up."""
        return np.zeros(0)

    @property
    def difference(self) -> float:
        """Of the means."""
        return float(np.mean(self.first) - np.mean(self.second))

    @property
    def median(self) -> float:
        """Difference of the medians."""
        return float(np.median(self.first) - np.median(self.second))

    @property
    def spread(self) -> float:
        """As of independent differences."""
        if self.n < 2:
            return math.nan
        return math.sqrt(float(spreads(self.first)) ** 2 + float(spreads(self.second)) ** 2)

    @property
    def correlation(self) -> float:
        """Nothing pairs."""
        return math.nan

    def p(self) -> float:
        """Larger of the permutation's p and Welch's."""
        if self.n < 2 or constant(np.concatenate([self.first, self.second])):
            return 1.0
        if self.n > LARGE:  # dealing anew would take minutes to say the same
            return self._two_sided()
        return max(welch_permutation_p(self.first, self.second), self._two_sided())

    def smallest_p(self) -> float:
        """Of the permutation."""
        return smallest_unpaired_p(len(self.first), len(self.second))

    def seeds_for(self, size: float, contrasts: int, level: float, wanted: float) -> int | None:
        """A side."""
        return seeds_unpaired(size, contrasts, level, wanted)

    def _two_sided(self) -> float:
        error, freedom = self._error()
        return float(2 * stats.t.sf(abs(self.difference) / error, freedom)) if error else 0.0

    def p_tie(self, margin: float) -> float:
        """TOST, by Welch's t and as Hall corrects it."""
        if self.n < 2:
            return math.nan
        error, freedom = self._error()
        if not error:
            return 0.0 if abs(self.difference) < margin else 1.0
        below, above = stats.t.cdf(self._ts(margin), freedom), stats.t.sf(self._ts(-margin), freedom)
        return float(max(below.max(), above.max()))

    def interval(self, level: float) -> Interval:
        """Welch's."""
        if self.n < 2:
            return Interval(math.nan, math.nan)
        error, freedom = self._error()
        half = float(stats.t.ppf(1 - level / 2, freedom)) * error if error else 0.0
        return Interval(self.difference - half, self.difference + half)

    def tie_interval(self, level: float) -> Interval:
        """Welch's at (1 − 2·level) and Hall's, joined."""
        plain = self.interval(2 * level)
        if self.n < 2:
            return plain
        error, freedom = self._error()
        if not error:
            return plain
        quantile = float(stats.t.ppf(1 - level, freedom))
        low, high = (
            self.difference - error * float(hall_ratio(q, self._skew(), 1)) for q in (quantile, -quantile)
        )
        return Interval(min(plain.low, low), max(plain.high, high))

    def _ts(self, centre: float) -> Array:
        """(2,): Welch's t of a difference of ``centre``, and as Hall's cubic corrects it."""
        t = (self.difference - centre) / self._error()[0]
        return np.array([t, hall_cubic(t, self._skew(), 1)])

    def _skew(self) -> float:
        """Of the difference of the means: its third cumulant over its standard error's cube."""
        first, second = (
            float(skewness(one)) * float(spreads(one)) ** 3 / len(one) ** 2
            for one in (self.first, self.second)
        )
        return (first - second) / self._error()[0] ** 3

    def _error(self) -> tuple[float, float]:
        """Standard error of the difference, and Satterthwaite's degrees of freedom."""
        parts = [float(spreads(one)) ** 2 / len(one) for one in (self.first, self.second)]
        total = sum(parts)
        if not total:
            return 0.0, 1.0
        sizes = (len(self.first) - 1, len(self.second) - 1)
        return math.sqrt(total), total**2 / sum(
            part**2 / freedom for part, freedom in zip(parts, sizes, strict=True)
        )


def welch_permutation_p(first: Array, second: Array, seed: int = 0) -> float:
    """Two-sided p of Welch's t under dealing the pooled scores to both arms anew.

    Args:
        first: (n1,), n1 ≥ 2.
        second: (n2,), n2 ≥ 2.
        seed: of the drawn permutations, where there are more than 200 000 ways.

    Returns:
        p in (0, 1]; exact where all ways are counted, (b + 1)/(m + 1) where they are drawn.

    """
    pooled = np.concatenate([first, second]).astype(np.float64)
    close = 8 * float(np.spacing(np.abs(pooled).max()))  # what the scores themselves may be off by
    pooled = pooled - pooled.mean()
    count = len(pooled)
    observed = float(_welch(pooled[None, : len(first)], pooled[None, len(first) :])[0])
    pooled = pooled[np.lexsort((pooled, np.abs(pooled)))]  # the same draws, whatever the order and the sign
    size = min(len(first), len(second))
    # t that differ by rounding alone are equal: by its own, and by that of scores far larger than it
    share = max(1e-9, close / float(pooled.std()))
    reached = observed - share * abs(observed) if math.isfinite(observed) else observed
    exact = math.comb(count, size) <= MOST_SPLITS
    extreme = total = 0
    for chosen in _all_splits(count, size) if exact else _drawn_splits(count, size, seed):
        rest = _complement(chosen, count)
        extreme += int(np.count_nonzero(_welch(pooled[chosen], pooled[rest]) >= reached))
        total += len(chosen)
    return extreme / total if exact else (extreme + 1) / (total + 1)


def _welch(first: Array, second: Array) -> Array:
    """|t| of rows (k, n1) against rows (k, n2); infinite where nothing varies within either."""
    error = first.var(-1, ddof=1) / first.shape[-1] + second.var(-1, ddof=1) / second.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(
            np.nan_to_num(np.abs(first.mean(-1) - second.mean(-1)) / np.sqrt(error), posinf=np.inf)
        )


def _all_splits(count: int, size: int) -> Iterator[Array]:
    ways = combinations(range(count), size)
    while rows := list(islice(ways, CHUNK)):
        yield np.array(rows)


def _drawn_splits(count: int, size: int, seed: int) -> Iterator[Array]:
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(MOST_SPLITS // CHUNK):
        yield rng.random((CHUNK, count)).argsort(axis=1)[:, :size]


def _complement(chosen: Array, count: int) -> Array:
    free = np.ones((len(chosen), count), dtype=bool)
    np.put_along_axis(free, chosen, False, axis=1)
    return np.nonzero(free)[1].reshape(len(chosen), -1)
