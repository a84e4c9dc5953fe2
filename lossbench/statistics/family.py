"""Families of contrasts: Holm's correction, and the floor under which no number of them can reach."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special, stats

from lossbench.statistics.paired import EXACT_UP_TO, hall_ratio, normal_skewness

MOST_SEEDS = 100_000
FLOAT_BITS = 1000
"""Whole numbers of more are beyond a float, or close."""
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
    return 1.0 if n == 0 else math.ldexp(2.0, -n)  # 0 beyond what a float holds


def smallest_unpaired_p(first: int, second: int) -> float:
    """Smallest p of dealing the scores of two arms anew: one way of all, two where sides are as large."""
    if min(first, second) < 2:
        return 1.0
    ways = math.comb(first + second, first)
    return (2.0 if first == second else 1.0) / ways if ways.bit_length() < FLOAT_BITS else 0.0


def floor_unpaired(contrasts: int, level: float) -> int:
    """Fewest seeds a side with which arms that do not pair can pass Holm's first step."""
    _check_family(contrasts, level)
    return next(n for n in range(2, MOST_SEEDS) if smallest_unpaired_p(n, n) * contrasts <= level)


def floor_seeds(contrasts: int, level: float) -> int:
    """Fewest seeds with which Holm's first step can be passed: 2/2^n · contrasts ≤ level."""
    _check_family(contrasts, level)
    n = max(1, math.floor(math.log2(2 * contrasts / level)))
    return n if smallest_p(n) * contrasts <= level else n + 1


def power(effect: float, n: int, level: float, paired: bool = True) -> float:
    """Power of the two-sided t-test.

    Args:
        effect: mean difference over its standard deviation.
        n: blocks; seeds a side where they do not pair.
        level: of the single test.
        paired: whether seeds pair up.

    """
    if n < 2:
        return 0.0
    freedom = n - 1 if paired else 2 * (n - 1)
    critical = float(stats.t.ppf(1 - level / 2, freedom))
    shift = abs(effect) * math.sqrt(n)
    if shift > max(LARGEST_SHIFT, 10 * critical):
        return 1.0  # scipy's noncentral t loses its footing out there
    upper = stats.nct.sf(critical, freedom, shift)
    lower = stats.nct.cdf(-critical, freedom, shift)
    return float(upper + np.nan_to_num(lower))


def verdict_power(effect: float, n: int, level: float) -> float:
    """Power of "better": of the larger of sign-flip and Hall's p, for normal differences.

    Hall's part is exact but for the skewness's distribution. The sign flips go by the t-test at the level
    that they can have (multiples of 2/2^n), and where all signs must agree, by how often they do. Beyond 32
    seeds the t-test's power is given: the rest costs a seed or two there.

    Args:
        effect: mean difference over its standard deviation.
        n: blocks.
        level: of the single test.

    """
    if not 3 <= n <= EXACT_UP_TO:
        return power(effect, n, level)
    vectors = math.floor(level * 2.0**n / 2 * (1 + 1e-12))  # sign vectors a side that may be rejected
    if not vectors:
        return 0.0
    skew, weights = normal_skewness(n)
    quantile = float(special.stdtrit(n - 1, 1 - level / 2))
    hall = math.sqrt(n) * hall_ratio(quantile / math.sqrt(n), skew, n)
    flips = float(special.stdtrit(n - 1, 1 - vectors / 2.0**n))
    critical, shift = np.maximum(hall, flips), abs(effect) * math.sqrt(n)
    found = 1.0
    if shift <= max(LARGEST_SHIFT, 10 * float(critical.max())):
        # the other side's share is left out: it is no discovery, and nothing beside a power worth having
        found = float((1 - special.nctdtr(n - 1, shift, critical)) @ weights)
    return min(found, float(special.ndtr(abs(effect))) ** n) if vectors == 1 else found


def seeds_for(effect: float, contrasts: int, level: float, wanted: float) -> int | None:
    """Fewest seeds that detect an effect, at the level Holm's first step leaves, with the power wanted.

    The power is a verdict's, see :func:`verdict_power`.

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
    return fewest(lambda n: verdict_power(effect, n, level / contrasts) >= wanted, start=floor)


def seeds_unpaired(effect: float, contrasts: int, level: float, wanted: float) -> int | None:
    """Fewest seeds a side where arms do not pair, with the power wanted; the floor where nothing is known.

    Args:
        effect: difference of the means over the standard deviation of a difference of two scores.
        contrasts: in the family.
        level: of the family.
        wanted: power.

    """
    floor = floor_unpaired(contrasts, level)
    if effect == 0:
        return None
    if not math.isfinite(effect):
        return floor
    return fewest(lambda n: power(effect, n, level / contrasts, paired=False) >= wanted, start=floor)


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
