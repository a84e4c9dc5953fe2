"""Tasks: what a target means, which head a model needs, how a loss sees it, what scores it."""

from lossbench.tasks import classification, segmentation
from lossbench.tasks.base import TASKS, Metric, Scores, Task, task_class

__all__ = ["TASKS", "Metric", "Scores", "Task", "classification", "segmentation", "task_class"]
