"""What is tried, and how it is said: one sentence, whatever the user's own code raises."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lossbench.errors import GateError, UserError
from lossbench.params import Experiment
from lossbench.plugins import asked_to_end
from lossbench.recipe import Compute
from lossbench.tasks.base import Task
from lossbench.training.determinism import deterministic
from lossbench.training.faults import of_the_device

MISFIT = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AssertionError)
"""What torch raises at shapes that do not fit."""


@dataclass(frozen=True)
class Trial:
    """One experiment, about to be tried.

    Attributes:
        where: how a message begins.
        samples: encoded, (n, ...) with n = 1 or 2.
        compute: where it will be trained; a GPU is tried itself.
        last: samples in an epoch's last batch; None where that is not known yet.
        weights: of the samples, (n,) or (n, *target_shape), where the data have any.
        soft: their soft labels, (n, C), where the data have any.
        built_for: shape of one sample that the model is made for, where these are of another.

    """

    where: str
    experiment: Experiment
    task: Task
    samples: Tensor
    compute: Compute
    last: int | None = None
    weights: Tensor | None = None
    soft: Tensor | None = None
    built_for: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one encoded sample."""
        return tuple(self.samples.shape[1:])

    @property
    def whose(self) -> str:
        """The model and what it is given, in words."""
        size = "×".join(map(str, self.shape))
        return f"model '{self.experiment.model.name}' on samples of {size}"


@contextmanager
def as_trained(trial: Trial) -> Iterator[None]:
    """On a GPU what has no deterministic form is to raise, as it would in training."""
    with told(trial.where), deterministic(trial.compute) if _on_gpu(trial) else nullcontext():
        yield


def _on_gpu(trial: Trial) -> bool:
    return trial.compute.device == "cuda"


def device_fault(trial: Trial, error: BaseException, whose: str = "") -> Exception | None:
    """Say what happened to the GPU, if that is where it is tried and something did."""
    if not _on_gpu(trial):
        return None
    return of_the_device(error, whose or f"{trial.where}: {trial.whose}")


def some(values: Tensor | None, count: int) -> Tensor | None:
    """Take the first, where there are any."""
    return None if values is None else values[:count]


@contextmanager
def faults_told(compute: Compute, whose: str) -> Iterator[None]:
    """Say what happened to the GPU, if something did."""
    try:
        yield
    except RuntimeError as error:
        fault = of_the_device(error, whose) if compute.device == "cuda" else None
        if fault is None:
            raise
        raise fault from error


@contextmanager
def trying(trial: Trial) -> Iterator[None]:
    """Compute in one thread, and say what happens to the GPU, whenever it does.

    torch's pool of threads is left unused: workers forked later would wait for it for ever.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with faults_told(trial.compute, f"{trial.where}: {trial.whose}"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def told(where: str) -> Iterator[None]:
    """Say of which experiment a sentence speaks, where it does not yet."""
    try:
        yield
    except UserError as error:
        if str(error).startswith(where):
            raise
        raise UserError(f"{where}: {error}") from None


@contextmanager
def raised(where: str, whose: str) -> Iterator[None]:
    """Say whose code of the user's raised what: it may be anything."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None
    except GateError:  # of the GPU: no fault of the user's code
        raise
    except BaseException as error:
        if asked_to_end(error):
            raise
        told = f"{whose} fails: {brief(error)}"
        raise UserError(f"{where}: {told}" if where else told) from error


def sized(outputs: Tensor) -> str:
    """Write the shape of one sample's outputs."""
    return "×".join(map(str, outputs.shape[1:]))


def brief(error: BaseException) -> str:
    """Tell an error in a line."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, MISFIT) and text else f"{type(error).__name__} {text}".rstrip()
