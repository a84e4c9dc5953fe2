"""Classification: one class per sample."""

from typing import ClassVar

import numpy as np
from torch import Tensor

from lossbench.tasks.base import Array, Metric, Scores, Task, register
from lossbench.tasks.confusion import confusion_matrix, f1, ratio, recall


@register
class Classification(Task):
    """One class per sample; outputs (N, C)."""

    name = "classification"
    kinds = ("label",)
    metrics = (
        Metric("accuracy"),
        Metric("balanced_accuracy"),
        Metric("macro_f1"),
    )
    monitor = "accuracy"
    validated = ("accuracy", "balanced_accuracy", "macro_f1")
    calibrated: ClassVar[bool] = True
    has_prior: ClassVar[bool] = True
    mixes: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """One per class."""
        return len(self.info.classes)

    def validate(self, digests: Tensor, targets: Tensor) -> dict[str, float]:
        """Accuracy of a split; and, where it decides, balanced accuracy or macro-F1."""
        guess = digests.argmax(1)
        found = {"accuracy": (guess == targets).double().mean().item()}
        if self.monitor != "accuracy":
            matrix = confusion_matrix(targets.cpu().numpy(), guess.cpu().numpy(), self.outputs)
            of_class = recall(matrix) if self.monitor == "balanced_accuracy" else f1(matrix)
            found[self.monitor] = float(np.nanmean(of_class))
        return found

    def score(self, digests: Array, targets: Array) -> Scores:
        """Accuracy, balanced accuracy and macro-F1, with recall per class."""
        predicted = self.decide(digests)
        matrix = confusion_matrix(targets, predicted, self.outputs)
        correct = (predicted == targets).astype(np.float64)
        return Scores(
            metrics={
                "accuracy": float(correct.mean()),
                "balanced_accuracy": float(np.nanmean(recall(matrix))),
                "macro_f1": float(np.nanmean(f1(matrix))),
            },
            per_class={"recall": recall(matrix), "f1": f1(matrix)},
            confusion=matrix,
            statistics={
                "accuracy": np.stack([correct, np.ones_like(correct)], axis=1),
                "balanced_accuracy": _per_class_counts(targets, correct, self.outputs),
            },
        )

    def from_statistics(self, metric: str, total: Array) -> Array:
        """Accuracy from (hits, samples); balanced accuracy from both per class."""
        if metric == "accuracy":
            return ratio(total[..., 0], total[..., 1])
        if metric == "balanced_accuracy":
            hits, samples = total[..., : self.outputs], total[..., self.outputs :]
            mean: Array = np.nanmean(ratio(hits, samples), axis=-1)
            return mean
        return super().from_statistics(metric, total)


def _per_class_counts(targets: Array, correct: Array, classes: int) -> Array:
    """(N, 2C): is the sample a hit of class c; is it of class c."""
    member = np.eye(classes)[targets]
    return np.concatenate([member * correct[:, None], member], axis=1)
