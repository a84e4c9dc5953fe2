"""A small single-stage detector: one grid of cells, each with class scores and a box."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lossbench.errors import UserError
from lossbench.models.base import register

Count = Annotated[int, Field(ge=1)]
BOX = 4
"""Outputs of a cell that state its box."""


class GridDetector(nn.Module):
    """Convolutions that halve the image down to the grid and beyond, and come back to it with what they saw.

    A feature pyramid (Lin et al. 2017, 1612.03144) of which one level is read: cells see the detail of
    their own level and the surroundings of the coarser ones.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int,
        stride: int,
        levels: int,
        blocks: int,
        tower: int,
        prior: float,
    ) -> None:
        super().__init__()
        halvings = int(math.log2(stride))
        widths = [min(width * 2**level, 8 * width) for level in range(halvings + levels)]
        befores = [channels, *widths[:-1]]
        stages = [_stage(before, after, blocks) for before, after in zip(befores, widths, strict=True)]
        self.down = nn.ModuleList(stages[:halvings])
        self.beyond = nn.ModuleList(stages[halvings:])
        at_grid = widths[halvings - 1]
        self.sideways = nn.ModuleList(nn.Conv2d(wide, at_grid, 1) for wide in widths[halvings:])
        self.tower = nn.Sequential(*(_convolution(at_grid, at_grid) for _ in range(tower)))
        self.head = nn.Conv2d(at_grid, classes + BOX, 1)
        _expect_background(self.head, classes, prior)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) → (N, classes + 4, ⌈H / stride⌉, ⌈W / stride⌉)."""
        features = images
        for stage in self.down:
            features = stage(features)
        summed, deeper = features, features
        for stage, sideways in zip(self.beyond, self.sideways, strict=True):
            deeper = stage(deeper)
            # Nearest neighbours: bilinear upsampling has no deterministic backward on CUDA.
            summed = summed + interpolate(sideways(deeper), size=features.shape[-2:], mode="nearest")
        out: Tensor = self.head(self.tower(summed))
        return out


def _convolution(before: int, after: int, stride: int = 1) -> nn.Module:
    layers = [
        nn.Conv2d(before, after, 3, stride, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers)


def _stage(before: int, after: int, blocks: int) -> nn.Module:
    """Halve the resolution, then look on."""
    rest = [_convolution(after, after) for _ in range(blocks)]
    return nn.Sequential(_convolution(before, after, 2), *rest)


def _expect_background(head: nn.Conv2d, classes: int, prior: float) -> None:
    """Begin with a probability of ``prior`` for all objects together: most cells hold none.

    Lin et al. 2017 (1708.02002), section 4.1, for a softmax instead of sigmoids. Without it the first steps
    of most losses go to unlearning a thousand false boxes, and how well they do that is not the question.
    """
    with torch.no_grad():
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]  # it has one
        head.bias[0] = math.log((1 - prior) * (classes - 1) / prior)  # type: ignore[index]  # it has one


@register
def grid_detector(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 16,
    stride: Annotated[int, Field(ge=2, le=64)] = 4,
    levels: Annotated[int, Field(ge=0, le=6)] = 2,
    blocks: Annotated[int, Field(ge=0, le=8)] = 0,
    tower: Annotated[int, Field(ge=0, le=8)] = 1,
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.01,
) -> nn.Module:
    """Single-stage detector for the task ``detection``, whose ``stride`` must be the same.

    Args:
        input_shape: (C, H, W).
        outputs: class scores, background first, and 4 for a box.
        width: channels after the first halving; each further one doubles them, up to eightfold.
        stride: pixels per cell, a power of 2: about half the smallest box.
        levels: further halvings that tell a cell of its surroundings: stride · 2^levels should reach the
            largest box.
        blocks: convolutions after each halving.
        tower: convolutions on the grid, after all levels have met there.
        prior: probability of any object in a cell at the beginning.

    Raises:
        UserError: for samples that are no images, or a stride that is no power of 2.

    """
    if len(input_shape) != 3:
        raise UserError(f"model 'grid_detector' needs images (C, H, W); found samples of shape {input_shape}")
    if stride & (stride - 1):
        raise UserError(f"'model.stride' is {stride}; allowed: 2, 4, 8, 16, 32, 64")
    if outputs < BOX + 2:
        raise UserError(f"model 'grid_detector' is for the task 'detection'; found {outputs} outputs")
    return GridDetector(
        input_shape[0],
        outputs - BOX,
        width=width,
        stride=stride,
        levels=levels,
        blocks=blocks,
        tower=tower,
        prior=prior,
    )
