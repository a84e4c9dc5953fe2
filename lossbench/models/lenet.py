"""LeNet in today's sizes: two convolutions and a dense layer."""

from typing import Annotated

from pydantic import Field
from torch import nn

from lossbench.models.base import register
from lossbench.models.simple_cnn import simple_cnn


@register
def lenet(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Convolutions 3×3 to 32 and 64 channels, max-pool 2 after each, dense 128, linear head.

    On 28×28 images the dense layer sees 64·5·5 features (after LeCun et al., Proc. IEEE 1998, with ReLU
    and max-pooling).

    Args:
        input_shape: (C, H, W).
        outputs: classes.
        dropout: before the head.

    """
    return simple_cnn(input_shape, outputs, width=32, layers=2, padding=0, hidden=128, dropout=dropout)
