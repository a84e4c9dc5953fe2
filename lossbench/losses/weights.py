"""Class weights from the numbers of training samples. Both average 1 over the classes' weights."""

from collections.abc import Sequence


def balanced(counts: Sequence[int]) -> tuple[float, ...]:
    """Return weights in inverse proportion to the counts, summing to C.

    A class without samples counts as one.

    >>> balanced([30, 10])
    (0.5, 1.5)
    """
    return _normalised([1 / max(count, 1) for count in counts])


def class_balanced(counts: Sequence[int], beta: float = 0.999) -> tuple[float, ...]:
    """Return weights (1 − β) / (1 − β^n), summing to C (Cui et al. 2019, arXiv 1901.05555).

    Β = 0 is 1 each, β → 1 is ``balanced``.

    >>> [round(weight, 3) for weight in class_balanced([30, 10], beta=0.9)]
    [0.81, 1.19]
    """
    return _normalised([(1 - beta) / (1 - beta ** max(count, 1)) for count in counts])


def _normalised(weights: Sequence[float]) -> tuple[float, ...]:
    total = sum(weights)
    return tuple(weight * len(weights) / total for weight in weights)
