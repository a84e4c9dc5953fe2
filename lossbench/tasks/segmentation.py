"""Segmentation: one class per position, not one per image."""

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lossbench.tasks.base import Array, Metric, Scores, Task, register
from lossbench.tasks.confusion import confusion_matrix, f1, iou, ratio

CHUNK = 64
"""Images whose one-hot masks are held at once."""


@register
class Segmentation(Task):
    """One class per position; outputs (N, C, H, W), targets (N, H, W)."""

    name = "segmentation"
    kinds = ("mask",)
    metrics = (
        Metric("mean_iou"),
        Metric("dice"),
        Metric("pixel_accuracy"),
        Metric("boundary_f1"),
    )
    monitor = "mean_iou"
    calibrated: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """One per class, background included."""
        return len(self.info.classes)

    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Mean IoU of a split."""
        predicted = outputs.argmax(1).cpu().numpy()
        matrix = confusion_matrix(targets.cpu().numpy(), predicted, self.outputs, self.info.ignore_index)
        return {"mean_iou": float(np.nanmean(iou(matrix)))}

    def score(self, outputs: Array, targets: Array) -> Scores:
        """Mean IoU, Dice, pixel accuracy over the whole split; boundary F1 per image and class."""
        predicted = self.decide(outputs)
        matrices = np.stack(
            [
                confusion_matrix(target, guess, self.outputs, self.info.ignore_index)
                for target, guess in zip(targets, predicted, strict=True)
            ]
        )
        matrix = matrices.sum(axis=0)
        edges = boundary_f1(targets, predicted, self.outputs, self.info.ignore_index)
        return Scores(
            metrics={
                "mean_iou": float(np.nanmean(iou(matrix))),
                "dice": float(np.nanmean(f1(matrix))),
                "pixel_accuracy": float(np.trace(matrix) / matrix.sum()),
                "boundary_f1": float(np.nanmean(edges)),
            },
            per_class={"iou": iou(matrix), "dice": f1(matrix), "boundary_f1": edges},
            confusion=matrix,
            statistics={"mean_iou": _overlap_counts(matrices)},
        )

    def from_statistics(self, metric: str, total: Array) -> Array:
        """Mean IoU from intersections and unions per class."""
        if metric == "mean_iou":
            intersection, union = total[..., : self.outputs], total[..., self.outputs :]
            mean: Array = np.nanmean(ratio(intersection, union), axis=-1)
            return mean
        return super().from_statistics(metric, total)


def _overlap_counts(matrices: Array) -> Array:
    """(N, 2C): intersection and union per image and class, from (N, C, C) confusion matrices."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    union = matrices.sum(axis=-1) + matrices.sum(axis=-2) - hits
    return np.concatenate([hits, union], axis=1).astype(np.float64)


def boundary_f1(
    targets: Array,
    predicted: Array,
    classes: int,
    ignore_index: int | None = None,
    tolerance: int | None = None,
) -> Array:
    """F1 between predicted and true contours (Csurka et al., BMVC 2013).

    A contour position counts as found if the other contour passes within ``tolerance`` positions
    (chessboard distance). F1 is taken per image and class, and averaged over the images where the
    class occurs in truth or prediction.

    Args:
        targets: (N, H, W) integers.
        predicted: (N, H, W) integers.
        classes: C.
        ignore_index: target value whose positions count neither as truth nor as prediction.
        tolerance: in positions; 0.75 % of the image diagonal where None, at least 1.

    Returns:
        (C,) float64, NaN for a class that occurs nowhere.

    """
    if tolerance is None:
        tolerance = max(1, round(0.0075 * math.hypot(*targets.shape[1:])))
    parts = [
        _boundary_f1_per_image(
            targets[i : i + CHUNK], predicted[i : i + CHUNK], classes, ignore_index, tolerance
        )
        for i in range(0, len(targets), CHUNK)
    ]
    scores = np.concatenate(parts)
    occurs = ~np.isnan(scores)
    return ratio(np.where(occurs, scores, 0).sum(axis=0), occurs.sum(axis=0))


def _boundary_f1_per_image(
    targets: Array, predicted: Array, classes: int, ignore_index: int | None, tolerance: int
) -> Array:
    valid = torch.ones(targets.shape, dtype=torch.bool)
    if ignore_index is not None:
        valid = torch.from_numpy(np.asarray(targets != ignore_index))
    truth = _contours(targets, classes, valid)
    guess = _contours(predicted, classes, valid)
    found_truth = (truth & _widen(guess, tolerance)).sum(dim=(2, 3)).double()
    found_guess = (guess & _widen(truth, tolerance)).sum(dim=(2, 3)).double()
    of_truth, of_guess = truth.sum(dim=(2, 3)).double(), guess.sum(dim=(2, 3)).double()
    # F1 = 2PR/(P+R) with P = found_guess/of_guess, R = found_truth/of_truth, written without division by 0.
    precision, recall = found_guess / of_guess.clamp(min=1), found_truth / of_truth.clamp(min=1)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    score[(of_truth + of_guess) == 0] = math.nan
    return score.numpy()


def _contours(labels: Array, classes: int, valid: Tensor) -> Tensor:
    """(N, C, H, W) bool: positions of a class with a 4-neighbour of another class (or the image's edge)."""
    index = torch.from_numpy(labels.astype(np.int64))
    mask = (index.unsqueeze(1) == torch.arange(classes).view(1, -1, 1, 1)) & valid.unsqueeze(1)
    padded = F.pad(mask, (1, 1, 1, 1))
    inside = padded[..., :-2, 1:-1] & padded[..., 2:, 1:-1] & padded[..., 1:-1, :-2] & padded[..., 1:-1, 2:]
    return mask & ~inside


def _widen(mask: Tensor, distance: int) -> Tensor:
    return F.max_pool2d(mask.float(), 2 * distance + 1, stride=1, padding=distance) > 0
