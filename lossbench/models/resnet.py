"""Residual networks for images of about 32×32 (He et al. 2015, 1512.03385)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lossbench.models.base import register

Count = Annotated[int, Field(ge=1)]


class Block(nn.Module):
    """Two convolutions beside an identity (or a 1×1 convolution where the shape changes)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(before, after, stride)
        self.second = _conv(after, after, 1)
        self.side: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.side = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', H/stride, W/stride)."""
        return F.relu(self.second(F.relu(self.first(features))) + self.side(features))


class Residual(nn.Module):
    """Adds two convolutions of the same width to what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_conv(width, width, 1), nn.ReLU(), _conv(width, width, 1), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        added: Tensor = features + self.inner(features)
        return added


class Mean(nn.Module):
    """Mean over all positions (its backward is deterministic on CUDA)."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C)."""
        return features.mean((2, 3))


def _conv(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))


def _resnet9(channels: int, outputs: int, width: int) -> nn.Module:
    """Three stages that pool, two of them with a residual: the fast one of DAWNBench (D. Page, 2018)."""

    def stage(before: int, after: int, pool: bool) -> list[nn.Module]:
        return [_conv(before, after, 1), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]

    return nn.Sequential(
        *stage(channels, width, False),
        *stage(width, 2 * width, True),
        Residual(2 * width),
        *stage(2 * width, 4 * width, True),
        *stage(4 * width, 8 * width, True),
        Residual(8 * width),
        Mean(),
        nn.Linear(8 * width, outputs),
    )


def _resnet18(channels: int, outputs: int, width: int) -> nn.Module:
    """Four stages of two blocks; a 3×3 stem without pooling, as is usual for small images."""
    layers: list[nn.Module] = [_conv(channels, width, 1), nn.ReLU()]
    before = width
    for level in range(4):
        after = width * 2**level
        layers += [Block(before, after, 1 if level == 0 else 2), Block(after, after, 1)]
        before = after
    return nn.Sequential(*layers, Mean(), nn.Linear(before, outputs))


@register
def resnet(
    input_shape: tuple[int, ...], outputs: int, *, depth: Literal[9, 18] = 18, width: Count = 64
) -> nn.Module:
    """Residual network for small images.

    Args:
        input_shape: (C, H, W).
        outputs: classes.
        depth: 9 or 18 layers.
        width: channels of the first layer.

    """
    build = _resnet9 if depth == 9 else _resnet18
    return build(input_shape[0], outputs, width)
