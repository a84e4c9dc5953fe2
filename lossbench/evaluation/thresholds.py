"""What a segmentation of two classes scores at the threshold chosen on validation data, beside that at 0.5.

Losses differ in where they put "0.5": part of one's lead over another may be that alone, and a threshold
gives
it back for nothing.
"""

import numpy as np
import torch
from torch import Tensor

from lossbench.tasks.base import Array, Task
from lossbench.tasks.confusion import f1, iou

SUFFIX = "_at_threshold"
"""Of a metric's name."""
STEPS = 200
GRID = np.arange(1, STEPS) / STEPS
"""Thresholds tried; 0.5 is one."""
METRICS = ("mean_iou", "dice", "pixel_accuracy")
"""Those that follow from counts of positions alone."""


def applies(task: Task, metric: str) -> bool:
    """Whether there is a threshold to choose for a metric."""
    return task.name == "segmentation" and task.outputs == 2 and metric in METRICS


class Counted:
    """How many positions of each class have their probability between two neighbours of the grid.

    Args:
        found: (2, STEPS) int64.

    """

    def __init__(self, found: Array) -> None:
        self.found = found

    def scores(self, metric: str) -> Array:
        """(STEPS − 1,) of a metric, at each threshold."""
        above = self.found[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # predicted positive at each threshold
        below = self.found.sum(axis=1, keepdims=True) - above
        matrices = np.stack([below, above], axis=-1).transpose(1, 0, 2)
        if metric == "pixel_accuracy":
            return np.asarray((below[0] + above[1]) / self.found.sum())
        return np.asarray(np.nanmean((iou if metric == "mean_iou" else f1)(matrices), axis=-1))


class Counts(Counted):
    """The same, while they are counted.

    Args:
        task: of the outputs.
        targets: (N, H, W) as stored.

    """

    def __init__(self, task: Task, targets: Array) -> None:
        super().__init__(np.zeros((2, STEPS), dtype=np.int64))
        self._targets, self._ignored = targets, task.info.ignore_index
        self._edges = torch.from_numpy(np.log(GRID / (1 - GRID)))

    def look(self, which: slice, outputs: Tensor) -> None:
        """Count outputs (n, 2, H, W) of the samples ``which``, one batch after another."""
        margin = (outputs[:, 1].double() - outputs[:, 0].double()).cpu().contiguous()
        places = torch.bucketize(margin, self._edges).numpy()
        truth = np.asarray(self._targets[which])
        for label in (0, 1):
            mine = places[truth == label] if self._ignored != label else places[:0]
            self.found[label] += np.bincount(mine.ravel(), minlength=STEPS)


def best_threshold(validation: Counted, metric: str) -> int:
    """Number of the best threshold of the grid; of equally good ones the nearest to 0.5."""
    scores = validation.scores(metric)
    tied = np.flatnonzero(scores == scores.max())
    return int(tied[np.argmin(np.abs(GRID[tied] - 0.5))])
