"""Object detection: which box holds what; the compared loss trains the classes of a grid's cells."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from lossbench.data.dataset import DatasetInfo
from lossbench.errors import UserError
from lossbench.options import Options
from lossbench.tasks.average_precision import Precisions, average_precision
from lossbench.tasks.base import Array, Metric, Scores, Shown, Task, register
from lossbench.tasks.boxes import generalized_iou, suppress
from lossbench.tasks.drawing import draw_boxes
from lossbench.tasks.grid import Grid
from lossbench.tasks.matching import disagreement, mistakes

CANDIDATES = 4
"""Cells looked at per box that may be kept: neighbours answer for the same box."""
IMAGES_AT_ONCE = 64


class DetectionOptions(Options):
    """How boxes become targets of cells, and cells boxes again.

    ``stride``: pixels per cell, the model's; ``radius``: cells around a box's centre that answer for it too;
    ``box_loss``, ``box_weight``: of the fixed loss of boxes, and its factor beside the compared loss;
    ``overlap``: IoU of two boxes of a class beyond which the worse goes; ``detections``: kept per image;
    ``shown``: the least score of a box that a person is shown.
    """

    stride: Annotated[int, Field(ge=1, le=256)] = 4
    radius: Annotated[int, Field(ge=0, le=16)] = 0
    box_loss: Literal["giou", "smooth_l1"] = "giou"
    box_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.5
    detections: Annotated[int, Field(ge=1, le=1000)] = 100
    shown: Annotated[float, Field(ge=0, lt=1)] = 0.3


@register
class Detection(Task):
    """Boxes with a class each; outputs (N, (C + 1) + 4, h, w), targets (N, K, 5) in pixels.

    A cell's first C + 1 outputs are class scores, background first: what the compared loss sees, one class
    per cell. The last 4 state its box (:mod:`lossbench.tasks.grid`) and are trained by a fixed loss. A box's
    score is the softmax of its class, whatever the loss.

    A digest is (N, D, 6): x0, y0, x1, y1, class, score, the best first; class −1 pads.
    """

    name = "detection"
    kinds = ("boxes",)
    metrics = (Metric("map50"), Metric("map"))
    monitor = "map50"
    validated = ("map50", "map")
    option_model: ClassVar[type[Options]] = DetectionOptions

    def __init__(self, info: DatasetInfo, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(info, options)
        self.height, self.width = info.input_shape[-2:]
        self.grid = Grid.over(self.height, self.width, self.options.stride)

    @property
    def classes(self) -> int:
        """C, without background."""
        return len(self.info.classes)

    @property
    def loss_classes(self) -> int:
        """Classes of a cell, background first."""
        return self.classes + 1

    @property
    def outputs(self) -> int:
        """Class scores and a box."""
        return self.loss_classes + 4

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Cells per class, background first.

        Exact for ``radius: 0`` but for boxes centred in the same cell; with neighbours, an upper bound of
        each class, since cells that two boxes want are counted twice.
        """
        each = min((2 * self.options.radius + 1) ** 2, self.cells)
        boxes = [count * each for count in self.info.counts]
        background = self.info.sizes.get("train", 0) * self.cells - sum(boxes)
        return (max(1, background), *boxes)

    @property
    def cells(self) -> int:
        """Cells of one image."""
        return self.grid.size[0] * self.grid.size[1]

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Boxes stay boxes: cells are assigned batch by batch."""
        return targets.float()

    def loss_target(self, targets: Tensor) -> Tensor:
        """Class of every cell, (N, h, w): 0 for background."""
        return self.grid.assign(targets, self.options.radius).labels

    def objective(
        self, loss: nn.Module, outputs: Tensor, targets: Tensor, inputs: Tensor, **auxiliary: Tensor
    ) -> Tensor:
        """Compared loss of the cells' classes, plus ``box_weight`` × box loss; both averaged over all cells.

        Cells without a box have a box loss of 0. Averaged over cells with one only, it would outweigh a
        mean over all cells the more, the rarer boxes are, and train a network that finds nothing.

        Raises:
            UserError: if the model's grid is not the task's.

        """
        del inputs
        self._check_grid(outputs)
        scores, stated = torch.split(outputs, [self.loss_classes, 4], dim=1)
        assigned = self.grid.assign(targets, self.options.radius)
        value: Tensor = loss(scores, assigned.labels, **auxiliary)
        each = self._box_losses(stated, assigned.boxes)
        holds = assigned.labels > 0
        total: Tensor = value + self.options.box_weight * (each * holds).mean()
        return total

    def _check_grid(self, outputs: Tensor) -> None:
        found = tuple(outputs.shape[-2:])
        if found != self.grid.size:
            (rows, columns), (high, wide) = found, self.grid.size
            raise UserError(
                f"the model puts out {rows}×{columns} cells for images of {self.height}×{self.width}, but "
                f"'task.stride' is {self.options.stride}, that is {high}×{wide}; give both the same"
            )

    def _box_losses(self, stated: Tensor, boxes: Tensor) -> Tensor:
        """(N, h, w): how far each cell's box is off."""
        if self.options.box_loss == "giou":
            return 1 - generalized_iou(self.grid.decode(stated), boxes)
        return smooth_l1_loss(stated, self.grid.encode(boxes), reduction="none").sum(1)

    def digest(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Decode the cells' boxes and keep the best of those that overlap, (N, D, 6)."""
        del targets, inputs
        return torch.cat([self._detect(part) for part in torch.split(outputs, IMAGES_AT_ONCE)])

    def _detect(self, outputs: Tensor) -> Tensor:
        scores, stated = torch.split(outputs.float().nan_to_num(), [self.loss_classes, 4], dim=1)
        score, label = scores.softmax(1)[:, 1:].flatten(2).max(1)
        x0, y0, x1, y1 = self.grid.decode(stated).flatten(1, 2).clamp_min(0).unbind(-1)
        inside = [x0.clamp_max(self.width), y0.clamp_max(self.height)]
        boxes = torch.stack([*inside, x1.clamp_max(self.width), y1.clamp_max(self.height)], -1)
        order = score.argsort(dim=1, descending=True, stable=True)[:, : CANDIDATES * self.options.detections]
        found = torch.cat([boxes, label[..., None].float(), score[..., None]], -1)
        found = found.gather(1, order[..., None].expand(-1, -1, 6))
        kept = suppress(found[..., :4], found[..., 4], self.options.overlap)
        first = kept.int().argsort(dim=1, descending=True, stable=True)[:, : self.options.detections]
        found[..., 4] = found[..., 4].masked_fill(~kept, -1)
        return found.gather(1, first[..., None].expand(-1, -1, 6))

    def validate(self, digests: Tensor, targets: Tensor) -> dict[str, float]:
        """Mean average precision at IoU 0.5; and, where it decides, over 0.50 to 0.95."""
        scores, truth = digests.cpu().numpy(), targets.cpu().numpy()
        if self.monitor == "map":
            found = average_precision(scores, truth, self.classes)
            return {"map50": Precisions.mean(found.at(0.5)), "map": Precisions.mean(found.per_class)}
        return {"map50": Precisions.mean(average_precision(scores, truth, self.classes, [0.5]).at(0.5))}

    def score(self, digests: Array, targets: Array) -> Scores:
        """Mean average precision at IoU 0.5, and over 0.50, 0.55, …, 0.95 as COCO has it."""
        found = average_precision(digests, targets, self.classes)
        return Scores(
            metrics={"map50": Precisions.mean(found.at(0.5)), "map": Precisions.mean(found.per_class)},
            per_class={"ap50": found.at(0.5), "ap": found.per_class},
        )

    def decide(self, digests: Array) -> Array:
        """Boxes that score at least ``shown``; the class of the others becomes −1."""
        decided = digests.copy()
        decided[..., 4] = np.where(digests[..., 5] >= self.options.shown, digests[..., 4], -1)
        return decided

    def majority_digests(self, targets: Array) -> Array:
        """No box at all: background is the commonest class."""
        nothing = np.zeros((len(targets), 1, 6))
        nothing[..., 4] = -1
        return nothing

    def disagreement(self, decisions: Sequence[Array]) -> Array:
        """Largest share of boxes, (N,), that the first arm and another have not in common."""
        return disagreement(decisions)

    def show_target(self, target: Array, inputs: Array) -> Shown:
        """The true boxes."""
        pixels = super().show_input(inputs).pixels
        return Shown(draw_boxes(pixels, target, None), self._count(target))

    def show_decision(self, decision: Array, target: Array, inputs: Array) -> Shown:
        """The boxes found, in their classes' colours."""
        pixels = super().show_input(inputs).pixels
        missed, false = mistakes(decision, target)
        text = f"{missed} missed, {false} false" if missed or false else f"all {self._count(target)} found"
        return Shown(draw_boxes(pixels, decision, self.info.classes), text, wrong=bool(missed or false))

    def _count(self, boxes: Array) -> str:
        count = int((boxes[:, 4] >= 0).sum())
        return f"{count} box{'' if count == 1 else 'es'}"
