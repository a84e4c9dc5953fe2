"""Almost stochastic order as deepsig 1.2.8 computes it, many thousand times faster: for benchmarks.peers.

The package draws every bootstrap sample through a Python function called once a point: 105 CPU-seconds for
one family of the benchmark. A quantile function of n scores has n steps, so that its integral is a sum
over n sorted scores, weighted with the grid's points on each step; and with a seed the package draws the same
positions for every pair. What comes out is the package's matrix to rounding, and benchmarks.peers holds it
against the package's own.
"""

from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import norm

Array = np.ndarray[Any, Any]
STEP = 0.005
"""Of the package's grid over (0, 1)."""
DRAWS = 1000


def multi_aso(scores: Array, level: float) -> Array:
    """Upper bounds ε of the violation ratio of every arm over every other, Bonferroni over pairs.

    Args:
        scores: (arms, seeds).
        level: of the test, 0.05 say.

    Returns:
        (arms, arms), row over column; 1 on the diagonal. Below .5 the row's arm dominates.

    """
    arms, n = scores.shape
    pairs = arms * (arms - 1) / 2
    quantile = norm.ppf(1 - (1 - level + level / pairs))
    first, second = _positions(n)
    ordered = np.sort(scores, axis=1)
    found = np.eye(arms)
    for one, other in combinations(range(arms), 2):
        ratio = float(_violation(ordered[one], ordered[other]))
        drawn = _violation(
            np.sort(ordered[one][first], axis=1),
            np.sort(ordered[other][second], axis=1),
        )
        spread = np.std(drawn - ratio)
        found[one, other] = np.clip(ratio - spread * quantile, 0, 1)
        found[other, one] = np.clip(1 - ratio - spread * quantile, 0, 1)
    return found


def _violation(first: Array, second: Array) -> Array:
    """Share of the squared Wasserstein distance where the second lies above; (..., n) sorted → (...)."""
    counted, counted_violating = _weights(first.shape[-1])
    squares = (second - first) ** 2
    distance = squares @ counted
    violating = (squares * (second > first)) @ counted_violating
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(distance == 0, 0.5, violating / distance))


@cache
def _weights(n: int) -> tuple[Array, Array]:
    """Points of the grid on each step of a quantile function; the package leaves out the first violation."""
    steps = np.clip(np.ceil(n * np.arange(STEP, 1, STEP)).astype(int) - 1, 0, n - 1)
    return np.bincount(steps, minlength=n).astype(float), np.bincount(steps[1:], minlength=n).astype(float)


@cache
def _positions(n: int) -> tuple[Array, Array]:
    """Which of the sorted scores each bootstrap draws, (draws, n) for either side: seeds 1, 2, … as there."""
    drawn = np.empty((2, DRAWS, n), dtype=int)
    for draw in range(DRAWS):
        stream = np.random.RandomState(draw + 1)
        for side in range(2):
            drawn[side, draw] = np.clip(np.ceil(n * stream.uniform(0, 1, n)).astype(int) - 1, 0, n - 1)
    return drawn[0], drawn[1]
