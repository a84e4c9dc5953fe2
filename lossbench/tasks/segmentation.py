"""Segmentation: one class per position, not one per image."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lossbench.tasks.base import Array, Metric, Scores, Shown, Task, register
from lossbench.tasks.confusion import confusion_matrix, f1, iou, ratio
from lossbench.tasks.contours import boundary_f1, boundary_overlaps


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
        Metric("boundary_iou"),
    )
    monitor = "mean_iou"
    validated = ("mean_iou", "dice", "pixel_accuracy", "boundary_f1", "boundary_iou")
    calibrated: ClassVar[bool] = True
    has_prior: ClassVar[bool] = True
    mixes: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """One per class, background included."""
        return len(self.info.classes)

    def digest(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Keep the likeliest class per position, (N, H, W): a fraction of the scores' memory."""
        del targets, inputs
        likeliest = outputs.argmax(1)
        return likeliest.to(torch.uint8 if self.outputs <= 256 else torch.int16)

    def validate(self, digests: Tensor, targets: Tensor) -> dict[str, float]:
        """Mean IoU of a split; and, where another metric decides, that."""
        predicted, truth = digests.cpu().numpy(), targets.cpu().numpy()
        matrix = confusion_matrix(truth, predicted, self.outputs, self.info.ignore_index)
        counted = self._counted(matrix)
        found = {"mean_iou": counted["mean_iou"]}
        match self.monitor:
            case "dice" | "pixel_accuracy":
                found[self.monitor] = counted[self.monitor]
            case "boundary_f1":
                edges = boundary_f1(truth, predicted, self.outputs, self.info.ignore_index)
                found["boundary_f1"] = float(np.nanmean(edges))
            case "boundary_iou":
                bands = boundary_overlaps(truth, predicted, self.outputs, self.info.ignore_index)
                found["boundary_iou"] = float(np.nanmean(self._ious(bands.sum(axis=0))))
        return found

    def score(self, digests: Array, targets: Array) -> Scores:
        """Boundary F1 is averaged over images; all else is counted over the whole split."""
        predicted = self.decide(digests)
        matrices = np.stack(
            [
                confusion_matrix(target, guess, self.outputs, self.info.ignore_index)
                for target, guess in zip(targets, predicted, strict=True)
            ]
        )
        matrix = matrices.sum(axis=0)
        edges = boundary_f1(targets, predicted, self.outputs, self.info.ignore_index)
        bands = boundary_overlaps(targets, predicted, self.outputs, self.info.ignore_index)
        band_iou = self._ious(bands.sum(axis=0))
        return Scores(
            metrics={
                **self._counted(matrix),
                "boundary_f1": float(np.nanmean(edges)),
                "boundary_iou": float(np.nanmean(band_iou)),
            },
            per_class={
                "iou": iou(matrix),
                "dice": f1(matrix),
                "boundary_f1": edges,
                "boundary_iou": band_iou,
            },
            confusion=matrix,
            statistics={"mean_iou": _overlap_counts(matrices), "boundary_iou": bands},
        )

    def score_by(self, metric: str, digests: Array, targets: Array) -> float:
        """Score by one metric alone: contours take most of the time, and not all metrics need them."""
        if metric.startswith("boundary") or type(self).score is not Segmentation.score:  # a user's own
            return super().score_by(metric, digests, targets)
        matrix = confusion_matrix(targets, self.decide(digests), self.outputs, self.info.ignore_index)
        return self._counted(matrix)[metric]

    def _counted(self, matrix: Array) -> dict[str, float]:
        return {
            "mean_iou": float(np.nanmean(iou(matrix))),
            "dice": float(np.nanmean(f1(matrix))),
            "pixel_accuracy": float(np.trace(matrix) / matrix.sum()),
        }

    def decide(self, digests: Array) -> Array:
        """Digests are decisions already."""
        return digests

    def majority_digests(self, targets: Array) -> Array:
        """Every position is of the commonest class."""
        return np.full(targets.shape, int(np.argmax(self.class_counts)), dtype=np.int16)

    def show_target(self, target: Array, inputs: Array) -> Shown:
        """The true mask."""
        del inputs
        return Shown(target, "true mask", palette=True)

    def show_decision(self, decision: Array, target: Array, inputs: Array) -> Shown:
        """The predicted mask."""
        del inputs
        known = target != (-1 if self.info.ignore_index is None else self.info.ignore_index)
        wrong = float((decision != target)[known].mean()) if known.any() else 0.0
        return Shown(decision, f"{wrong:.1%} of pixels wrong", wrong > 0, palette=True)

    def from_statistics(self, metric: str, total: Array) -> Array:
        """Mean IoU, of regions or of bands, from intersections and unions per class."""
        if metric in ("mean_iou", "boundary_iou"):
            mean: Array = np.nanmean(self._ious(total), axis=-1)
            return mean
        return super().from_statistics(metric, total)

    def _ious(self, counts: Array) -> Array:
        """(..., C) from intersections and unions (..., 2C)."""
        return ratio(counts[..., : self.outputs], counts[..., self.outputs :])


def _overlap_counts(matrices: Array) -> Array:
    """(N, 2C): intersection and union per image and class, from (N, C, C) confusion matrices."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    union = matrices.sum(axis=-1) + matrices.sum(axis=-2) - hits
    return np.concatenate([hits, union], axis=1).astype(np.float64)
