"""Seeds × examples: an interval for new seeds *and* new test examples.

A seed-only interval speaks of this test set. Here seeds (in blocks) and test examples are resampled
independently and the metric is computed anew from its sufficient statistics (Owen 2007, the pigeonhole
bootstrap). It is conservative, and with fewer than about 10 seeds its seed part is rough: it is shown
beside the verdict and decides none.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.statistics.paired import Interval

Array = npt.NDArray[Any]
DRAWS = 1000


def seeds_by_examples(
    arm: Array,
    baseline: Array,
    metric: Callable[[Array], Array],
    level: float,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """Percentile interval of the difference between two arms.

    Args:
        arm: (seeds, examples, K) sufficient statistics.
        baseline: the same, same seeds and examples.
        metric: turns summed statistics (..., K) into the metric (...).
        level: 0.05 for a 95 % interval.
        seed: of the resampling.
        draws: resamples.

    """
    rng = np.random.Generator(np.random.PCG64(seed))
    seeds, examples, _ = arm.shape
    found = np.empty(draws)
    for start in range(0, draws, 100):
        size = min(100, draws - start)
        weights = rng.multinomial(examples, np.full(examples, 1 / examples), size).astype(np.float32)
        rows = rng.integers(seeds, size=(size, seeds))
        # (size, seeds, K): every seed's statistics under every draw of examples
        totals = [np.einsum("be,sek->bsk", weights, one, optimize=True) for one in (arm, baseline)]
        gaps = metric(totals[0]) - metric(totals[1])
        found[start : start + size] = np.take_along_axis(gaps, rows, axis=1).mean(axis=1)
    low, high = np.nanquantile(found, [level / 2, 1 - level / 2])
    return Interval(float(low), float(high))
