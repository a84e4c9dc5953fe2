"""The one-convolution network that tutorials train on MNIST."""

from typing import Annotated

from pydantic import Field
from torch import nn

from lossbench.models.base import register
from lossbench.models.simple_cnn import simple_cnn


@register
def mnist_cnn(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Convolution 3×3 to 32 channels, max-pool 2, dense 128, linear head; logits, not probabilities.

    Args:
        input_shape: (C, H, W).
        outputs: classes.
        dropout: before the head.

    """
    return simple_cnn(input_shape, outputs, width=32, layers=1, padding=0, hidden=128, dropout=dropout)
