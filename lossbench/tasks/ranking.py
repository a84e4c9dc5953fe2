"""How well scores rank positives above negatives; ties count half."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def auroc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve: chance that a positive outranks a negative (Mann & Whitney 1947).

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        0 to 1; NaN where one side is empty.

    """
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return float("nan")
    from scipy.stats import rankdata  # half a second that no process which only trains should pay

    ranks = rankdata(scores)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def average_precision(scores: Array, positive: Array) -> float:
    """Mean precision over recall: Σ (Rₙ − Rₙ₋₁) Pₙ over the distinct scores, without interpolation.

    Args:
        scores: (N,).
        positive: (N,) bool.

    Returns:
        0 to 1; NaN where nothing is positive.

    """
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, found = scores[order], np.cumsum(positive[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # where a group of equal scores ends
    hits, taken = found[last], np.flatnonzero(last) + 1
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / taken).sum() / found[-1])
