"""One step on a few samples before anything is trained: whether model, task, data, recipe and losses fit.

Small samples go through the model itself. Large ones go through it on torch's meta device, which knows shapes
and no numbers, and takes no memory; it takes seconds to load, though. The outputs' shape is then filled with
zeros and shown to every loss beside real targets.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lossbench.advice import tell_of_stacking, tell_of_waits
from lossbench.data.dataset import Dataset, DatasetInfo, Kind
from lossbench.errors import UserError
from lossbench.losses.base import Loss
from lossbench.losses.building import build
from lossbench.models.base import build as build_model
from lossbench.params import Experiment, Params
from lossbench.plugins import is_path
from lossbench.recipe import RECURRENT_WORKSPACES, WORKSPACE, Compute, Recipe
from lossbench.tasks.base import Task, task_class
from lossbench.training.determinism import SWITCH, deterministic, precision, recurrent_in_float32
from lossbench.training.faults import of_the_device
from lossbench.training.mixing import mixed
from lossbench.training.portions import Batch
from lossbench.training.setting import check_mixing, check_recipe, check_weights, loss_context

MISFIT = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AssertionError)
"""What torch raises at shapes that do not fit."""
POSITIONS = 2**15
"""Positions of a sample up to which the model computes for real: the meta device costs as much."""
SHOWN = 2**18
"""Positions of a sample up to which losses are tried before there are data: more takes seconds a loss."""
COUNTED = 100
"""Samples a class that are taken for granted before there are data."""
NAMES = tuple(f"class {number}" for number in range(1000))
"""Of classes that only the data will name."""
LARGE = 2**22
"""Numbers in a sample's outputs from which on one sample is shown to the losses, not two."""


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

    """

    where: str
    experiment: Experiment
    task: Task
    samples: Tensor
    compute: Compute
    last: int | None = None
    weights: Tensor | None = None
    soft: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one encoded sample."""
        return tuple(self.samples.shape[1:])

    @property
    def whose(self) -> str:
        """The model and what it is given, in words."""
        size = "×".join(map(str, self.shape))
        return f"model '{self.experiment.model.name}' on samples of {size}"


def try_experiment(name: str, params: Params, data: Dataset, file: str = "params.yaml") -> None:
    """Try an experiment on its data: build the model, run it and every loss forwards and backwards.

    Args:
        name: of the experiment.
        params: of the study.
        data: what it is trained on.
        file: named in messages.

    Raises:
        UserError: one sentence on what does not fit.

    """
    experiment, where = params.experiments[name], f"{file}: experiment '{name}'"
    split = data.split("train")
    if not len(split):
        raise UserError(f"{data.folder}: split 'train' is empty; training needs at least one sample in it")
    with _told(where):
        task = task_class(experiment.task.name)(data.info, experiment.task.options)
        inputs, targets = _first(split.inputs), _first(split.targets)
        trial = Trial(
            where,
            experiment,
            task,
            task.encode_inputs(inputs),
            params.compute,
            _last(experiment.recipe, len(split)),
            None if split.weights is None else _first(split.weights),
            None if split.soft is None else _first(split.soft),
        )
        check_recipe(experiment.recipe, data, trial.shape)
        check_mixing(experiment.recipe, task, trial.shape)
    with one_thread():
        outputs = try_model(trial)
    if outputs.shape[1:2] != (task.outputs,):  # many a loss takes more classes than there are
        raise UserError(
            f"{where}: {trial.whose} puts out {_sized(outputs)} a sample, but task '{task.name}' needs "
            f"{task.outputs} (of {len(data.info.classes)} classes)"
        )
    for arm in params.arms_of(name).values():
        with one_thread():
            _try_loss(trial, arm.loss, params.losses[arm.loss], outputs, task.encode_targets(targets))


def try_shape(
    name: str,
    params: Params,
    shape: tuple[int, ...],
    file: str = "params.yaml",
    classes: Sequence[str] | None = None,
) -> None:
    """Try an experiment's model and losses where the shape of its samples is known, and no sample yet.

    Args:
        name: of the experiment.
        params: of the study.
        shape: of one sample.
        file: named in messages.
        classes: names, where params say them.

    Raises:
        UserError: one sentence on what does not fit.

    """
    experiment, where = params.experiments[name], f"{file}: experiment '{name}'"
    kind = task_class(experiment.task.name).kinds[0]
    with _told(where):
        task = _unseen(experiment, kind, shape, classes or NAMES[:2])
    samples = task.encode_inputs(torch.zeros(2, *shape, dtype=torch.uint8))
    trial = Trial(where, experiment, task, samples, params.compute)
    with one_thread():
        outputs = try_model(trial)
    wanted = {"label": (task.outputs,), "mask": (task.outputs, *shape[1:])}.get(kind)
    # How many classes there are the data will say: where they are not fetched, only the shape is known.
    if wanted is not None and tuple(outputs.shape[2:]) != wanted[1:]:
        raise UserError(
            f"{where}: {trial.whose} puts out {_sized(outputs)} a sample, but task '{task.name}' needs "
            f"{'×'.join(['classes', *map(str, wanted[1:])])}; name a model for that task"
        )
    if wanted is None or int(np.prod(shape[1:])) > SHOWN:
        return
    for arm in params.arms_of(name).values():
        with one_thread():
            _try_unseen(trial, kind, arm.loss, params.losses[arm.loss], outputs, classes)


