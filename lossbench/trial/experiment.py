"""One step on a few samples before anything is trained: whether model, task, data, recipe and losses fit."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossbench.data.dataset import Dataset, DatasetInfo, Kind, Split
from lossbench.errors import UserError
from lossbench.params import Experiment, Params
from lossbench.plugins import is_path, load_object
from lossbench.recipe import Compute, Recipe
from lossbench.tasks.base import CONSTANT, Task, task_class, task_for
from lossbench.training.setting import check_mixing, check_recipe
from lossbench.trial.advice import tell_of_waits
from lossbench.trial.generators import seeds
from lossbench.trial.loss import build_loss, show
from lossbench.trial.model import try_model
from lossbench.trial.shared import Trial, as_trained, faults_told, raised, sized, told, trying

SHOWN = 2**18
"""Positions of a sample up to which losses are tried before there are data: more takes seconds a loss."""
SCORED = 2**22
"""Outputs of a split up to which a constant prediction is scored: a larger one holds what is measured."""
COUNTED = 100
"""Samples a class that are taken for granted before there are data."""
NAMES = tuple(f"class {number}" for number in range(1000))
"""Of classes that only the data will name."""


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
    with told(where):
        task = _task(experiment, data.info, name)
        with faults_told(params.compute, where):
            samples, encoded = _encoded(task, split, params.compute)
        trial = Trial(
            where,
            experiment,
            task,
            samples,
            params.compute,
            _last(experiment.recipe, len(split)),
            None if split.weights is None else _first(split.weights),
            None if split.soft is None else _first(split.soft),
        )
        check_recipe(experiment.recipe, data, trial.shape)
        check_mixing(experiment.recipe, task, trial.shape)
    with trying(trial):
        outputs = try_model(trial)
        if own := experiment.recipe.augmentation.own:
            given, encoded = _augmented(trial, own, encoded)
            outputs = try_model(replace(trial, samples=given, built_for=trial.shape))
    if outputs.shape[1:2] != (task.outputs,):  # many a loss takes more classes than there are
        raise UserError(
            f"{where}: {trial.whose} puts out {sized(outputs)} a sample, but task '{task.name}' needs "
            f"{task.outputs} (of {len(data.info.classes)} classes)"
        )
    for arm in params.arms_of(name).values():
        with trying(trial):
            loss = build_loss(trial, arm.loss, params.losses[arm.loss])
            show(trial, arm.loss, loss, outputs, encoded)
    if is_path(experiment.metric) or is_path(experiment.task.name):
        with trying(trial):
            _try_scores(trial, data, outputs, encoded)
    if not is_path(experiment.task.name):
        _expect_numbers(trial, data)


def _task(experiment: Experiment, info: DatasetInfo, name: str) -> Task:
    """Make a task, which may be of the user's own and raise anything.

    Raises:
        UserError: also where it lacks what every task says.

    """
    made = task_class(experiment.task.name, f"experiments.{name}.task")
    with raised("", f"task '{experiment.task.name}'"):
        lacking = [one for one in ("name", "kinds", "metrics", "monitor") if not hasattr(made, one)]
        if lacking:
            raise UserError(f"task '{experiment.task.name}' has no '{lacking[0]}', which every task says")
        task = made(info, experiment.task.options)
        outputs: object = task.outputs
        if not isinstance(outputs, int):
            raise UserError(f"task '{experiment.task.name}' has {outputs!r} outputs; allowed: a whole number")
    return task


def _encoded(task: Task, split: Split, compute: Compute) -> tuple[Tensor, Tensor]:
    """Encode two samples where training does, which a task of the user's own may not have in mind."""
    inputs, targets = (_first(one).to(compute.device) for one in (split.inputs, split.targets))
    with raised("", f"task '{task.name}'"), faults_told(compute, f"task '{task.name}'"):
        return task.encode_inputs(inputs).cpu(), task.encode_targets(targets).cpu()


