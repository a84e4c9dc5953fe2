"""One step on a few samples before anything is trained: whether model, task, data, recipe and losses fit.

Small samples go through the model itself. Large ones go through it on torch's meta device, which knows shapes
and no numbers, and takes no memory; it takes seconds to load, though. The outputs' shape is then filled with
zeros and shown to every loss beside real targets.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from lossbench.losses.foreign import Foreign
from lossbench.models.base import build as build_model
from lossbench.params import Experiment, Params
from lossbench.plugins import is_path, load_object
from lossbench.recipe import RECURRENT_WORKSPACES, WORKSPACE, Compute, Recipe
from lossbench.tasks.base import CONSTANT, Task, task_class, task_for
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
SAME = 1e-4
"""By how much, relatively, what should be the same may differ: kernels may be chosen anew."""
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
        task = _task(experiment, data.info, name)
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
    encoded = task.encode_targets(targets)
    with one_thread():
        outputs = try_model(trial)
        if own := experiment.recipe.augmentation.own:
            given, encoded = _augmented(trial, own, encoded)
            outputs = try_model(replace(trial, samples=given, built_for=trial.shape))
    if outputs.shape[1:2] != (task.outputs,):  # many a loss takes more classes than there are
        raise UserError(
            f"{where}: {trial.whose} puts out {_sized(outputs)} a sample, but task '{task.name}' needs "
            f"{task.outputs} (of {len(data.info.classes)} classes)"
        )
    for arm in params.arms_of(name).values():
        with one_thread():
            _try_loss(trial, arm.loss, params.losses[arm.loss], outputs, encoded)
    if is_path(experiment.metric) or is_path(experiment.task.name):
        with one_thread():
            _try_scores(trial, data, outputs, encoded)


def _task(experiment: Experiment, info: DatasetInfo, name: str) -> Task:
    """Make a task, which may be of the user's own and raise anything.

    Raises:
        UserError: also where it lacks what every task says.

    """
    made = task_class(experiment.task.name, f"experiments.{name}.task")
    with _raised("", f"task '{experiment.task.name}'"):
        lacking = [one for one in ("name", "kinds", "metrics", "monitor") if not hasattr(made, one)]
        if lacking:
            raise UserError(f"task '{experiment.task.name}' has no '{lacking[0]}', which every task says")
        task = made(info, experiment.task.options)
        outputs: object = task.outputs
        if not isinstance(outputs, int):
            raise UserError(f"task '{experiment.task.name}' has {outputs!r} outputs; allowed: a whole number")
    return task


def _augmented(trial: Trial, own: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Let an augmentation of the user's own change the samples, twice with one generator."""
    made = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]), _raised(trial.where, f"'recipe.augmentation.own': {own}"):
            torch.manual_seed(seed)
            change, random = load_object(own, "recipe.augmentation.own"), torch.Generator().manual_seed(0)
            made.append(change(trial.samples.clone(), targets.clone(), random))
    found = made[0]
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, Tensor) for one in found)):
        what = f"returns a {type(found).__name__}"
    elif any(len(one) != len(targets) for one in found):
        what = f"returns {len(found[0])} inputs and {len(found[1])} targets for {len(targets)}"
    elif (kinds := [one.dtype for one in found]) != [trial.samples.dtype, targets.dtype]:
        what = f"returns inputs of {kinds[0]} and targets of {kinds[1]}"
    elif not all(torch.equal(*both) for both in zip(*made, strict=True)):
        what = "draws from elsewhere than the generator that it is given"
    else:
        return found[0], found[1]
    raise UserError(
        f"{trial.where}: 'recipe.augmentation.own': {own} {what}; allowed: (inputs, targets), tensors for as "
        f"many samples, inputs of {trial.samples.dtype}, targets of {targets.dtype}, the same for the same "
        "generator"
    )


def _try_scores(trial: Trial, data: Dataset, outputs: Tensor, targets: Tensor) -> None:
    """Score a constant prediction, as it will be, by a task or metric of the user's own."""
    experiment = trial.experiment
    whose = f"metric '{experiment.metric}'" if is_path(experiment.metric) else f"task '{trial.task.name}'"
    task = task_for(experiment.task.name, experiment.metric)(data.info, experiment.task.options)
    logits = torch.zeros(outputs.shape)
    measure = load_object(experiment.metric, "metric") if is_path(experiment.metric) else None
    way = getattr(measure, "higher_is_better", True)
    if not isinstance(way, bool):
        raise UserError(f"{trial.where}: {whose} has higher_is_better = {way!r}; allowed: true or false")
    with torch.no_grad(), _raised(trial.where, whose):
        digests = task.score_digest(logits, targets, trial.samples)
        validated = task.validate(digests, targets)
        found = [task.floors(data)[CONSTANT].get(experiment.metric) for _ in range(2)]
    if task.monitor not in validated:
        raise UserError(
            f"{trial.where}: task '{trial.task.name}' gives {', '.join(validated) or 'nothing'} on "
            f"validation samples; allowed: '{task.monitor}' at least, its monitor"
        )
    if found[0] is None or not np.isfinite(found[0]):
        raise UserError(
            f"{trial.where}: {whose} gives {'no ' + experiment.metric if found[0] is None else found[0]} for "
            "a constant prediction, which each loss has to beat; allowed: a finite number for any prediction"
        )
    if found[0] != found[1]:
        raise UserError(f"{trial.where}: {whose} gives {found[0]}, then {found[1]} for the same predictions")


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
    return _built_model(trial, device, 0)


