"""Convolutions of few channels as products of patches, for populations that train on a GPU.

Stacked over members a convolution becomes one of as many groups. Of one channel each, torch takes its
depthwise kernels, in which each number of a weight's gradient reads the whole batch; of a few, cuDNN's for
groups. As a product of patches it is one batched matrix product of cuBLAS forwards, one backwards: on an
H100, 64 members, batches of 128, 3.5 ms in place of 6.9 (1 to 32 channels, 28×28) and 11.0 in place of 16.7
(3 to 64, 32×32). Of 32 channels they are slower; torch's own unfold launches a kernel a sample.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

FEWEST: Mapping[int, int] = {1: 8, 2: 8, 3: 4}
"""Channels of a group → members from which on patches are faster (H100; 2 channels were not measured)."""

MOST = 27
"""Numbers of a patch (3 channels, 3×3) up to which that was measured; larger ones take memory, too."""


def in_patches(device: str) -> bool:
    """Whether a population on ``device`` multiplies patches: a CPU's convolutions need no help."""
    return device == "cuda"


def multiply_patches(model: nn.Module, members: int) -> None:
    """Let a model's convolutions of few channels a group multiply patches in training; names stay.

    Those whose groups have one filter each are left alone: torch's depthwise kernels are made for them. So
    are those that compute something of their own.
    """
    for module in model.modules():
        if _is_torchs(module) and _fits(module, members):
            module.forward = partial(_forward, module)  # type: ignore[method-assign]  # names in the state stay


def _is_torchs(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is torch's convolution, neither a subclass nor given methods of its own."""
    return type(module) is nn.Conv2d and not {"forward", "_conv_forward"} & vars(module).keys()


def _fits(convolution: nn.Conv2d, members: int) -> bool:
    fewest = FEWEST.get(convolution.in_channels // convolution.groups)
    if fewest is None or members < fewest or convolution.out_channels == convolution.groups:
        return False
    return convolution.weight[0].numel() <= MOST


def _forward(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """Validation shows all members the same images: stacked filters on them are one usual convolution.

    An image alone, (C, H, W), or none at all is left to torch, too.
    """
    if not convolution.training or images.ndim != 4 or not len(images):
        return nn.Conv2d.forward(convolution, images)
    groups, biased = convolution.groups, convolution.bias is not None
    patches = _patches(convolution, _padded(convolution, images), ones=biased)
    filters = convolution.out_channels // groups
    weight = (
        convolution.weight.flatten(2).transpose(1, 2).reshape(groups, filters, -1)
    )  # as patches are: (K, C)
    if convolution.bias is not None:
        weight = torch.cat([weight, convolution.bias.view(groups, filters, 1)], 2)
    made = weight @ patches.flatten(3)
    if (
        convolution.bias is not None
    ):  # behind bf16, too: a stacked convolution adds its bias, and takes inputs, so
        made = made.to(convolution.bias.dtype)
    return made.reshape(len(images), convolution.out_channels, *patches.shape[3:])


def _padded(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    around = convolution._reversed_padding_repeated_twice
    if not any(around):
        return images
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    return functional.pad(images, around, mode)


def _patches(convolution: nn.Conv2d, padded: Tensor, ones: bool) -> Tensor:
    """(N, G·C, H, W) → (N, G, K·C, H', W'): what each place within a kernel meets, then 1 for the bias.

    One copy: what slices meet is gathered by a single concatenation.
    """
    starts = product(*(range(size) for size in convolution.kernel_size))
    grouped = padded.view(len(padded), convolution.groups, -1, *padded.shape[2:])
    seen = [grouped[:, :, :, *_places(convolution, padded, start)] for start in starts]
    return torch.cat([*seen, torch.ones_like(seen[0][:, :, :1])] if ones else seen, 2)


def _places(convolution: nn.Conv2d, padded: Tensor, start: tuple[int, ...]) -> Iterator[slice]:
    """Rows and columns that a place within a kernel meets, as the kernel moves."""
    for place, size, apart, stride, length in zip(
        start,
        convolution.kernel_size,
        convolution.dilation,
        convolution.stride,
        padded.shape[-2:],
        strict=True,
    ):
        yield slice(place * apart, length - (size - 1 - place) * apart, stride)
