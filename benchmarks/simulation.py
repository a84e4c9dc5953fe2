"""Simulated scores with a known truth, and the product's verdict rule for thousands of families at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from lossbench.statistics.equivalence import tost_ps
from lossbench.statistics.paired import hall_p, sign_flip_p
from lossbench.statistics.record import Verdict
from lossbench.statistics.samples import Paired
from lossbench.statistics.verdict import FEWEST_FOR_TIE, Comparison, Rules, Stage, judge

Array = npt.NDArray[Any]
Row = dict[str, Any]
LEVEL = 0.05
TINY = 1e-9  # a margin so small that no tie hides a false verdict
CHECKED = 3  # families per call whose verdicts are compared with the product's
UNDECIDED, BETTER, WORSE, TIE = range(4)
WORDS = (Verdict.UNDECIDED, Verdict.BETTER, Verdict.WORSE, Verdict.TIE)

# Noise of mean 0 and standard deviation 1.
Shape = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return rng.normal(size=size)


def t3(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return rng.standard_t(3, size) / np.sqrt(3)


def gamma4(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Skewness 1."""
    return (rng.gamma(4.0, size=size) - 4) / 2


def exponential(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Skewness 2."""
    return rng.exponential(size=size) - 1


def log_normal(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Skewness 6.2."""
    return (rng.lognormal(size=size) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


def stepped(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Accuracies over 360 test samples with a standard deviation of two of them."""
    return np.round(2 * rng.normal(size=size)) / 2


def coarse(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Hardly more than three values."""
    return np.round(rng.normal(size=size))


def bimodal(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return (rng.integers(0, 2, size) * 4 - 2 + rng.normal(size=size)) / np.sqrt(5)


def collapsing(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """One replicate in ten lies twenty standard deviations below the others."""
    low = rng.random(size) < 0.1
    return (rng.normal(size=size) - 20 * low + 2) / np.sqrt(1 + 400 * 0.09)


EXCHANGEABLE = (normal, t3, log_normal, stepped, coarse, bimodal, collapsing)
UNEQUAL = (gamma4, exponential, log_normal, collapsing)


def holm(p: Array) -> Array:
    """`lossbench.statistics.holm` over the last axis."""
    order = np.argsort(p, axis=-1)
    factors = np.arange(p.shape[-1], 0, -1)
    raised = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, axis=-1)
    adjusted = np.empty_like(raised)
    np.put_along_axis(adjusted, order, np.minimum(raised, 1.0), axis=-1)
    return adjusted


def decide(
    differences: Array,
    margin: float = TINY,
    stage: Stage | None = None,
    hall: bool = True,
    holm_ties: bool = True,
) -> Array:
    """Verdicts by the product's rule on (families, contrasts, n) differences, as codes.

    Sign flips are counted only where they can decide: the rule wants the t interval to exclude 0 and Hall's p
    below the level too. ``hall=False`` is the rule of before, of sign flips alone.
    """
    n = differences.shape[-1]
    centre = differences.mean(-1)
    half = stats.t.ppf(1 - LEVEL / 2, n - 1) * differences.std(-1, ddof=1) / np.sqrt(n)
    limit = LEVEL if stage is None else stage.difference
    p = hall_p(differences) if hall else np.where(np.abs(centre) > half, 0.0, 1.0)
    for at in zip(*np.nonzero((np.abs(centre) > half) & (p <= limit)), strict=True):
        p[at] = max(p[at], sign_flip_p(differences[at]))
    ties = tost_ps(differences, margin)
    if stage is None:
        differ = holm(p) <= LEVEL
        tied = (holm(ties) if holm_ties else ties) <= LEVEL
    else:
        differ, tied = p <= stage.difference, ties <= stage.tie
    found = np.where(differ & (np.abs(centre) > half), np.where(centre > 0, BETTER, WORSE), UNDECIDED)
    if n >= FEWEST_FOR_TIE:
        found = np.where(tied, TIE, found)
    if hall and holm_ties:
        _check(differences, found, margin, stage)
    return found


def _check(differences: Array, found: Array, margin: float, stage: Stage | None) -> None:
    """Hold this module's verdicts against those of the product."""
    for family in range(min(CHECKED, len(differences))):
        zeros = np.zeros(differences.shape[-1])
        compared = [
            Comparison(str(arm), "baseline", Paired(values, zeros))
            for arm, values in enumerate(differences[family])
        ]
        product = [one.verdict for one in judge(compared, "score", Rules(LEVEL, margin), stage)]
        if product != [WORDS[code] for code in found[family]]:
            raise AssertionError(f"this script's verdicts {found[family]} are not the product's {product}")


def claimed(found: Array) -> Array:
    """Whether a verdict says that the arms differ."""
    return (found == BETTER) | (found == WORSE)


def rate(hits: Array) -> Row:
    """Share of true values with its exact (Clopper–Pearson) one-sided 95 % lower and upper bounds."""
    test = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(0.9, "exact")
    return {
        "rate": round(float(hits.mean()), 5),
        "lower": round(float(test.low), 5),
        "upper": round(float(test.high), 5),
        "of": len(hits),
    }


def looks_until_decided(
    differences: Array, looks: Sequence[int], stages: Sequence[Stage | None], margin: float = TINY
) -> tuple[Array, Array]:
    """Verdicts and seeds used of (families, contrasts, last look) differences where decided contrasts stop.

    A stage of None is no correction for the looks: Holm at every one.
    """
    found = np.full(differences.shape[:2], UNDECIDED)
    used = np.full(differences.shape[:2], looks[-1])
    for look, stage in zip(looks, stages, strict=True):
        still = found == UNDECIDED
        if stage is None:  # Holm looks at all contrasts of a family
            still = np.broadcast_to(still.any(axis=1, keepdims=True), still.shape)
            now = decide(differences[still.any(axis=1)][..., :look], margin).ravel()
        else:
            now = decide(differences[still][:, None, :look], margin, stage).ravel()
        fresh = np.zeros(still.shape, dtype=np.int64)
        fresh[still] = now
        decided = (found == UNDECIDED) & (fresh != UNDECIDED)
        found[decided], used[decided] = fresh[decided], look
        if (found != UNDECIDED).all():
            break
    return found, used
