"""Seeds × examples: an interval for new seeds *and* new test examples.

A seed-only interval speaks of this test set. This one speaks of the population that the test set was drawn
from. It is shown beside the verdict, named, and decides none.

The variance of the mean difference has a part from seeds and a part from examples. Seeds are few, so
their part is the paired-t one, s²/n; examples are many and the metric need not be a mean of them (IoU,
balanced accuracy), so their part is bootstrapped: the metric is computed anew from its sufficient
statistics, for both arms and all seeds on the same resampled examples. The two parts are added; the
interaction of seeds and examples is in both, which errs on the wide side (as Owen's pigeonhole bootstrap
does, 0712.1111). Degrees of freedom: Satterthwaite (1946). A percentile bootstrap over seeds is not used:
with few seeds it is too narrow. Limits: test examples must be independent draws (not frames of one video);
the arms' scores on a resample must exist, or the interval is NaN.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from lossbench.statistics.paired import Interval

Array = npt.NDArray[Any]
DRAWS = 1000
CHUNK = 100
"""Resamples held at once."""


def seeds_by_examples(
    arm: Array,
    baseline: Array,
    metric: Callable[[Array], Array],
    level: float,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """Interval of the mean difference between two arms, never narrower than the seed-only one.

    Args:
        arm: (seeds, examples, K) sufficient statistics.
        baseline: the same, same seeds and examples.
        metric: turns summed statistics (..., K) into the metric (...).
        level: 0.05 for a 95 % interval.
        seed: of the resampling.
        draws: resamples of the examples.

    Raises:
        ValueError: if the shapes differ, or there are fewer than two seeds or examples.

    """
    _check(arm, baseline)
    seeds, examples, _ = arm.shape
    gaps = metric(arm.sum(axis=1, dtype=np.float64)) - metric(baseline.sum(axis=1, dtype=np.float64))
    of_seeds = float(np.var(gaps, ddof=1)) / seeds
    of_examples = float(np.var(_resampled(arm, baseline, metric, seed, draws), ddof=1))
    total = of_seeds + of_examples
    center = float(gaps.mean())
    if total == 0 or math.isnan(total):
        return Interval(center - total, center + total)
    freedom = total**2 / (of_seeds**2 / (seeds - 1) + of_examples**2 / (examples - 1))
    half = max(
        stats.t.ppf(1 - level / 2, freedom) * math.sqrt(total),
        stats.t.ppf(1 - level / 2, seeds - 1) * math.sqrt(of_seeds),
    )
    return Interval(center - float(half), center + float(half))


def sample_weight(statistics: Array, metric: Callable[[Array], Array]) -> float:
    """What one test sample weighs: the most that leaving one out moves the metric, mean over seeds.

    Args:
        statistics: (seeds, examples, K) sufficient statistics of one arm.
        metric: turns summed statistics (..., K) into the metric (...).

    """
    values = np.asarray(statistics, dtype=np.float64)
    total = values.sum(axis=1, keepdims=True)
    moved = np.abs(metric(total - values) - metric(total))
    return float(np.nanmax(moved, axis=1).mean())


def _resampled(arm: Array, baseline: Array, metric: Callable[[Array], Array], seed: int, draws: int) -> Array:
    """Mean difference over seeds for each of ``draws`` bootstrap samples of the examples, (draws,)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    examples = arm.shape[1]
    found = np.empty(draws)
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        weights = rng.multinomial(examples, np.full(examples, 1 / examples), size).astype(np.float64)
        # (seeds, size, K): every seed's statistics under every draw of examples
        totals = [np.matmul(weights, one.astype(np.float64)) for one in (arm, baseline)]
        found[start : start + size] = (metric(totals[0]) - metric(totals[1])).mean(axis=0)
    return found


def _check(arm: Array, baseline: Array) -> None:
    if arm.shape != baseline.shape or arm.ndim != 3:
        raise ValueError(
            "both arms need statistics of the same seeds and examples, shape (seeds, examples, K); "
            f"found {arm.shape} and {baseline.shape}"
        )
    if min(arm.shape[:2]) < 2:
        raise ValueError(
            f"an interval over seeds and examples needs two of each, found {arm.shape[0]} seeds "
            f"and {arm.shape[1]} examples"
        )
