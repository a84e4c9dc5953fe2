"""Families of contrasts: Holm's correction, and the floor under which no number of them can reach."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

MOST_SEEDS = 100_000
LARGEST_SHIFT = 30.0
"""Noncentrality beyond which the power is 1 to double precision at any level in use."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given.

    The i-th smallest of m is multiplied by m − i + 1, and none may fall below the one before. (statsmodels
    has it, but collects garbage on every call: 40 ms; it is the oracle in the tests.)

    Raises:
        ValueError: if one is no probability.

    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie in [0, 1], found {list(p_values)}")
    ordered = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(ordered):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def smallest_p(n: int) -> float:
    """Smallest two-sided sign-flip p that n non-zero differences can give: 2/2^n."""
    return 1.0 if n == 0 else 2.0 / 2.0**n


def floor_seeds(contrasts: int, level: float) -> int:
    """Fewest seeds with which Holm's first step can be passed: 2/2^n · contrasts ≤ level."""
    _check_family(contrasts, level)
    n = max(1, math.floor(math.log2(2 * contrasts / level)))
    return n if smallest_p(n) * contrasts <= level else n + 1


def power(effect: float, n: int, level: float) -> float:
    """Power of the two-sided paired t-test.

    Args:
        effect: mean difference over its standard deviation.
        n: blocks.
        level: of the single test.

    """
    if n < 2:
        return 0.0
    critical = float(stats.t.ppf(1 - level / 2, n - 1))
    shift = abs(effect) * math.sqrt(n)
    if shift > max(LARGEST_SHIFT, 10 * critical):
        return 1.0  # scipy's noncentral t loses its footing out there
    upper = stats.nct.sf(critical, n - 1, shift)
    lower = stats.nct.cdf(-critical, n - 1, shift)
    return float(upper + np.nan_to_num(lower))


def seeds_for(effect: float, contrasts: int, level: float, wanted: float) -> int | None:
    """Fewest seeds that detect an effect, at the level Holm's first step leaves, with the power wanted.

    For "how many seeds for this margin?" give ``margin / sd`` as the effect.

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
    if math.isinf(effect):
        return floor
    return fewest(lambda n: power(effect, n, level / contrasts) >= wanted, start=floor)


def seeds_needed(effect: float, nonzero: float, contrasts: int, level: float, wanted: float) -> int | None:
    """How many seeds a decision needs: for the power wanted at the effect seen, and never below the floor.

    Differences of exactly 0 carry no sign, so the floor is as many seeds as give enough others.

    Args:
        effect: mean difference over its standard deviation; NaN where it is unknown.
        nonzero: share of differences that are not 0.
        contrasts: in the family.
        level: of the family.
        wanted: power.

    Returns:
        The number; the floor where the effect is unknown; None where nothing differs, or no 100 000 would do.

    """
    if not nonzero:
        return None
    floor = math.ceil(floor_seeds(contrasts, level) / nonzero - 1e-9)
    if math.isnan(effect):
        return floor
    for_power = seeds_for(effect, contrasts, level, wanted)
    return None if for_power is None else max(floor, for_power)


def effect_quartiles(effect: float, n: int) -> tuple[float, float]:
    """Middle 50 % interval of an effect estimated from n pairs, by size; the smaller is 0 where signs part.

    Its variance is 1/n + effect²/2(n − 1) (Hedges and Olkin 1985).
    """
    if n < 2 or not math.isfinite(effect):
        return 0.0, math.inf
    half = float(stats.norm.ppf(0.75)) * math.sqrt(1 / n + effect**2 / (2 * (n - 1)))
    return max(0.0, abs(effect) - half), abs(effect) + half


def fewest(enough: Callable[[int], bool], start: int) -> int | None:
    """Smallest n ≥ ``start`` that is enough (once enough, always enough); None above 100 000."""
    if enough(start):
        return start
    low, high = start, 2 * start
    while not enough(min(high, MOST_SEEDS)):
        if high >= MOST_SEEDS:
            return None
        low, high = high, 2 * high
    high = min(high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check_family(contrasts: int, level: float) -> None:
    if contrasts < 1:
        raise ValueError(f"a family needs at least one contrast, found {contrasts}")
    if not 0 < level < 1:
        raise ValueError(f"a level must lie between 0 and 1, found {level}")