def _built_model(trial: Trial, device: str, seed: int) -> nn.Module:
    with _seeded(seed), _shapes_alone(device):
        shape = trial.built_for or trial.shape
        model = build_model(trial.experiment.model, shape, trial.task.outputs).train()
    # As training does: what a model makes elsewhere than in parameters and buffers stays where it was made.
    return recurrent_in_float32(model if device == "meta" else model.to(device), trial.compute)


def _shapes_alone(device: str) -> AbstractContextManager[Any]:
    """Make all tensors on the meta device, where that is tried; on another they lie where the model says."""
    return torch.device(device) if device == "meta" else nullcontext()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what draws from torch's generator, and leave that as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _step(model: nn.Module, trial: Trial, device: str) -> Tensor:
    """Train and predict once; the training outputs for two samples.

    Raises:
        UserError: for what the model cannot take, or what cannot be trained, kept or scored.

    """
    before = _kept(model, trial)
    try:
        with _seeded(0), _shapes_alone(device), _as_trained(trial):
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
    except (Exception, SystemExit) as error:  # a network of one's own may raise anything
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
    if is_path(trial.experiment.model.name) and device != "meta":
        _try_again(model, trial, device, outputs.detach())
    return outputs.detach()


def _try_again(used: nn.Module, trial: Trial, device: str, outputs: Tensor) -> None:
    """Refuse a network that its seed or its kept weights do not make again.

    Args:
        used: built with seed 0, and used once.
        trial: of an experiment with a network of the user's own.
        device: where it is.
        outputs: its first, in training.

    """
    again = _built_model(trial, device, 0)
    if {id(one) for one in used.parameters()} & {id(one) for one in again.parameters()}:
        raise _refused(
            trial, "is one network however often it is made: a replicate would begin as another ended"
        )
    with torch.no_grad(), _seeded(0), _shapes_alone(device), _as_trained(trial):
        alike = _alike(_forward(again, trial, device, 2).float(), outputs)
    if not alike:
        raise _refused(trial, "puts out other numbers when it is made again with the same seed")
    other = _built_model(trial, device, 1)
    other.load_state_dict(used.state_dict())
    with torch.no_grad(), _shapes_alone(device), _as_trained(trial):
        made = []
        for model in (used, other):
            with _seeded(0):
                made.append(_forward(model.eval(), trial, device, 2).float())
    if not _alike(*made):
        raise _refused(trial, "predicts otherwise when it is made again and given its kept weights")


def _alike(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=SAME, atol=SAME * (1 + float(other.abs().max())))


def _refused(trial: Trial, what: str) -> UserError:
    return UserError(
        f"{trial.where}: {trial.whose} {what}; allowed: what is drawn comes from torch's generator (not "
        "NumPy's or Python's), and what predictions need is in parameters and persistent buffers (not in "
        "counters or plain lists of layers) of a new network each time"
    )


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
    if not outputs.is_meta and bool(outputs.isnan().any()):
        raise UserError(f"{trial.where}: {trial.whose} puts out NaN before any training; allowed: numbers")
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
    if odd := next((name for name, one in state.items() if not isinstance(one, Tensor)), None):
        raise UserError(
            f"{trial.where}: {trial.whose} keeps '{odd}', which is no tensor; allowed: tensors alone"
        )
    return {name: tuple(one.shape) for name, one in state.items()}


