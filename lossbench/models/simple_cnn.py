"""A small convolutional classifier."""

from typing import Annotated

from pydantic import Field
from torch import nn

from lossbench.models.base import register

Count = Annotated[int, Field(ge=1)]


@register
def simple_cnn(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 16,
    layers: Count = 2,
    hidden: Annotated[int, Field(ge=0)] = 64,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Convolutions 3×3 + ReLU + max-pool 2, doubling in width, then (a hidden layer and) a linear head.

    Args:
        input_shape: (C, H, W); each layer halves H and W.
        outputs: classes.
        width: channels of the first layer.
        layers: convolutions.
        hidden: units of the dense layer; 0 leaves it out.
        dropout: before the head.

    """
    channels, height, wide = input_shape
    parts: list[nn.Module] = []
    for layer in range(layers):
        out = width * 2**layer
        parts += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels, height, wide = out, height // 2, wide // 2
    parts.append(nn.Flatten())
    features = channels * height * wide
    if hidden:
        parts += [nn.Linear(features, hidden), nn.ReLU()]
        features = hidden
    if dropout:
        parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(features, outputs))
