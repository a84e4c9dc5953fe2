"""What a task is: what a target means, which head a model needs, how a loss sees it, what scores it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lossbench.data.dataset import Dataset, DatasetInfo, full_scale
from lossbench.errors import UserError, nearest
from lossbench.lookup import Lookup
from lossbench.losses.inputs import check_targets
from lossbench.options import Options, parse_options
from lossbench.plugins import is_path, load_object
from lossbench.tasks.names import MODULES

Array = npt.NDArray[Any]
GAP = "generalisation_gap"
"""Metric of every task: how much better the primary metric is on training samples than on test samples."""


CONSTANT = "constant prediction"
"""The floor of every task."""


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


@dataclass(frozen=True)
class Shown:
    """What a person is shown of a sample.

    Attributes:
        pixels: (H, W) or (H, W, 3) uint8, (H, W) of small integers with ``palette``; None for text alone.
        text: a caption, or the text itself.
        wrong: whether it is a mistake.
        palette: the pixels are class numbers, to be shown in class colours.

    """

    pixels: Array | None
    text: str = ""
    wrong: bool = False
    palette: bool = False


class Task(ABC):
    """A task on a dataset. Subclasses are registered by name and live in one file each.

    A model's outputs for a batch are ``(N, outputs, *spatial)``. ``objective`` shows them to the loss,
    ``digest`` reduces them to what ``validate``, ``score`` and ``decide`` need.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of dataset the task can be done on."""
    metrics: ClassVar[tuple[Metric, ...]]
    """All test metrics; ``metric:`` of an experiment names one of them."""
    monitor: ClassVar[str]
    """The validation metric (higher is better) that chooses a checkpoint and stops early.

    It is the metric that decides, where that is one of ``validated``.
    """
    validated: ClassVar[tuple[str, ...]] = ()
    """Test metrics, all of them higher is better, that ``validate`` gives where they are the monitor."""
    multilabel: ClassVar[bool] = False
    """The loss sees labels (N, C, *spatial) instead of class numbers (N, *spatial)."""
    calibrated: ClassVar[bool] = False
    """Outputs are scores of classes per position: NLL, Brier and ECE are reported too."""
    has_prior: ClassVar[bool] = False
    """Outputs are one logit a class, and ``class_counts`` says how frequent each is."""
    mixes: ClassVar[bool] = False
    """Targets are classes, or labels, of which a mixture means something (mixup, CutMix, smoothing).

    So does a weight: ``objective`` hands ``weights`` on to the loss.
    """
    adapts: ClassVar[bool] = False
    """Something of the task is fitted to each replicate on validation data (:meth:`adapted`)."""
    scores_decisions: ClassVar[bool] = False
    """``score`` needs what ``decide`` makes: digests are whole wherever there are scores."""
    option_model: ClassVar[type[Options]] = Options
    """Further keys of ``task:`` in params.yaml."""

    def __init__(self, info: DatasetInfo, options: Mapping[str, Any] | None = None) -> None:
        self.info = info
        self.options: Any = parse_options(self.option_model, options or {}, "task")
        self._normalisations: dict[torch.device, tuple[Tensor, Tensor]] = {}
        if info.kind not in self.kinds:
            raise UserError(
                f"task '{self.name}' needs a dataset with targets of kind {' or '.join(self.kinds)}, "
                f"found kind '{info.kind}'"
            )

    @classmethod
    def check_options(cls, options: Mapping[str, Any], key: str) -> None:
        """Refuse options of ``params.yaml`` that the task does not know (``key`` is their path)."""
        parse_options(cls.option_model, options, key)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Channels a model must put out."""

    @property
    def loss_classes(self) -> int:
        """Channels that the compared loss sees."""
        return self.outputs

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training targets per class, as the loss sees them."""
        return self.info.counts

    @property
    def positions(self) -> int | None:
        """Labelled positions of the training split, where labels do not exclude one another."""
        return None

    def encode_inputs(self, inputs: Tensor) -> Tensor:
        """Turn stored inputs (N, *input_shape) into what the model sees: floats, normalised."""
        mean, std = self._normalisation(inputs.device)
        whole = inputs.float()
        scaled = whole if inputs.is_floating_point() else whole / full_scale(inputs.dtype)
        return (scaled - mean) / std

    def _normalisation(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (1, C, 1, 1)."""
        if device.type != "cuda":
            return self._normalisation_on(device)
        # Made once: to bring numbers to a GPU is to wait for it, at every step.
        if device not in self._normalisations:
            self._normalisations[device] = self._normalisation_on(device)
        return self._normalisations[device]

    def _normalisation_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.info.mean, device=device).view(1, -1, 1, 1)
        return mean, torch.tensor(self.info.std, device=device).view(1, -1, 1, 1)

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Turn stored targets into what ``objective`` takes; called once for a whole split."""
        return targets.long()

    def loss_target(self, targets: Tensor) -> Tensor:
        """Turn encoded targets into what the loss sees: (N, *spatial) long or (N, C, *spatial)."""
        return targets

    def check_targets(self, targets: Tensor) -> None:
        """Refuse encoded targets outside the classes.

        Raises:
            ValueError: naming the value.

        """
        check_targets(self.loss_target(targets), self.loss_classes, self.info.ignore_index, self.multilabel)

    def objective(
        self, loss: nn.Module, outputs: Tensor, targets: Tensor, inputs: Tensor, **auxiliary: Tensor
    ) -> Tensor:
        """Show outputs and targets to the compared loss; a scalar.

        Args:
            loss: the compared loss.
            outputs: (N, outputs, *spatial).
            targets: encoded.
            inputs: the encoded (and augmented) batch, for tasks whose target is the input.
            auxiliary: the loss's own.

        """
        del inputs
        value: Tensor = loss(outputs, self.loss_target(targets), **auxiliary)
        return value

    def digest(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Reduce one batch's outputs to what scoring needs, (N, ...): large outputs never exist for a split.

        Args:
            outputs: (N, outputs, *spatial), finite or not.
            targets: encoded.
            inputs: encoded.

        """
        del targets, inputs
        return outputs

    def score_digest(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        """Reduce one batch's outputs to what ``validate`` and ``score`` need: a part of what ``decide`` does.

        Args:
            outputs: as for :meth:`digest`.
            targets: encoded.
            inputs: encoded.

        """
        return self.digest(outputs, targets, inputs)

    @abstractmethod
    def validate(self, digests: Tensor, targets: Tensor) -> dict[str, float]:
        """Score a whole split cheaply during training.

        Args:
            digests: (N, ...), on the device.
            targets: encoded; or as stored, the same values in a narrower type, where that saves much memory.

        Returns:
            Metrics by name, ``monitor`` at least.

        """

    @abstractmethod
    def score(self, digests: Array, targets: Array) -> Scores:
        """Score the test split in float64 on the CPU.

        Args:
            digests: (N, ...), of the replicate's outputs.
            targets: (N, *target_shape), as stored.

        """

    def score_by(self, metric: str, digests: Array, targets: Array) -> float:
        """Score by one metric alone, as :meth:`score` does; here by way of all of them."""
        return self.score(digests, targets).metrics[metric]

    def adapted(self, digests: Array, targets: Array) -> "Task":
        """Return the task as fitted to one replicate (a temperature): here itself.

        Args:
            digests: of the validation split.
            targets: of the validation split, as stored.

        """
        del digests, targets
        return self

    def decide(self, digests: Array) -> Array:
        """Turn digests into what a person would be shown: here the likeliest class per position."""
        decided: Array = digests.argmax(axis=1)
        return decided

    def majority_digests(self, targets: Array) -> Array:
        """Digests of the constant majority prediction: what a diverged replicate is scored as."""
        digests = np.zeros((len(targets), self.outputs, *targets.shape[1:]))
        digests[:, int(np.argmax(self.class_counts))] = 1.0
        return digests

    def from_statistics(self, metric: str, total: Array) -> Array:
        """Turn summed statistics (..., K) into the metric (...)."""
        raise KeyError(f"task '{self.name}' has no decomposition of '{metric}'")

    def floors(self, data: Dataset) -> dict[str, dict[str, float]]:
        """Reference predictors that need no training of ours: name → metric → value on the test split.

        :data:`CONSTANT` says the same of every sample: who does not beat it has not been trained.
        """
        targets = np.asarray(data.split("test").targets)
        return {CONSTANT: dict(self.score(self.majority_digests(targets), targets).metrics)}

    def generate(self, forward: Callable[[Tensor], Tensor], seed: int) -> list[str]:
        """Sample texts from a trained model; nothing where the task has none.

        Args:
            forward: encoded inputs → outputs, in evaluation mode.
            seed: of the sampling.

        """
        del forward, seed
        return []

    def disagreement(self, decisions: Sequence[Array]) -> Array:
        """Share of positions per sample, (N,) in 0..1, on which at least two arms decide differently."""
        differ = np.zeros(decisions[0].shape, dtype=bool)
        for other in decisions[1:]:
            differ |= other != decisions[0]
        shares: Array = differ.reshape(len(differ), -1).mean(axis=1)
        return shares

    def show_input(self, inputs: Array) -> Shown:
        """Show one stored sample: here the image (C, H, W)."""
        pixels = inputs if inputs.dtype == np.uint8 else _visible(inputs)
        return Shown(pixels[0] if len(pixels) < 3 else np.moveaxis(pixels[:3], 0, -1))

    def show_target(self, target: Array, inputs: Array) -> Shown:
        """Show one stored target."""
        del inputs
        return Shown(None, self.info.classes[int(target)])

    def show_decision(self, decision: Array, target: Array, inputs: Array) -> Shown:
        """Show what a replicate made of a sample."""
        del inputs
        return Shown(None, self.info.classes[int(decision)], wrong=int(decision) != int(target))

    def direction(self, metric: str) -> Metric:
        """Find one of the task's metrics by name."""
        return next(known for known in self.metrics if known.name == metric)


def _visible(pixels: Array) -> Array:
    """Deep pixels for a screen: their own range becomes black to white; 12 bits in 16 would all be black."""
    low, high = float(pixels.min()), float(pixels.max())
    return np.rint((pixels - low) / max(high - low, 1e-9) * 255).astype(np.uint8)


TASKS: Lookup[type[Task]] = Lookup("lossbench.tasks", MODULES)
"""Every task by its name in params.yaml, imported when it is asked for."""


def register(task: type[Task]) -> type[Task]:
    """Make a task known under its name."""
    TASKS.enter(task.name, task, task.__module__)
    return task


def task_class(name: str, key: str = "task") -> type[Task]:
    """Find a task by name.

    Raises:
        UserError: naming ``key`` and the nearest name.

    """
    if is_path(name):
        made = load_object(name, key)
        if not (isinstance(made, type) and issubclass(made, Task)):
            raise UserError(
                f"'{key}' is '{name}', which is no task; allowed: a subclass of lossbench.tasks.Task"
            )
        return made
    if name not in TASKS:
        raise UserError(f"'{key}' names no task: '{name}'; {nearest(name, TASKS)}")
    return TASKS[name]


def monitored(task: type[Task], metric: str) -> type[Task]:
    """Have the metric that decides choose checkpoints and points too, where it has a validation form."""
    if metric == task.monitor or metric not in task.validated:
        return task
    made: type[Task] = type(task.__name__, (task,), {"monitor": metric, "__doc__": task.__doc__})
    return made


def task_for(name: str, metric: str, key: str = "experiment") -> type[Task]:
    """Find an experiment's task; a metric ``module:function`` is one of its metrics then.

    The function takes what the task decided, (N, ...), and the stored targets, and returns a number; its
    attribute ``higher_is_better`` (default: true) says which way is better.

    Raises:
        UserError: naming ``key``.

    """
    task = task_class(name, f"{key}.task")
    made = _measured(task, metric, key) if is_path(metric) else monitored(task, metric)
    if made is not task:  # a class made at run time travels as its names

        def reduced(self: Task) -> tuple[Any, ...]:
            return _remade, (name, metric, self.info, self.options)

        made.__reduce__ = reduced  # type: ignore[assignment, method-assign]  # of this class alone
    return made


def _remade(name: str, metric: str, info: DatasetInfo, options: Any) -> Task:
    """Make an experiment's task again, in another process."""
    return task_for(name, metric)(info, options)


def _measured(task: type[Task], metric: str, key: str) -> type[Task]:
    measure = load_object(metric, f"{key}.metric")
    if not callable(measure):
        raise UserError(
            f"'{key}.metric' is '{metric}', which cannot be called; allowed: (decisions, targets) → number"
        )
    added = Metric(metric, bool(getattr(measure, "higher_is_better", True)))

    class Measured(task):  # type: ignore[misc, valid-type]  # a class made at run time
        metrics = (*task.metrics, added)
        scores_decisions = True

        def score(self, digests: Array, targets: Array) -> Scores:
            scores: Scores = super().score(digests, targets)
            try:
                scores.metrics[metric] = float(measure(self.decide(digests), targets))
            except Exception as error:  # the user's function may raise anything
                raise UserError(f"'{key}.metric': {metric} raised {type(error).__name__}: {error}") from error
            return scores

    return Measured
