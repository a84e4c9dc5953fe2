"""Whether an experiment that a script trains makes sense, before anything runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossbench.errors import UserError, nearest
from lossbench.params import Params, ScriptExperiment, Tuning
from lossbench.scripts.arguments import OURS, filled, placeholders, values_of
from lossbench.scripts.code import named_files
from lossbench.scripts.running import PYTHON, exists
from lossbench.scripts.spec import told
from lossbench.statistics.metrics import is_training_loss

NEEDED = {
    "seed": "without it every replicate is the same run",
    "out": "scripts write into a folder of their own; with a fixed one they would write to one place",
}
"""Placeholders that every command needs, and why."""


def check_script(name: str, experiment: ScriptExperiment, params: Params, study: Path) -> None:
    """Check a command, its files, metrics and search.

    Raises:
        UserError: one sentence naming the key's path, what was found and what is allowed.

    """
    key = f"experiments.{name}"
    _check_metrics(experiment, key)
    asked = placeholders(experiment.task.command, f"{key}.task.command")
    for needed, why in NEEDED.items():
        if needed not in asked:
            raise UserError(f"'{key}.task.command' has no {{{needed}}}: {why}")
    _check_files(experiment, params, study, f"{key}.task")
    _check_search(params.tuning_of(name), asked, f"{key}.task.command")
    _check_arms(name, experiment, params, asked)


def _check_metrics(experiment: ScriptExperiment, key: str) -> None:
    declared = experiment.task.metrics
    if experiment.metric not in declared:
        raise UserError(
            f"'{key}.metric' is '{experiment.metric}', which '{key}.task.metrics' does not declare; "
            f"{nearest(experiment.metric, declared)}"
        )
    if is_training_loss(experiment.metric):
        raise UserError(
            f"'{key}.metric' is '{experiment.metric}': every loss has values of a unit of its own, which "
            "cannot be compared; allowed: a metric that is the same for all losses"
        )


def _check_files(experiment: ScriptExperiment, params: Params, study: Path, key: str) -> None:
    task = experiment.task
    if not exists(task.command[0], study):
        raise UserError(
            f"'{key}.command' begins with '{task.command[0]}', which is no program that can be run here"
        )
    if task.command[0] in PYTHON and len(task.command) > 1:
        first = task.command[1]
        if first.endswith(".py") and not (study / first).is_file():
            raise UserError(
                f"'{key}.command' names '{first}', but there is no such file in {study.resolve()}"
            )
    watched = (study / params.code).resolve()
    for name, file in _files(experiment, study, key):
        if not file.resolve().is_relative_to(watched):
            raise UserError(
                f"'{key}' names '{name}', which lies outside of 'code' ({params.code}), the folder that is "
                "watched for edits; move it there, or let 'code' name the folder that holds it"
            )


def _files(experiment: ScriptExperiment, study: Path, key: str) -> Iterator[tuple[str, Path]]:
    for file in named_files(experiment.task.command, study):
        yield file.name, file
    for name in experiment.task.depends:
        if not (study / name).exists():
            raise UserError(f"'{key}.depends' names '{name}', but there is no such file or folder")
        yield name, study / name


def _check_search(tuning: Tuning, asked: list[str], key: str) -> None:
    """Refuse a search whose points the script never hears of."""
    if not tuning.trials:
        return
    if tuning.loss_parameters:
        raise UserError(
            f"'{key}' is searched with 'loss_parameters', but what ranges a script's losses have is not "
            "known; allowed: learning_rate, weight_decay"
        )
    for searched in ("learning_rate", "weight_decay"):
        if getattr(tuning, searched) is not None and searched not in asked:
            raise UserError(
                f"'{key}' has no {{{searched}}}, over which 'tuning' searches: all trials would be the same"
            )
    if tuning.epochs is not None and not {"epochs", "budget"} & set(asked):
        raise UserError(
            f"'{key}' has neither {{epochs}} nor {{budget}}, but 'tuning.epochs' shortens the trials"
        )


def _check_arms(name: str, experiment: ScriptExperiment, params: Params, asked: list[str]) -> None:
    """Fill in the command for every arm: a missing value is told now, and so are two arms that are one."""
    key = f"experiments.{name}.task.command"
    seen: dict[tuple[str, ...], str] = {}
    for arm, chosen in params.arms_of(name).items():
        block = params.losses[chosen.loss]
        _check_block(block, chosen.loss)
        values = values_of(chosen.loss, block, 0, told(experiment.recipe.optimizer), 1, 1)
        values |= dict.fromkeys(set(OURS) - set(values), "")
        lacking = next((one for one in asked if one not in values), None)
        if lacking is not None:
            raise UserError(
                f"'{key}' has {{{lacking}}}, but 'losses.{chosen.loss}' has no '{lacking}'; "
                f"{nearest(lacking, values)}"
            )
        made = tuple(filled(experiment.task.command, values, key))
        if (twin := seen.setdefault(made, arm)) != arm:
            raise UserError(
                f"'{key}' is the same for '{twin}' and '{arm}'; let it hold {{loss}}, or a key "
                "in which they differ"
            )


def _check_block(block: dict[str, Any], loss: str) -> None:
    taken = next((one for one in block if one in OURS), None)
    if taken is not None:
        raise UserError(
            f"'losses.{loss}.{taken}' has the name of a placeholder that every run has; call it otherwise"
        )


def only_of_scripts(params: Params) -> set[str]:
    """Name the losses that no network of ours is trained with: what they mean, scripts alone know."""
    scripts = {name for name, one in params.experiments.items() if isinstance(one, ScriptExperiment)}
    theirs = {arm.loss for arm in params.arms.values() if arm.experiment in scripts}
    return theirs - {arm.loss for arm in params.arms.values() if arm.experiment not in scripts}
