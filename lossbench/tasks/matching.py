"""Which boxes of two sets are the same: what a person would call found, missed and false."""

from collections.abc import Sequence

import numpy as np

from lossbench.tasks.base import Array

SAME = 0.5
"""IoU from which on two boxes of a class are the same."""


def matched(first: Array, second: Array) -> int:
    """Count pairs of one class with IoU ≥ 0.5, each box in one pair at most, the best overlaps first.

    Args:
        first: (D, 5 or more) of (x0, y0, x1, y1, class, …); class −1 pads.
        second: likewise.

    """
    mine, other = first[first[:, 4] >= 0], second[second[:, 4] >= 0]
    shares = overlaps(mine[:, :4], other[:, :4]) * (mine[:, None, 4] == other[:, 4])
    count = 0
    while shares.size and shares.max() >= SAME:
        row, column = np.unravel_index(shares.argmax(), shares.shape)
        shares[row], shares[:, column] = 0, 0
        count += 1
    return count


def overlaps(first: Array, second: Array) -> Array:
    """IoU (D, E) of boxes (D, 4) and (E, 4)."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:4], second[:, 2:4])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(one[:, 2:4] - one[:, :2], 0, None).prod(-1) for one in (first, second)]
    union = areas[0][:, None] + areas[1] - common
    shares: Array = np.divide(common, union, out=np.zeros_like(union, dtype=np.float64), where=union > 0)
    return shares


def mistakes(found: Array, truth: Array) -> tuple[int, int]:
    """Count the true boxes missed and the found boxes that are false."""
    hits = matched(found, truth)
    return int((truth[:, 4] >= 0).sum()) - hits, int((found[:, 4] >= 0).sum()) - hits


def disagreement(decisions: Sequence[Array]) -> Array:
    """Largest share of boxes, (N,) in 0..1, that the first set and another have not in common."""
    shares = np.zeros(len(decisions[0]))
    for other in decisions[1:]:
        apart = [_apart(mine, theirs) for mine, theirs in zip(decisions[0], other, strict=True)]
        shares = np.maximum(shares, apart)
    return shares


def _apart(first: Array, second: Array) -> float:
    both = int((first[:, 4] >= 0).sum() + (second[:, 4] >= 0).sum())
    return 1 - 2 * matched(first, second) / both if both else 0.0
