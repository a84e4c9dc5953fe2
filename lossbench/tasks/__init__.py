"""Tasks: what a target means, which head a model needs, how a loss sees it, what scores it."""

from typing import TYPE_CHECKING

from lossbench.lookup import lazily

if TYPE_CHECKING:
    from lossbench.tasks.base import TASKS as TASKS
    from lossbench.tasks.base import Metric as Metric
    from lossbench.tasks.base import Scores as Scores
    from lossbench.tasks.base import Task as Task
    from lossbench.tasks.base import task_class as task_class

__getattr__ = lazily(
    __name__, {"TASKS": "base", "Metric": "base", "Scores": "base", "Task": "base", "task_class": "base"}
)
