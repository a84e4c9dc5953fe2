"""A convolutional network that is fast to train on small colour images (Jordan 2024, 2404.00498, sec. 3)."""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lossbench.errors import UserError
from lossbench.models.base import register
from lossbench.models.from_data import FromData

SIDE = 2
"""Of the whitened patches, in pixels."""
EPSILON = 5e-4
"""Added to a variance before its root is taken: what hardly varies is not blown up (the paper's)."""
SMALLEST = 9
"""Side of the smallest image of which three poolings leave anything."""
MOMENTUM = 0.4
"""Share of a batch in the running statistics: of few steps the last ones count."""
SHIFT = 8.0
"""Factor of the norms' biases, which so learn at 64 times the rate of all else (the paper's sec. 3.4)."""
SCALE = 1 / 9
"""Of the logits: the softmax of an untrained network is nearly even (the paper's)."""


class Whitening(FromData):
    """Convolution 2×2 that turns the training images' patches into uncorrelated features of variance 1.

    Each feature is there twice, once negated, so that no activation that follows loses half of it (the
    paper's sec. 3.2, after D. Page 2018 and tysam-code 2023). The filters are fixed; their bias is trained.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        features = channels * SIDE**2
        # What white noise would give; a buffer, since it is not trained.
        self.register_buffer("weight", _doubled(torch.eye(features), channels))
        self.bias = nn.Parameter(torch.zeros(2 * features))

    @torch.no_grad()
    def look_at(self, batches: Iterable[Tensor]) -> None:
        """Take the filters from the patches' second moments, in float64."""
        moments, count = torch.zeros(()), 0
        for images in batches:
            patches = _patches(images.double())
            moments = moments.to(patches) + patches.T @ patches
            count += len(patches)
        # On the CPU, whatever the data lie on: the smallest of all problems, and signs that agree.
        variances, vectors = torch.linalg.eigh((moments / count).cpu())
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        filters = (vectors * largest.sign() / (variances + EPSILON).sqrt()).T.flip(0)
        self.weight.copy_(_doubled(filters, self.weight.shape[1]))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 8·C, H - 1, W - 1)."""
        return F.conv2d(images, self.weight, self.bias)


def _patches(images: Tensor) -> Tensor:
    """(N, C, H, W) → (N·L, C·4), as ``unfold`` has them, which launches a kernel a sample on a GPU."""
    height, width = images.shape[2] - SIDE + 1, images.shape[3] - SIDE + 1
    seen = [images[:, :, y : y + height, x : x + width] for y in range(SIDE) for x in range(SIDE)]
    return torch.stack(seen, 2).flatten(3).flatten(1, 2).transpose(1, 2).flatten(0, 1)


def _doubled(filters: Tensor, channels: int) -> Tensor:
    """(F, F) rows over patches → (2·F, C, 2, 2) kernels, the second half negated."""
    kernels = filters.view(len(filters), channels, SIDE, SIDE)
    return torch.cat([kernels, -kernels])


class SeveralViews(nn.Module):
    """Outside of training the mean of what a network says of several views of an image.

    Args:
        network: what looks.
        flip: whether at the mirror image, too.
        shift: whether, for half of the mean, at the image moved by a pixel up and left, and down and right.

    """

    def __init__(self, network: nn.Module, flip: bool, shift: bool) -> None:
        super().__init__()
        self.network, self.flip, self.shift = network, flip, shift

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs)."""
        if self.training:
            trained: Tensor = self.network(images)
            return trained
        logits = self._seen(images)
        if not self.shift:
            return logits
        height, width = images.shape[2:]
        around = F.pad(images, (1, 1, 1, 1), "reflect")
        moved = [around[:, :, at : at + height, at : at + width] for at in (0, 2)]
        return logits / 2 + (self._seen(moved[0]) + self._seen(moved[1])) / 4

    def _seen(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return (logits + self.network(images.flip(3))) / 2 if self.flip else logits


class Shift(nn.Module):
    """Adds a bias to each channel, held in units of :data:`SHIFT` and so quick to learn."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → the same."""
        return features + (SHIFT * self.bias).to(features.dtype).view(1, -1, 1, 1)


class Head(nn.Linear):
    """Linear layer of the largest value of each channel, scaled down."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs)."""
        return super().forward(features.amax((2, 3))) * SCALE


def _convolution(before: int, after: int) -> nn.Conv2d:
    """Convolution 3×3 whose first filters hand their channel on, so that depth costs nothing at first."""
    made = nn.Conv2d(before, after, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(made.weight[:before])
    return made


def _stage(before: int, after: int) -> list[nn.Module]:
    return [
        _convolution(before, after),
        nn.MaxPool2d(2),
        *_norm(after),
        nn.GELU(),
        _convolution(after, after),
        *_norm(after),
        nn.GELU(),
    ]


def _norm(channels: int) -> tuple[nn.Module, nn.Module]:
    """Without a scale to train, which weight decay would shrink."""
    return nn.BatchNorm2d(channels, momentum=MOMENTUM, affine=False), Shift(channels)


@register
def airbench(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Annotated[int, Field(ge=1)] = 64,
    test_time_flip: bool = True,
    test_time_shift: bool = True,
) -> nn.Module:
    """Whitening layer from the training data, three stages of two convolutions, a linear head: fast on a GPU.

    Outside of training the logits are the mean over six views: an image and its mirror image, as they are and
    moved by a pixel (the paper's sec. 3.5).

    Args:
        input_shape: (C, H, W), 9×9 or larger.
        outputs: classes.
        width: channels of the first stage; the others have four times as many.
        test_time_flip: whether prediction looks at the mirror image, too.
        test_time_shift: whether it looks at the image moved by a pixel, too.

    Raises:
        UserError: if the images are smaller.

    """
    channels, height, wide = input_shape
    if min(height, wide) < SMALLEST:
        raise UserError(
            f"'model.name' is 'airbench', which leaves nothing of images of {height}×{wide}; allowed: "
            f"images of {SMALLEST}×{SMALLEST} or larger"
        )
    whitening = Whitening(channels)
    network = nn.Sequential(
        whitening,
        nn.GELU(),
        *_stage(len(whitening.bias), width),
        *_stage(width, 4 * width),
        *_stage(4 * width, 4 * width),
        Head(4 * width, outputs, bias=False),
    )
    if not (test_time_flip or test_time_shift):
        return network
    return SeveralViews(network, test_time_flip, test_time_shift)
