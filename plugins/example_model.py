"""An example of a network of one's own: a function of input shape, outputs and its options."""

from torch import nn


def small_net(input_shape: tuple[int, ...], outputs: int, *, width: int = 8) -> nn.Module:
    """Two layers on flat images.

    Args:
        input_shape: (C, H, W).
        outputs: classes.
        width: of the hidden layer.

    """
    channels, height, wide = input_shape
    inputs = channels * height * wide
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))
