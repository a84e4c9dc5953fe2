"""How many training samples each class has: what a loss that needs it says, and makes of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossbench.losses.base import Loss
from lossbench.losses.declare import ParameterError

COUNTS = "training samples of each class; params.yaml need not give them"
"""What ``class_counts`` is, for its declaration."""


def given_counts(loss: Loss, counts: Sequence[float] | Tensor | None) -> Tensor:
    """Return ``class_counts`` as float64, (C,).

    Raises:
        ParameterError: if they were not given.

    """
    if counts is None:
        raise ParameterError(type(loss).__name__, "class_counts", None, "a list with one number per class")
    return torch.tensor(counts, dtype=torch.float64)


def counts_at_least_one(loss: Loss, counts: Sequence[float] | Tensor | None) -> Tensor:
    """Return ``class_counts`` as float64, (C,); a class without samples counts as one.

    Raises:
        ParameterError: if they were not given.

    """
    return given_counts(loss, counts).clamp_min(1.0)
