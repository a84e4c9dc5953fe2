"""Counting who was taken for whom, and the scores that follow from the counts."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
AT_ONCE = 2**22
"""Positions counted at once: pairs are 64-bit numbers, and a split may have hundreds of millions."""


def confusion_matrix(target: Array, predicted: Array, classes: int, ignore_index: int | None = None) -> Array:
    """Count (true, predicted) pairs over all positions.

    Args:
        target: integers of any shape.
        predicted: integers of the same shape.
        classes: C.
        ignore_index: target value that does not count.

    Returns:
        (C, C) int64, rows true.

    """
    target, predicted = target.ravel(), predicted.ravel()
    counts = np.zeros(classes * classes, dtype=np.int64)
    for start in range(0, len(target), AT_ONCE):
        true, guess = target[start : start + AT_ONCE], predicted[start : start + AT_ONCE]
        if ignore_index is not None:
            valid = true != ignore_index
            true, guess = true[valid], guess[valid]
        counts += np.bincount(true.astype(np.int64) * classes + guess, minlength=classes * classes)
    return counts.reshape(classes, classes)


def ratio(part: Array, whole: Array) -> Array:
    """``part / whole`` in float64, NaN where ``whole`` is 0 (a class that does not occur)."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def recall(matrix: Array) -> Array:
    """Recall per class, (..., C) from (..., C, C)."""
    return ratio(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1))


def f1(matrix: Array) -> Array:
    """F1 per class = Dice of the class's positions; NaN for a class neither true nor predicted."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return ratio(2 * hits, matrix.sum(axis=-1) + matrix.sum(axis=-2))


def iou(matrix: Array) -> Array:
    """Intersection over union per class; NaN for a class neither true nor predicted."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return ratio(hits, matrix.sum(axis=-1) + matrix.sum(axis=-2) - hits)
