"""A small convolutional classifier."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from lossbench.errors import UserError
from lossbench.models.base import register

Count = Annotated[int, Field(ge=1)]


@register
def simple_cnn(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 16,
    layers: Count = 2,
    padding: Literal[0, 1] = 1,
    hidden: Annotated[int, Field(ge=0)] = 64,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Convolutions 3×3 + ReLU + max-pool 2, doubling in width, then (a hidden layer and) a linear head.

    The usual first network for CIFAR-10 (one convolution 3 → 64 and a linear head on its 64·15·15 features)
    is ``{name: simple_cnn, width: 64, layers: 1, padding: 0, hidden: 0}``.

    Args:
        input_shape: (C, H, W); each layer halves H and W.
        outputs: classes.
        width: channels of the first layer.
        layers: convolutions.
        padding: of each convolution; 0 costs two positions a side.
        hidden: units of the dense layer; 0 leaves it out.
        dropout: before the head.

    """
    channels, height, wide = input_shape
    parts: list[nn.Module] = []
    for layer in range(layers):
        out = width * 2**layer
        # ReLU and maximum commute: after the pooling it is the same function for a quarter of the work.
        parts += [nn.Conv2d(channels, out, 3, padding=padding), nn.MaxPool2d(2), nn.ReLU()]
        channels, height, wide = out, (height - 2 + 2 * padding) // 2, (wide - 2 + 2 * padding) // 2
    if min(height, wide) < 1:
        raise UserError(
            f"'model.layers' is {layers}, which leaves nothing of images of "
            f"{input_shape[1]}×{input_shape[2]}; allowed: fewer"
        )
    parts.append(nn.Flatten())
    features = channels * height * wide
    if hidden:
        parts += [nn.Linear(features, hidden), nn.ReLU()]
        features = hidden
    if dropout:
        parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(features, outputs))
