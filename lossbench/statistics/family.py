"""Families of contrasts: Holm's correction, and the floor under which no number of them can reach."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

MOST_SEEDS = 100_000


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(np.asarray(p_values), method="holm")[1]]


def smallest_p(n: int) -> float:
    """Smallest two-sided sign-flip p that n non-zero differences can give: 2/2^n."""
    return 1.0 if n == 0 else 2.0 / 2.0**n


def floor_seeds(contrasts: int, level: float) -> int:
    """Fewest seeds with which Holm's first step can be passed: 2/2^n · contrasts ≤ level."""
    return math.ceil(math.log2(2 * contrasts / level))


def power(effect: float, n: int, level: float) -> float:
    """Power of the two-sided paired t-test.

    Args:
        effect: mean difference over its standard deviation.
        n: blocks.
        level: of the single test.

    """
    if n < 2:
        return 0.0
    critical = stats.t.ppf(1 - level / 2, n - 1)
    shift = abs(effect) * math.sqrt(n)
    upper = stats.nct.sf(critical, n - 1, shift)
    lower = stats.nct.cdf(-critical, n - 1, shift)
    return float(upper + np.nan_to_num(lower))


def seeds_for(effect: float, contrasts: int, level: float, wanted: float) -> int | None:
    """Fewest seeds that detect an effect, at the level Holm's first step leaves, with the power wanted.

    Args:
        effect: mean difference over its standard deviation; may be infinite (no spread).
        contrasts: in the family.
        level: of the family.
        wanted: power.

    Returns:
        The number, never below the floor; None where no 100 000 seeds would do.

    """
    floor = floor_seeds(contrasts, level)
    if effect == 0 or math.isnan(effect):
        return None
    single = level / contrasts
    if math.isinf(effect) or power(effect, floor, single) >= wanted:
        return floor
    low, high = floor, 2 * floor
    while power(effect, high, single) < wanted:
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, single) >= wanted else (middle, high)
    return high
