"""What a metric's exact name says: which way is better, and between which bounds it lies.

A look-up, never a guess: ``iou_error`` is not known because ``iou`` is; of unknown names one has to ask.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # stages that only collect ask for directions, and import no scipy for it
    from lossbench.statistics.paired import Interval

SHARES = (
    "accuracy", "balanced_accuracy", "pixel_accuracy", "top1", "top5", "precision", "recall", "f1",
    "macro_f1",
    "micro_f1", "dice", "iou", "mean_iou", "miou", "boundary_f1", "boundary_iou", "auroc", "roc_auc", "aupr",
    "average_precision", "map", "map50",
)  # fmt: skip
POSITIVE_COSTS = (
    "nll", "perplexity", "bits_per_character", "mse", "rmse", "mae", "reconstruction_mse", "log_loss",
)  # fmt: skip
SPLITS = {
    "train", "training", "val", "valid", "validation", "dev", "test", "eval", "evaluation",
    "metrics", "summary",
}  # fmt: skip
"""Words that say of what a value is; the last two are what MLflow and W&B put before a column's name."""
SUMMARIES = {"epoch", "step", "mean", "avg", "average", "final", "best", "last", "min", "total", "running"}
OBJECTIVES = {"loss", "losses", "objective", "cost", "criterion"}
INFINITY = float("inf")


@dataclass(frozen=True)
class Known:
    """A metric's direction and bounds."""

    higher_is_better: bool
    low: float
    high: float


KNOWN: dict[str, Known] = {
    **{name: Known(True, 0.0, 1.0) for name in SHARES},
    "mcc": Known(True, -1.0, 1.0),
    **{name: Known(False, 0.0, INFINITY) for name in POSITIVE_COSTS},
    "brier": Known(False, 0.0, 2.0),
    "ece": Known(False, 0.0, 1.0),
    "ece_debiased": Known(False, 0.0, 1.0),
}


def known(metric: str) -> Known | None:
    """Direction and bounds of a metric, with or without its split (``test/dice``); None where unknown."""
    name = metric.rsplit("/", 1)[-1].lower().replace("-", "_").replace(" ", "_")
    return KNOWN.get(name) or KNOWN.get(name.removesuffix("_calibrated").removesuffix("_at_threshold"))


def within_bounds(interval: "Interval", metric: str) -> "Interval":
    """Cut an interval of a metric's mean to what the metric can be; as it is where the name is unknown."""
    found = known(metric)
    return interval.within(found.low, found.high) if found else interval


def is_training_loss(metric: str) -> bool:
    """Whether a name is the optimised loss's own, on whatever split: ``loss``, ``val_loss``, ``trainLoss``.

    Its values have a unit of their own per loss, so comparing them compares units. ``log_loss`` or
    ``hamming_loss`` are metrics that happen to be called so.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric)
    words = [word for word in re.split(r"[\W_]+", spaced.lower()) if word]
    return bool(set(words) & OBJECTIVES) and not set(words) - OBJECTIVES - SPLITS - SUMMARIES
