"""Average precision of boxes by COCO's own evaluation, from arrays."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
COCO_OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).tolist())
EVERYWHERE = [0.0, 1e10]
"""COCO's range of areas that leaves nothing out."""


@dataclass(frozen=True)
class Precisions:
    """Average precisions.

    Attributes:
        overlaps: (T,) IoU that a detection needs.
        values: (T, C), NaN for a class without true boxes.

    """

    overlaps: tuple[float, ...]
    values: Array

    def at(self, overlap: float) -> Array:
        """(C,) at one IoU."""
        chosen: Array = self.values[self.overlaps.index(overlap)]
        return chosen

    @property
    def per_class(self) -> Array:
        """(C,), averaged over overlaps."""
        mean: Array = self.values.mean(axis=0)
        return mean

    @staticmethod
    def mean(values: Array) -> float:
        """Mean over the classes that have true boxes; 0 where none has."""
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else 0.0


def average_precision(
    detections: Array, targets: Array, classes: int, overlaps: Sequence[float] = COCO_OVERLAPS
) -> Precisions:
    """Average precision, interpolated at 101 recalls, by ``pycocotools``.

    Args:
        detections: (N, D, 6) of (x0, y0, x1, y1, class, score); class −1 pads.
        targets: (N, K, 5) of (x0, y0, x1, y1, class); class −1 pads.
        classes: C.
        overlaps: IoU that a detection needs to count as found.

    """
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it reports on everything it does
        truth, found = _coco(targets, classes, len(targets)), _coco(detections, classes, len(targets))
        run = COCOeval(truth, found, "bbox")
        run.params.iouThrs = np.array(overlaps)
        run.params.areaRng, run.params.areaRngLbl = [EVERYWHERE], ["all"]
        run.params.maxDets = [max(1, detections.shape[1])]
        run.evaluate()
        run.accumulate()
    curves = run.eval["precision"][:, :, :, 0, 0]  # (T, recalls, C); −1 for a class without true boxes
    return Precisions(tuple(overlaps), np.where((curves >= 0).all(axis=1), curves.mean(axis=1), np.nan))


def _coco(boxes: Array, classes: int, images: int) -> Any:
    """COCO's index of padded boxes, built in memory."""
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": _annotations(boxes.astype(np.float64)),
    }
    made.createIndex()
    return made


def _annotations(boxes: Array) -> list[dict[str, Any]]:
    image, place = np.nonzero(boxes[..., 4] >= 0)
    rows = boxes[image, place]
    sides = rows[:, 2:4] - rows[:, :2]
    corners = np.concatenate([rows[:, :2], sides], axis=1).tolist()
    scores = rows[:, 5].tolist() if boxes.shape[-1] > 5 else [1.0] * len(rows)
    numbers = zip(image.tolist(), rows[:, 4].astype(int).tolist(), strict=True)
    # Ids begin at 1: pycocotools takes 0 for "not matched".
    return [
        {
            "id": number,
            "image_id": where,
            "category_id": label,
            "bbox": box,
            "area": box[2] * box[3],
            "score": score,
            "iscrowd": 0,
        }
        for number, ((where, label), box, score) in enumerate(zip(numbers, corners, scores, strict=True), 1)
    ]