def _unseen(experiment: Experiment, kind: str, shape: tuple[int, ...], classes: Sequence[str]) -> Task:
    return task_class(experiment.task.name)(_outline(kind, shape, classes), experiment.task.options)


def _try_unseen(
    trial: Trial, kind: str, name: str, spec: Any, outputs: Tensor, classes: Sequence[str] | None
) -> None:
    """Show a loss zeros; where only the data tell how many classes there are, any number may do."""
    if classes is None and _own_code(spec):  # it may know a number that is nowhere in params.yaml
        return
    counts = [len(classes)] if classes is not None else sorted({2, 3, *_lengths(spec)})
    unbuilt: list[UserError] = []
    unshown: list[UserError] = []
    for count in counts:
        task = _unseen(trial.experiment, kind, trial.shape, classes or NAMES[:count])
        now = replace(trial, task=task)
        try:
            made = _built(now, name, spec)
        except UserError as error:
            unbuilt.append(error)
            continue
        targets = task.encode_targets(torch.zeros(2, *task.info.target_shape, dtype=torch.int64))
        try:
            _show(now, name, made, torch.zeros(2, task.outputs, *outputs.shape[2:]), targets)
        except UserError as error:
            unshown.append(error)
        else:
            return
    if classes is None and not unshown:
        raise UserError(f"{unbuilt[-1]} (nor does any other number of classes fit loss '{name}')")
    raise (unshown or unbuilt)[0]


def _own_code(spec: Any) -> bool:
    parts = spec.get("sum", spec) if isinstance(spec, Mapping) else {}
    return any(is_path(one) for one in (parts.get("name"), *parts))


def _lengths(spec: Any) -> Iterator[int]:
    """Yield the lengths of the lists in a block: a number a class, or a row a class."""
    if isinstance(spec, Mapping):
        for value in spec.values():
            yield from _lengths(value)
    elif isinstance(spec, list | tuple) and 2 <= len(spec) <= len(NAMES):
        yield len(spec)


def try_model(trial: Trial) -> Tensor:
    """Run the model forwards and backwards; its outputs, for two samples, without numbers.

    Raises:
        UserError: if it cannot take the samples, or the last batch of an epoch.

    """
    device = "cpu" if int(np.prod(trial.shape[1:])) <= POSITIONS else "meta"
    if trial.compute.device == "cuda":  # it alone knows what has no deterministic form there
        device = "cuda"
    with _told(trial.where):
        model = _model(trial, device)
        if device == "cuda":
            _check_recurrent(model)
    try:
        outputs = _step(model, trial, device)
    except (NotImplementedError, UserError) as error:  # meta has not every operation; a sentence goes on
        if device != "meta":
            if isinstance(error, UserError):
                raise
            raise UserError(f"{trial.where}: {trial.whose} fails: {_brief(error)}") from None
        # It lacks operations, and refuses values: a condition on them, a constant that lies elsewhere.
        device = "cpu"
        model = _model(trial, device)
        try:
            outputs = _step(model, trial, device)
        except NotImplementedError as error:  # an operation that the processor has not: told
            raise UserError(f"{trial.where}: {trial.whose} fails: {_brief(error)}") from None
    if device == "cuda":
        _advise(model, trial)
    if trial.last == 1:
        try:
            _forward(model.train(), trial, device, 1)
        except MISFIT:
            recipe = trial.experiment.recipe
            raise UserError(
                f"{trial.where}: 'recipe.batch_size' is {recipe.batch_size}, which leaves one sample for an "
                f"epoch's last batch, and {trial.whose} cannot train on one (batch norm needs more than one "
                "value a channel); say 'recipe.drop_last: true', or another batch_size"
            ) from None
    return outputs


def _advise(model: nn.Module, trial: Trial) -> None:
    """Say what a step on the GPU costs that need not be."""
    inputs = _batch(trial, "cuda", 2)
    who, recipe = f"{trial.where}: {trial.whose}", trial.experiment.recipe

    def step() -> None:
        with precision(trial.compute):
            outputs = model(inputs)
        outputs.float().sum().backward()

    model.train()
    with _as_trained(trial):
        tell_of_waits(who, trial.compute, step)
        if trial.compute.engine == "population":
            tell_of_stacking(who, recipe.batch_size, len(inputs), step)


