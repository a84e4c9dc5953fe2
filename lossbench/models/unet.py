"""U-Net (Ronneberger et al. 2015, 1505.04597) with deterministic upsampling."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lossbench.errors import UserError
from lossbench.models.base import register

Count = Annotated[int, Field(ge=1)]


class UNet(nn.Module):
    """Encoder and decoder of ``depth`` levels joined by skip connections; output at input resolution."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        width: int,
        depth: int,
        convolutions: int,
        norm: bool,
        up: str,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _block(before, after, convolutions, norm)
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(_up(wide, narrow, up) for narrow, wide in _pairs(widths))
        self.join = nn.ModuleList(
            _block(2 * narrow, narrow, convolutions, norm) for narrow, _ in _pairs(widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H, W); H and W must be divisible by 2^depth."""
        skips: list[Tensor] = []
        features = images
        for level, block in enumerate(self.down):
            features = block(self.pool(features) if level else features)
            skips.append(features)
        skips.pop()
        features = self.dropout(features)
        for grow, join in zip(self.up, self.join, strict=True):
            features = join(torch.cat([skips.pop(), grow(features)], dim=1))
        out: Tensor = self.head(features)
        return out


def _pairs(widths: list[int]) -> list[tuple[int, int]]:
    """(narrow, wide) of each decoder step, deepest first."""
    return list(zip(widths[-2::-1], widths[:0:-1], strict=True))


def _block(before: int, after: int, convolutions: int, norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for start in [before, *[after] * (convolutions - 1)]:
        layers.append(nn.Conv2d(start, after, 3, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _up(wide: int, narrow: int, how: str) -> nn.Module:
    # Bilinear upsampling has no deterministic backward on CUDA; these two have.
    if how == "transposed":
        return nn.ConvTranspose2d(wide, narrow, 2, stride=2)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(wide, narrow, 1))


@register
def unet(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 16,
    depth: Count = 2,
    convolutions: Count = 2,
    norm: bool = True,
    up: Literal["transposed", "nearest"] = "transposed",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """U-Net for dense prediction.

    Args:
        input_shape: (C, H, W), H and W divisible by 2^depth.
        outputs: classes per position.
        width: channels of the first level; each level doubles them.
        depth: how often the resolution is halved.
        convolutions: 3×3 convolutions per block; the paper has two.
        norm: batch norm after each convolution.
        up: transposed convolution or nearest-neighbour upsampling.
        dropout: at the end of the contracting path, where the paper has it.

    """
    channels, height, wide = input_shape
    if height % 2**depth or wide % 2**depth:
        raise UserError(
            f"'model.depth' is {depth}, for which a U-Net needs images whose sides are divisible by "
            f"{2**depth}; found {height}×{wide}"
        )
    return UNet(channels, outputs, width, depth, convolutions, norm, up, dropout)
