"""What a task is: what a target means, which head a model needs, how a loss sees it, what scores it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lossbench.data.dataset import DatasetInfo
from lossbench.errors import UserError, nearest

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """A test metric: its name, which way is better, and its unit in a sentence."""

    name: str
    higher_is_better: bool = True
    unit: str = ""


@dataclass(frozen=True)
class Scores:
    """What the test split says about one replicate.

    Attributes:
        metrics: name → value.
        per_class: metric → one value per class (NaN for a class absent from the test split).
        confusion: (C, C) counts, rows true, columns predicted; None where a task has none.
        statistics: metric → (examples, K) sufficient statistics whose sum over examples
            ``Task.from_statistics`` turns into that metric, for the seeds × examples interval.

    """

    metrics: dict[str, float]
    per_class: dict[str, Array] = field(default_factory=dict)
    confusion: Array | None = None
    statistics: dict[str, Array] = field(default_factory=dict)


class Task(ABC):
    """A task on a dataset. Subclasses are registered by name and live in one file each.

    A model's output for a batch is ``(N, outputs, *spatial)``; ``objective`` shows it to the loss.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of dataset the task can be done on."""
    metrics: ClassVar[tuple[Metric, ...]]
    """All test metrics; ``metric:`` of an experiment names one of them."""
    monitor: ClassVar[str]
    """The validation metric (higher is better) that chooses a checkpoint and stops early."""
    multilabel: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False
    """Outputs are scores of classes per position: NLL, Brier and ECE are reported too."""

    def __init__(self, info: DatasetInfo, options: Mapping[str, Any] | None = None) -> None:
        self.info = info
        self.options = dict(options or {})
        if info.kind not in self.kinds:
            raise UserError(
                f"task '{self.name}' needs a dataset with targets of kind {' or '.join(self.kinds)}, "
                f"found kind '{info.kind}'"
            )

    @classmethod
    def check_options(cls, options: Mapping[str, Any], key: str) -> None:
        """Refuse options of ``params.yaml`` that the task does not know (``key`` is their path)."""
        for name in options:
            raise UserError(f"unknown key '{key}.{name}'; task '{cls.name}' takes no options")

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Channels a model must put out."""

    def encode_inputs(self, inputs: Tensor) -> Tensor:
        """Turn stored inputs (N, *input_shape) into what the model sees: floats, normalised."""
        mean = torch.tensor(self.info.mean, device=inputs.device).view(1, -1, 1, 1)
        std = torch.tensor(self.info.std, device=inputs.device).view(1, -1, 1, 1)
        scaled = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
        return (scaled - mean) / std

    def direction(self, metric: str) -> Metric:
        """Find one of the task's metrics by name."""
        return next(known for known in self.metrics if known.name == metric)

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Turn stored targets into what ``objective`` takes; called once for a whole split."""
        return targets.long()

    def objective(self, loss: nn.Module, outputs: Tensor, targets: Tensor, **auxiliary: Tensor) -> Tensor:
        """Show outputs and targets to the compared loss; a scalar. ``auxiliary`` is the loss's own."""
        value: Tensor = loss(outputs, targets, **auxiliary)
        return value

    @abstractmethod
    def validate(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Score a whole split cheaply during training; holds at least ``monitor``."""

    @abstractmethod
    def score(self, outputs: Array, targets: Array) -> Scores:
        """Score the test split in float64 on the CPU.

        Args:
            outputs: (N, outputs, *spatial), the replicate's raw outputs.
            targets: (N, *target_shape).

        """

    def decide(self, outputs: Array) -> Array:
        """Turn outputs into what a person would be shown: here the likeliest class per position."""
        decided: Array = outputs.argmax(axis=1)
        return decided

    def from_statistics(self, metric: str, total: Array) -> Array:
        """Turn summed statistics (..., K) into the metric (...)."""
        raise KeyError(f"task '{self.name}' has no decomposition of '{metric}'")

    def constant_scores(self, targets: Array) -> Scores:
        """Score of the constant majority prediction: what a diverged replicate (NaN outputs) gets."""
        counts = np.asarray(self.info.counts, dtype=np.float64)
        outputs = np.zeros((len(targets), self.outputs, *targets.shape[1:]))
        outputs[:, int(counts.argmax())] = 1.0
        return self.score(outputs, targets)


TASKS: dict[str, type[Task]] = {}


def register(task: type[Task]) -> type[Task]:
    """Make a task known under its name."""
    TASKS[task.name] = task
    return task


def task_class(name: str, key: str = "task") -> type[Task]:
    """Find a task by name.

    Raises:
        UserError: naming ``key`` and the nearest name.

    """
    if name not in TASKS:
        raise UserError(f"'{key}' names no task: '{name}'; {nearest(name, TASKS)}")
    return TASKS[name]