def _model(trial: Trial, device: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), _shapes_alone(device):
        model = build_model(trial.experiment.model, trial.shape, trial.task.outputs).train()
    # As training does: what a model makes elsewhere than in parameters and buffers stays where it was made.
    return recurrent_in_float32(model if device == "meta" else model.to(device), trial.compute)


def _shapes_alone(device: str) -> AbstractContextManager[Any]:
    """Make all tensors on the meta device, where that is tried; on another they lie where the model says."""
    return torch.device(device) if device == "meta" else nullcontext()


def _step(model: nn.Module, trial: Trial, device: str) -> Tensor:
    """Train and predict once; the training outputs for two samples.

    Raises:
        UserError: for what the model cannot take, or what cannot be trained, kept or scored.

    """
    before = _kept(model, trial)
    try:
        with torch.random.fork_rng(devices=[]), _shapes_alone(device), _as_trained(trial):
            outputs = _forward(model, trial, device, 2).float()
            if not outputs.requires_grad:
                raise UserError(
                    f"{trial.where}: {trial.whose} cannot learn: no gradient leads from its outputs to a "
                    "weight; allowed: logits that depend on weights, without detach or NumPy"
                )
            outputs.backward(torch.zeros_like(outputs))  # type: ignore[no-untyped-call]  # torch's own
            with torch.no_grad():
                predicted = {count: _forward(model.eval(), trial, device, count) for count in (2, 1)}
    except (NotImplementedError, UserError):  # the caller tells them apart
        raise
    except Exception as error:  # a network of one's own may raise anything
        if not isinstance(error, MISFIT) and not is_path(trial.experiment.model.name):
            raise
        where = f" in 'compute.precision: {trial.compute.precision}'" if _is_rounded(trial, device) else ""
        raise _of_the_device(trial, error) or UserError(
            f"{trial.where}: {trial.whose} fails{where}: {_brief(error)}"
        ) from error
    for count, some in predicted.items():
        if some.shape[1:] != outputs.shape[1:]:
            raise UserError(
                f"{trial.where}: {trial.whose} puts out {_sized(outputs)} a sample in training, but "
                f"{_sized(some)} in evaluation mode, of a batch of {count}; expected the same"
            )
    after = _kept(model, trial)
    if changed := sorted(name for name in {*before, *after} if before.get(name) != after.get(name)):
        raise UserError(
            f"{trial.where}: {trial.whose} makes or resizes '{changed[0]}' while it runs, which kept weights "
            "cannot be put into; make it in __init__, of the size that it keeps"
        )
    return outputs.detach()


def _forward(model: nn.Module, trial: Trial, device: str, count: int) -> Tensor:
    """Run the model on some samples: it must put out floating-point numbers for as many."""
    with precision(trial.compute) if _is_rounded(trial, device) else nullcontext():
        outputs: Tensor = model(_batch(trial, device, count))
    if outputs.shape[:1] != (count,):  # a squeeze() loses a batch of one
        raise UserError(
            f"{trial.where}: {trial.whose} puts out {'×'.join(map(str, outputs.shape)) or 'one number'} for "
            f"a batch of {count}; expected {count} of whatever a sample has"
        )
    if outputs.device.type != device:
        raise UserError(
            f"{trial.where}: {trial.whose} puts its outputs on '{outputs.device.type}', but is given samples "
            f"on '{device}'; allowed: no device named in a model, which is moved to 'compute.device'"
        )
    if not outputs.is_floating_point():
        raise UserError(
            f"{trial.where}: {trial.whose} puts out {str(outputs.dtype).removeprefix('torch.')} numbers; "
            "expected floating point, the logits"
        )
    return outputs


def _is_rounded(trial: Trial, device: str) -> bool:
    """Whether it is tried in another precision than float32, as it will be trained."""
    return device == trial.compute.device and trial.compute.precision == "bf16"


def _kept(model: nn.Module, trial: Trial) -> dict[str, tuple[int, ...]]:
    """Name → shape of all that is kept of a trained model."""
    state = model.state_dict()
    if lazy := next((name for name, one in state.items() if is_lazy(one)), None):
        raise UserError(
            f"{trial.where}: model '{trial.experiment.model.name}' has a lazy layer ('{lazy}'), whose size "
            "only a first batch would tell; say its sizes: replicates begin with weights from their seeds"
        )
    return {name: tuple(one.shape) for name, one in state.items()}


def _batch(trial: Trial, device: str, count: int) -> Tensor:
    return trial.samples[:1].to(device).expand(count, *trial.shape).contiguous()