def _augmented(trial: Trial, own: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Let an augmentation of the user's own change samples where training does, twice with one generator."""
    device, own_words = trial.compute.device, f"'recipe.augmentation.own': {own}"
    change = load_object(own, "recipe.augmentation.own")

    def given() -> tuple[Tensor, Tensor, torch.Generator]:
        random = torch.Generator(device).manual_seed(0)
        return trial.samples.to(device, copy=True), targets.to(device, copy=True), random

    made: list[Any] = []

    def changed() -> None:
        with faults_told(trial.compute, own_words):
            made.append(change(*given()))

    with raised(trial.where, own_words), as_trained(trial):
        whose = seeds(changed)
    found = made[0]
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, Tensor) for one in found)):
        what = f"returns a {type(found).__name__}"
    elif any(one.device.type != device for one in found):
        what = f"is given tensors on '{device}' and returns others"
    elif any(len(one) != len(targets) for one in found):
        what = f"returns {len(found[0])} inputs and {len(found[1])} targets for {len(targets)}"
    elif (kinds := [one.dtype for one in found]) != [trial.samples.dtype, targets.dtype]:
        what = f"returns inputs of {kinds[0]} and targets of {kinds[1]}"
    elif not all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(*made, strict=True)):
        what = "draws from elsewhere than the generator that it is given"
    elif whose is not None:
        what = f"seeds {whose} generator"
    else:
        if device == "cuda":
            alone = trial.compute.model_copy(update={"graphs": False})  # a batch is changed before its step
            with as_trained(trial):
                tell_of_waits(f"{trial.where}: {own_words}", alone, partial(change, *given()))
        return found[0].cpu(), found[1].cpu()
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
    device = trial.compute.device  # where a training's validation is
    logits, targets = torch.zeros(outputs.shape, device=device), targets.to(device)
    measure = load_object(experiment.metric, "metric") if is_path(experiment.metric) else None
    way = getattr(measure, "higher_is_better", True)
    if not isinstance(way, bool):
        raise UserError(f"{trial.where}: {whose} has higher_is_better = {way!r}; allowed: true or false")
    with torch.no_grad(), raised(trial.where, whose), as_trained(trial), faults_told(trial.compute, whose):
        digests = task.score_digest(logits, targets, trial.samples.to(device))
        seen = targets._version
        validated = task.validate(digests, targets)
        if targets._version != seen:
            raise UserError(
                f"{whose} changes the targets in place, which all later epochs are scored by; allowed: a copy"
            )
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


def _expect_numbers(trial: Trial, data: Dataset) -> None:
    """Refuse a metric that nothing can be said by: it would choose no epoch, and end in no verdict."""
    experiment = trial.experiment
    task = task_for(experiment.task.name, experiment.metric)(data.info, experiment.task.options)
    for name, metric in (("validation", task.monitor), ("test", experiment.metric)):
        targets = data.split(name).targets
        if targets.size * task.outputs > SCORED:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is no number, too
            found = task.score(task.majority_digests(np.asarray(targets)), np.asarray(targets)).metrics
        if not math.isfinite(found.get(metric, 0.0)):
            raise UserError(
                f"{trial.where}: metric '{metric}' of a constant prediction is no number on the {name} "
                f"split: what it measures stands in none of its {len(targets)} samples; allowed: another "
                "metric, or other samples there"
            )


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
    with told(where):
        task = _unseen(experiment, kind, shape, classes or NAMES[:2])
    samples = task.encode_inputs(torch.zeros(2, *shape, dtype=torch.uint8))
    trial = Trial(where, experiment, task, samples, params.compute)
    with trying(trial):
        outputs = try_model(trial)
    wanted = {"label": (task.outputs,), "mask": (task.outputs, *shape[1:])}.get(kind)
    # How many classes there are the data will say: where they are not fetched, only the shape is known.
    if wanted is not None and tuple(outputs.shape[2:]) != wanted[1:]:
        raise UserError(
            f"{where}: {trial.whose} puts out {sized(outputs)} a sample, but task '{task.name}' needs "
            f"{'×'.join(['classes', *map(str, wanted[1:])])}; name a model for that task"
        )
    if wanted is None or int(np.prod(shape[1:])) > SHOWN:
        return
    for arm in params.arms_of(name).values():
        with trying(trial):
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
            made = build_loss(now, name, spec)
        except UserError as error:
            unbuilt.append(error)
            continue
        targets = task.encode_targets(torch.zeros(2, *task.info.target_shape, dtype=torch.int64))
        try:
            show(now, name, made, torch.zeros(2, task.outputs, *outputs.shape[2:]), targets)
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
