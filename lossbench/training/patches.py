"""Convolutions of one channel a group as products of patches, for populations that train on a GPU.

Stacked over members, a convolution that gives each of its groups one channel has as many groups as channels,
and torch takes its depthwise kernels for it, not cuDNN's: each number of a weight's gradient then reads the
whole batch once. As a product of patches it is one batched matrix product of cuBLAS forwards, one backwards.
"""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional


def in_patches(device: str) -> bool:
    """Whether a population on ``device`` multiplies patches: a CPU's convolutions need no help."""
    return device == "cuda"


def multiply_patches(model: nn.Module) -> None:
    """Let a model's convolutions of one channel a group multiply patches in training; names stay.

    Those whose groups have one filter each are left alone: torch's depthwise kernels are made for them.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.in_channels == module.groups < module.out_channels:
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """Validation shows all members the same images: stacked filters on them are one usual convolution."""
    if not convolution.training:
        return nn.Conv2d.forward(convolution, images)
    padded = _padded(convolution, images)
    patches = _patches(convolution, padded, ones=convolution.bias is not None)
    groups, filters = convolution.groups, convolution.out_channels // convolution.groups
    weight = convolution.weight.view(groups, filters, -1)
    if convolution.bias is not None:
        weight = torch.cat([weight, convolution.bias.view(groups, filters, 1)], 2)
    made = weight @ patches.flatten(3)
    if (
        convolution.bias is not None
    ):  # behind bf16, too: a stacked convolution adds its bias, and takes inputs, so
        made = made.to(convolution.bias.dtype)
    return made.reshape(len(images), convolution.out_channels, *patches.shape[3:])


def _padded(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    mode = convolution.padding_mode
    around = convolution._reversed_padding_repeated_twice
    return functional.pad(images, around, "constant" if mode == "zeros" else mode) if any(around) else images


def _patches(convolution: nn.Conv2d, padded: Tensor, ones: bool) -> Tensor:
    """(N, G, H, W) → (N, G, K, H', W'): for each place within a kernel what it meets, then 1 for the bias.

    One copy: what slices meet is gathered by a single concatenation.
    """
    starts = product(*(range(size) for size in convolution.kernel_size))
    seen = [padded[:, :, *_places(convolution, padded, start)] for start in starts]
    return torch.stack([*seen, torch.ones_like(seen[0])] if ones else seen, 2)


def _places(convolution: nn.Conv2d, padded: Tensor, start: tuple[int, ...]) -> Iterator[slice]:
    """Rows and columns that a place within a kernel meets, as the kernel moves."""
    for place, size, apart, stride, length in zip(
        start,
        convolution.kernel_size,
        convolution.dilation,
        convolution.stride,
        padded.shape[2:],
        strict=True,
    ):
        yield slice(place * apart, length - (size - 1 - place) * apart, stride)