def _batch(trial: Trial, device: str, count: int) -> Tensor:
    return trial.samples[:1].to(device).repeat(count, *[1] * len(trial.shape))  # its own: it may be changed


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
    task, targets = trial.task, targets[:count]
    made = made.to(device)
    own = any(isinstance(one, Foreign) for one in made.modules())
    if own:
        _refuse_untrained(trial, name, made)

    def shown() -> Batch:
        maps = made.prepare(task.loss_target(targets), task.loss_classes) if made.auxiliary else None
        given = (trial.samples[:count], targets, maps, _some(trial.weights, count), _some(trial.soft, count))
        batch = Batch(*(None if one is None else one.to(device, copy=True) for one in given))  # type: ignore[arg-type]  # inputs and targets are there
        return mixed(batch, trial.experiment.recipe, task, 0, 1, 0)

    def value_of(logits: Tensor, batch: Batch | None = None) -> Tensor:
        batch = batch or shown()
        with _as_trained(trial), torch.random.fork_rng(devices=[]), _told(trial.where):
            torch.manual_seed(0)
            value: Tensor = task.objective(made, logits, batch.targets, batch.inputs, **batch.extra)
            return value

    try:
        logits = torch.zeros(count, *outputs.shape[1:], requires_grad=True, device=device)
        value = value_of(logits)
        if not value.requires_grad:
            raise UserError(
                f"{trial.where}: no gradient leads from what loss '{name}' returns to the logits; "
                "allowed: a value that depends on them, without detach, a comparison or NumPy"
            )
        value.backward()  # type: ignore[no-untyped-call]  # torch's own
        if own:
            _try_own(trial, name, logits, value_of)
        if device == "cuda":
            made.check, batch = "never", shown()  # as in training: targets have been looked at
            step = lambda: value_of(logits, batch).backward()  # type: ignore[no-untyped-call]  # noqa: E731  # torch's own; a line
            tell_of_waits(f"{trial.where}: loss '{name}'", trial.compute, step)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a loss of one's own may raise anything
        if not own and not isinstance(error, MISFIT):
            raise
        raise _of_the_device(trial, error, f"{trial.where}: loss '{name}'") or UserError(
            f"{trial.where}: {trial.whose} puts out {_sized(outputs)} a sample, which task '{task.name}' "
            f"cannot show to loss '{name}' beside its targets: {_brief(error)}"
        ) from None


def _refuse_untrained(trial: Trial, name: str, made: Loss) -> None:
    """Refuse weights within a loss of the user's own: the optimizer has the model's alone."""
    for foreign in (one for one in made.modules() if isinstance(one, Foreign)):
        call = getattr(foreign.call, "func", foreign.call)  # an object of the module is called by a partial
        holders = [one for one in (foreign, call) if isinstance(one, nn.Module)]
        learns = (of for one in holders for of, weight in one.named_parameters() if weight.requires_grad)
        if (weight := next(learns, None)) is not None:
            raise UserError(
                f"{trial.where}: loss '{name}' has a weight of its own ('{weight.rpartition('.')[2]}'), "
                "which nothing would train: the optimizer has the model's alone; allowed: a buffer, "
                "'requires_grad=False', or a weight of the model"
            )


def _try_own(trial: Trial, name: str, like: Tensor, value_of: Callable[[Tensor], Tensor]) -> None:
    """Try a loss of the user's own on two equal batches: what it remembers would be another's next time.

    A replicate that goes on after a crash begins with a new loss, and workers train one after another.
    """
    found = []
    for _ in range(2):
        logits = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like.device)
        value = value_of(logits.requires_grad_())
        value.backward()  # type: ignore[no-untyped-call]  # torch's own
        assert logits.grad is not None  # noqa: S101  # it has just been made
        steep = bool(torch.isfinite(logits.grad).all())
        if not (steep and bool(torch.isfinite(value))):
            raise UserError(
                f"{trial.where}: loss '{name}' is {value.item():g} on random logits, with "
                f"{'a' if steep else 'no'} finite gradient; allowed: finite numbers"
            )
        found.append(value.item())
    if not math.isclose(*found, rel_tol=SAME, abs_tol=SAME):
        raise UserError(
            f"{trial.where}: loss '{name}' is {found[0]:g}, then {found[1]:g} for the same logits and "
            "targets: it remembers its calls, or draws from Python's or NumPy's generator; allowed: a "
            "function of logits, targets and torch's generator alone"
        )


def _some(values: Tensor | None, count: int) -> Tensor | None:
    return None if values is None else values[:count]


def _as_trained(trial: Trial) -> AbstractContextManager[None]:
    """On a GPU what has no deterministic form is to raise, as it would in training."""
    return deterministic(trial.compute) if trial.compute.device == "cuda" else nullcontext()


def _of_the_device(trial: Trial, error: BaseException, whose: str = "") -> Exception | None:
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


@contextmanager
def _raised(where: str, whose: str) -> Iterator[None]:
    """Say whose code of the user's raised what: it may be anything."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None
    except (Exception, SystemExit) as error:
        told = f"{whose} fails: {_brief(error)}"
        raise UserError(f"{where}: {told}" if where else told) from error


def _sized(outputs: Tensor) -> str:
    return "×".join(map(str, outputs.shape[1:]))


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, MISFIT) and text else f"{type(error).__name__} {text}".rstrip()
