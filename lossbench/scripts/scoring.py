"""What a report asks of a script's metrics."""

import numpy as np
import numpy.typing as npt

from lossbench.params import ScriptExperiment
from lossbench.scripts.spec import COMMAND
from lossbench.tasks.base import Metric


class Scripted:
    """The part of a task that a script's experiment has: metrics, and how they come from examples.

    Args:
        experiment: of params.yaml.

    """

    name = COMMAND

    def __init__(self, experiment: ScriptExperiment) -> None:
        self.metrics = tuple(Metric(name, way == "higher") for name, way in experiment.task.metrics.items())
        self.monitor = experiment.monitor

    def from_statistics(self, metric: str, total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Turn summed (value, 1) of examples, (..., 2), into their mean: any declared metric is one."""
        del metric
        return np.asarray(total[..., 0] / total[..., 1])