def _try_loss(trial: Trial, name: str, spec: Any, outputs: Tensor, targets: Tensor) -> None:
    _show(trial, name, _built(trial, name, spec), outputs, targets)


def _built(trial: Trial, name: str, spec: Any) -> Loss:
    recipe = trial.experiment.recipe
    with _told(trial.where):
        made = build(spec, loss_context(trial.task, recipe), f"losses.{name}")
        check_weights(recipe, trial.task, made, f"losses.{name}")
        return made


def _show(trial: Trial, name: str, made: Loss, outputs: Tensor, targets: Tensor) -> None:
    count = 1 if outputs[0].numel() > LARGE else len(trial.samples)
    device = trial.compute.device
    logits = torch.zeros(count, *outputs.shape[1:], requires_grad=True, device=device)
    task, targets = trial.task, targets[:count]
    made = made.to(device)
    try:
        maps = made.prepare(task.loss_target(targets), task.loss_classes) if made.auxiliary else None
        given = (trial.samples[:count], targets, maps, _some(trial.weights, count), _some(trial.soft, count))
        batch = Batch(*(None if one is None else one.to(device) for one in given))  # type: ignore[arg-type]  # inputs and targets are there
        shown = mixed(batch, trial.experiment.recipe, task, 0, 1, 0)
        with _as_trained(trial):
            value = task.objective(made, logits, shown.targets, shown.inputs, **shown.extra)
            if not value.requires_grad:
                raise UserError(
                    f"{trial.where}: no gradient leads from what loss '{name}' returns to the logits; "
                    "allowed: a value that depends on them, without detach, a comparison or NumPy"
                )
            value.backward()  # type: ignore[no-untyped-call]  # torch's own
            if device == "cuda":
                made.check = "never"  # as in training: targets have been looked at

                def step() -> None:
                    again = task.objective(made, logits, shown.targets, shown.inputs, **shown.extra)
                    again.backward()  # type: ignore[no-untyped-call]  # torch's own

                tell_of_waits(f"{trial.where}: loss '{name}'", trial.compute, step)
    except MISFIT as error:
        raise _of_the_device(trial, error, f"{trial.where}: loss '{name}'") or UserError(
            f"{trial.where}: {trial.whose} puts out {_sized(outputs)} a sample, which task '{task.name}' "
            f"cannot show to loss '{name}' beside its targets: {_brief(error)}"
        ) from None


def _some(values: Tensor | None, count: int) -> Tensor | None:
    return None if values is None else values[:count]


def _as_trained(trial: Trial) -> AbstractContextManager[None]:
    """On a GPU what has no deterministic form is to raise, as it would in training."""
    return deterministic(trial.compute) if trial.compute.device == "cuda" else nullcontext()


def _of_the_device(trial: Trial, error: Exception, whose: str = "") -> Exception | None:
    if trial.compute.device != "cuda":
        return None
    return of_the_device(error, whose or f"{trial.where}: {trial.whose}")


def _check_recurrent(model: nn.Module) -> None:
    """Refuse a workspace with which cuDNN's recurrent layers need not repeat: nothing would raise.

    Raises:
        UserError: naming the variable.

    """
    found = os.environ.get(SWITCH, WORKSPACE)
    if found not in RECURRENT_WORKSPACES and any(isinstance(one, nn.RNNBase) for one in model.modules()):
        raise UserError(
            f"{SWITCH} is {found}, with which a GPU's recurrent layers need not repeat their results; put "
            f"{SWITCH}={RECURRENT_WORKSPACES[0]} before the command"
        )


def _first(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array[:2]))


def _last(recipe: Recipe, count: int) -> int:
    """Count the samples of an epoch's last batch."""
    batch = min(recipe.batch_size, count)
    return batch if recipe.drop_last else count % batch or batch


def _outline(kind: Kind | str, shape: tuple[int, ...], classes: Sequence[str]) -> DatasetInfo:
    """Stand in for a dataset of which the samples' shape, and perhaps the classes, are all that is known."""
    targets = {"mask": shape[1:], "multilabel": (2,), "boxes": (1, 5)}.get(kind, ())
    return DatasetInfo(
        kind=kind,  # type: ignore[arg-type]  # a task's own
        classes=tuple(classes),
        input_shape=shape,
        target_shape=targets,
        mean=(0.0,) * shape[0],
        std=(1.0,) * shape[0],
        counts=(COUNTED,) * len(classes),
        sizes={"train": COUNTED * len(classes)},
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Leave torch's pool of threads unused: workers forked later would wait for it for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Say of which experiment a sentence speaks."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _sized(outputs: Tensor) -> str:
    return "×".join(map(str, outputs.shape[1:]))


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, MISFIT) and text else f"{type(error).__name__} {text}".rstrip()
