"""Tasks: what a target means, which head a model needs, how a loss sees it, what scores it."""

from lossbench.tasks import anomaly, classification, detection, language, multilabel, segmentation
from lossbench.tasks.base import TASKS, Metric, Scores, Task, task_class

__all__ = [
    "TASKS",
    "Metric",
    "Scores",
    "Task",
    "anomaly",
    "classification",
    "detection",
    "language",
    "multilabel",
    "segmentation",
    "task_class",
]
