"""Boxes (x0, y0, x1, y1) in pixels: overlap, and which of several predictions of one object is kept."""

import torch
from torch import Tensor

TINY = 1e-9
"""Keeps areas of nothing from dividing by zero."""


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4); inside-out boxes have none."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return width.clamp_min(0) * height.clamp_min(0)


def overlap(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union (...) of boxes (..., 4), which broadcast against each other."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    common = _extent(low, high)
    return common, area(first) + area(second) - common


def _extent(low: Tensor, high: Tensor) -> Tensor:
    """Areas (...) between corners (..., 2).

    On a GPU without ``prod``, whose backward reads how many factors are zero, for which the host waits. On
    the CPU with it: the same gradient, but for rounding, and results there keep their bits.
    """
    sides = (high - low).clamp_min(0)
    return sides.prod(-1) if sides.device.type == "cpu" else sides[..., 0] * sides[..., 1]


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (...) of boxes (..., 4), which broadcast; 0 where neither has an area."""
    common, union = overlap(first, second)
    return common / union.clamp_min(TINY)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (...), −1 to 1, of boxes (..., 4), which broadcast.

    Rezatofighi et al. 2019, 1902.09630.

    IoU less the share of the smallest enclosing box that neither covers: boxes that do not meet still
    differ in how far apart they are.
    """
    common, union = overlap(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = _extent(low, high).clamp_min(TINY)
    return common / union.clamp_min(TINY) - (hull - union) / hull


def suppress(boxes: Tensor, classes: Tensor, most: float) -> Tensor:
    """Greedy non-maximum suppression within each class, of many images at once.

    What ``torchvision.ops.batched_nms`` keeps of each image, in a few operations for the whole batch and
    without that package's import, which takes longer than to train a small detector for an epoch.

    Args:
        boxes: (N, M, 4), the best-scored of each image first.
        classes: (N, M).
        most: IoU with a better box of its class beyond which a box goes.

    Returns:
        (N, M) bool: which are kept.

    """
    twins = (iou(boxes[:, :, None], boxes[:, None]) > most) & (classes[:, :, None] == classes[:, None])
    beats = twins.triu(diagonal=1)  # the better come first
    kept = torch.ones(classes.shape, dtype=torch.bool, device=boxes.device)
    for place in range(boxes.shape[1]):
        kept &= ~(beats[:, place] & kept[:, place, None])
    return kept
