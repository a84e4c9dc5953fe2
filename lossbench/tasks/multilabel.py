"""Multi-label classification: any number of labels per sample, which do not exclude one another."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from lossbench.tasks.base import Array, Metric, Scores, Shown, Task, register
from lossbench.tasks.confusion import ratio
from lossbench.tasks.ranking import auroc, average_precision


@register
class Multilabel(Task):
    """Labels (N, C) of 0 and 1; outputs (N, C).

    A label is given to as large a share of the scored samples as have it in training, those with its
    highest scores. One rule for all losses: thresholds on probabilities would favour those whose outputs
    are probabilities, and be wrong for hinge and for the softmax over labels.
    """

    name = "multilabel"
    kinds = ("multilabel",)
    metrics = (Metric("map"), Metric("macro_f1"), Metric("micro_f1"), Metric("auroc"))
    monitor = "map"
    validated = ("map", "macro_f1", "micro_f1", "auroc")
    multilabel = True
    has_prior = True
    mixes = True

    @property
    def outputs(self) -> int:
        """One per label."""
        return len(self.info.classes)

    @property
    def positions(self) -> int:
        """Training samples."""
        return self.info.sizes["train"]

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Labels as floats, which every multi-label loss takes."""
        return targets.float()

    def validate(self, digests: Tensor, targets: Tensor) -> dict[str, float]:
        """Mean average precision of a split; and, where another metric decides, that."""
        scores, truth = digests.double().cpu().numpy(), targets.cpu().numpy()
        found = {"map": float(np.nanmean(_each(average_precision, scores, truth > 0)))}
        if self.monitor not in found:
            found[self.monitor] = self.score(scores, truth).metrics[self.monitor]
        return found

    def score(self, digests: Array, targets: Array) -> Scores:
        """Mean average precision and AUROC over labels, F1 of the labels given."""
        scores, truth = digests.astype(np.float64), targets > 0
        given = self.decide(scores) > 0
        hits, guessed, true = given & truth, given.sum(axis=0), truth.sum(axis=0)
        f1 = ratio(2 * hits.sum(axis=0), guessed + true)
        precisions, areas = _each(average_precision, scores, truth), _each(auroc, scores, truth)
        return Scores(
            metrics={
                "map": float(np.nanmean(precisions)),
                "macro_f1": float(np.nanmean(f1)),
                "micro_f1": float(2 * hits.sum() / max(1, int(guessed.sum() + true.sum()))),
                "auroc": float(np.nanmean(areas)),
            },
            per_class={"average_precision": precisions, "auroc": areas, "f1": f1},
            statistics={"macro_f1": np.concatenate([hits, given, truth], axis=1).astype(np.float64)},
        )

    def from_statistics(self, metric: str, total: Array) -> Array:
        """Macro-F1 from hits, labels given and true labels per class."""
        if metric == "macro_f1":
            hits, given, true = np.split(total, 3, axis=-1)
            mean: Array = np.nanmean(ratio(2 * hits, given + true), axis=-1)
            return mean
        return super().from_statistics(metric, total)

    def decide(self, digests: Array) -> Array:
        """Give each label to the share of samples that has it in training, (N, C) of 0 and 1."""
        shares = np.asarray(self.info.counts) / max(1, self.positions)
        take = np.rint(shares * len(digests)).astype(np.int64)
        ranks = np.argsort(np.argsort(-digests, axis=0, kind="stable"), axis=0, kind="stable")
        return (ranks < take).astype(np.uint8)

    def majority_digests(self, targets: Array) -> Array:
        """Equal scores for all samples: the label's prevalence."""
        shares = np.asarray(self.info.counts) / max(1, self.positions)
        return np.tile(shares, (len(targets), 1))

    def show_target(self, target: Array, inputs: Array) -> Shown:
        """The true labels."""
        del inputs
        return Shown(None, self._named(target))

    def show_decision(self, decision: Array, target: Array, inputs: Array) -> Shown:
        """The labels given."""
        del inputs
        return Shown(None, self._named(decision), wrong=bool(((decision > 0) != (target > 0)).any()))

    def _named(self, labels: Array) -> str:
        return ", ".join(np.array(self.info.classes)[labels > 0]) or "none"


def _each(measure: Callable[[Array, Array], float], scores: Array, truth: Array) -> Array:
    """Measure each label, (C,)."""
    return np.array([measure(scores[:, label], truth[:, label]) for label in range(truth.shape[1])])
