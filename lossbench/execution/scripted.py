"""Replicates that the user's own script trains: their keys, their runs, their scores. No torch here.

What a script wrote (``metrics.json``, checked) takes the place of weights: it is kept with the replicate and
lies in ``models/``, and scores are read from it.
"""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from lossbench.closure import Closure, closure
from lossbench.errors import GateError
from lossbench.execution.identity import Identity, described_hash, machine, versions
from lossbench.execution.jobs import COSTS, SCORES, TRAIN, WEIGHTS, Score, Train
from lossbench.params import Params, ScriptExperiment
from lossbench.recipe import Recipe
from lossbench.scripts.arguments import filled, values_of
from lossbench.scripts.code import RUNNER, script_code
from lossbench.scripts.places import stamps, written_twice
from lossbench.scripts.results import (
    METRICS,
    Result,
    Row,
    WrongResultError,
    check_test,
    monitored,
    parse_result,
    read_history,
    read_result,
)
from lossbench.scripts.running import Ran, run_script
from lossbench.scripts.spec import COMMAND, told
from lossbench.store import Store, hashed
from lossbench.training.interruption import ending_on_sigterm
from lossbench.training.member import Member

FOLDER = "scripts"
"""In a study's private folder: where scripts write, each into a folder of its own."""
UNRESOLVED = ("data", "out", "threads", "device")
"""Placeholders that decide no result, or stand in its key already."""


def identity_of(params: Params, arm: str, study: Path, fold: int = 0) -> Identity:
    """Make what an arm's keys are made of, on one of its folds where there are any."""
    scripted = isinstance(params.experiments[params.arms[arm].experiment], ScriptExperiment)
    return (ScriptIdentity if scripted else Identity)(params, arm, study, fold)


def kept_file(params: Params, experiment: str) -> str:
    """Name the file that a replicate's training leaves in the store."""
    return METRICS if isinstance(params.experiments[experiment], ScriptExperiment) else WEIGHTS


def out_file(params: Params, experiment: str, seed: int) -> str:
    """Name the same file in ``models/<experiment>/<arm>``."""
    return f"seed-{seed}{Path(kept_file(params, experiment)).suffix}"


class ScriptIdentity(Identity):
    """What the replicates of a script have in common, and their scores."""

    @property
    def scripted(self) -> ScriptExperiment:
        """The experiment."""
        assert isinstance(self.experiment, ScriptExperiment)  # noqa: S101  # identity_of asks
        return self.experiment

    def training(self, member: Member, recipe: Recipe, company: Sequence[Member] = ()) -> str:
        """Key of one replicate: all that its script is told."""
        del company  # scripts train alone
        return hashed([self._shared, self.arguments(member, recipe, {})])

    def described(self, recipe: Recipe) -> dict[str, Any]:
        """Say what a replicate's key was made of."""
        return {**self._shared, "recipe": recipe.model_dump(mode="json")}

    def arguments(self, member: Member, recipe: Recipe, places: Mapping[str, Any]) -> list[str]:
        """Fill in a run's command.

        Args:
            member: seed and point.
            recipe: epochs and rates, where the point has none.
            places: values of :data:`UNRESOLVED`; those left out stay placeholders.

        """
        optimizer = told(recipe.optimizer)
        point = {name: getattr(member, name) for name in optimizer}
        optimizer |= {name: value for name, value in point.items() if value is not None}
        name = self.params.arms[self.arm].loss
        values = values_of(
            name, member.loss or self.loss, member.seed, optimizer, recipe.epochs, self.scripted.recipe.epochs
        )
        left = {place: f"{{{place}}}" for place in UNRESOLVED}
        key = f"experiments.{self.params.arms[self.arm].experiment}.task.command"
        return filled(self.scripted.task.command, {**values, **left, **places}, key)

    @cached_property
    def code(self) -> Closure:
        """The script and what it imports or names, and our part in reading what it writes."""
        return script_code(self.scripted.task, self.study)

    @cached_property
    def scoring(self) -> Closure:
        """The code that reads scores."""
        return closure([RUNNER])

    @cached_property
    def costs(self) -> str:
        """Key of what an epoch takes."""
        where = [self.params.compute.model_dump(mode="json"), machine(self.params.compute.device)]
        return hashed([list(self.scripted.task.command), described_hash(self.data.resolve()), where])

    @cached_property
    def _shared(self) -> dict[str, Any]:
        return {
            "code": self.code.digest,
            "data": described_hash(self.data.resolve()),
            "task": COMMAND,
            "loss": dict(self.loss),
            "compute": self.params.compute.model_dump(mode="json"),
            "versions": versions(self.code),
            "machine": machine(self.params.compute.device),
        }

    @cached_property
    def _evaluation(self) -> dict[str, Any]:
        return {
            "code": self.scoring.digest,
            "metrics": dict(self.scripted.task.metrics),
            "metric": self.experiment.metric,
        }


def outcome(entry: Mapping[str, Any], experiment: ScriptExperiment) -> tuple[float, float]:
    """Return what a trial in the store reached, the higher the better, and its validation loss: unknown."""
    if entry["diverged"]:
        return float("-inf"), float("inf")
    value = float(entry["validation"][experiment.monitor])
    lower = experiment.task.metrics.get(experiment.monitor) == "lower"
    return -value if lower else value, float("inf")


def monitor_of(experiment: ScriptExperiment) -> str:
    """Name what a search goes by, higher is better: a minus stands before what should be low."""
    lower = experiment.task.metrics.get(experiment.monitor) == "lower"
    return f"-{experiment.monitor}" if lower else experiment.monitor


Emit = Callable[[Any], None]


def train(job: Train, emit: Emit) -> None:
    """Run a script once and keep what it wrote.

    Raises:
        GateError: a sentence on what went wrong; nothing is kept then.

    """
    identity = ScriptIdentity(job.params, job.arm, job.where.study, job.fold)
    [member], [key] = job.members, job.keys
    _agree(job, identity, identity.training(member, job.recipe), key)
    described = _described(identity, job)
    emit(("begun", member.seed, described))
    try:
        with ending_on_sigterm():  # a worker that is ended ends its script
            ran, result, history = _run(job, identity, member, key, emit)
    except (GateError, WrongResultError) as error:
        raise GateError(f"the {job.label}: '{_name(identity)}' {error}") from None
    diverged = result.diverged or (job.trial and not _finite(result, identity.scripted))
    content = {
        "arm": job.arm,
        "seed": member.seed,
        "described": described,
        "epoch": max((row[0] for row in history), default=job.recipe.epochs),
        "diverged": diverged,
        "seconds": ran.seconds,
        "history": [list(row) for row in history],
        "validation": dict(result.validation),
    }
    store = Store(job.where.store)
    written = store.put(TRAIN, key, content, {METRICS: result.to_bytes()}).files[METRICS]
    store.put(COSTS, identity.costs, {"seconds": ran.seconds / job.recipe.epochs, "peak": ran.peak})
    if not job.trial:
        _keep_scores(store, identity, written, result)
    for epoch in sorted({row[0] for row in history}):
        values = {f"{split}/{metric}": value for at, split, metric, value in history if at == epoch}
        emit(("epoch", member.seed, epoch, values))
    emit(("finished", member.seed, key))


def _agree(job: Train | Score, identity: ScriptIdentity, mine: str, drivers: str) -> None:
    """Refuse a job under whose key something else would be kept."""
    if mine != drivers:
        raise GateError(
            f"the {job.label}: {_name(identity)}, its data or this machine are others than when "
            "the run began; was "
            "a file edited meanwhile? Run the same again"
        )


def _run(
    job: Train, identity: ScriptIdentity, member: Member, key: str, emit: Emit
) -> tuple[Ran, Result, list[Row]]:
    """Run a script in a folder of its own, which stays where it failed."""
    task, study = identity.scripted.task, job.where.study
    around = job.where.home / FOLDER
    around.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{job.arm}-{member.seed}-", dir=around))
    out = folder / "out"
    out.mkdir()
    before = stamps(study)
    places = {
        "data": str(identity.data.resolve()),
        "out": str(out),
        "threads": job.params.compute.threads,
        "device": job.params.compute.device,
    }
    arguments = identity.arguments(member, job.recipe, places)
    try:
        ran = run_script(
            arguments,
            study,
            folder,
            job.params.compute.threads,
            task.timeout,
            lambda held: emit(("memory", held)),
        )
        result = read_result(out / METRICS)
        _check(result, identity.scripted, job)
        history = _history(result, read_history(out), job.recipe.epochs)
        if ScriptIdentity(job.params, job.arm, study, job.fold).training(member, job.recipe) != key:
            raise WrongResultError(
                "was edited while it ran, or something that it depends on; run the same again"
            )
        if twice := written_twice(study, before, around / "writes", key, job.label, task.writes):
            raise WrongResultError(
                f"wrote {twice[0]}, as did the {twice[1]}: side by side they would read what the "
                "other wrote; "
                "allowed: files in {out}, or places that 'writes' names, which nobody reads back"
            )
    except (GateError, WrongResultError) as error:
        raise type(error)(f"{error}\n    (its folder: {folder})") from None
    except BaseException:  # ended from outside: nobody will look at what it left
        _remove(folder)
        raise
    _remove(folder)
    return ran, result, history


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:  # what the script left cannot be removed: its result counts all the same
        print(f"warning: {folder}: {error.strerror}; `lossbench clean` lists it", file=sys.stderr)


def _check(result: Result, experiment: ScriptExperiment, job: Train) -> None:
    """Refuse what the search cannot choose by, and of a replicate what cannot be judged."""
    if job.trial:
        monitored(result, experiment.monitor)
    else:
        check_test(result, experiment.task)


def _finite(result: Result, experiment: ScriptExperiment) -> bool:
    value = monitored(result, experiment.monitor)
    return abs(value) < float("inf")


def _history(result: Result, written: list[Row], epochs: int) -> list[Row]:
    """Add what a script reached on validation data to the epochs it told of: that, too, was measured."""
    last = max((row[0] for row in written), default=epochs)
    there = {row[:3] for row in written}
    final = [(last, "validation", metric, value) for metric, value in sorted(result.validation.items())]
    return written + [row for row in final if row[:3] not in there]


def _described(identity: ScriptIdentity, job: Train) -> dict[str, Any]:
    """Say what is trained, as far as it is known."""
    task, member = identity.scripted.task, job.members[0]
    optimizer = told(job.recipe.optimizer)
    optimizer |= {name: value for name in optimizer if (value := getattr(member, name)) is not None}
    return {
        "task": COMMAND,
        "task_options": {"command": list(task.command), "depends": list(task.depends)},
        "loss_parameters": dict(member.loss or identity.loss),
        "model": {"name": COMMAND},
        "recipe": {"epochs": job.recipe.epochs, "optimizer": optimizer},
        "compute": job.params.compute.model_dump(mode="json"),
        "constant_loss": None,
        "kept_bytes": None,
    }


def _name(identity: ScriptIdentity) -> str:
    """Name a script as its user would: the first file of the command that is one."""
    command = identity.scripted.task.command
    return next((one for one in command[1:] if (identity.study / one).is_file()), command[0])


def score(job: Score) -> None:
    """Read a replicate's scores from what its script wrote."""
    identity = ScriptIdentity(job.params, job.arm, job.where.study, job.fold)
    store = Store(job.where.store)
    if isinstance(job.weights, Path):
        written = job.weights.read_bytes()
    else:
        entry = store.get(TRAIN, job.weights)
        if entry is None:
            raise GateError(f"{job.label}: the replicate is no longer in the store; run the same again")
        written = entry.read(METRICS)
    digest = hashlib.sha256(written).hexdigest()
    _agree(job, identity, identity.scores(digest), job.key)
    try:
        result = parse_result(written)
        check_test(result, identity.scripted.task)
    except WrongResultError as error:
        raise GateError(
            f"the {job.label}: '{_name(identity)}' {error}; it was run before that was declared: "
            "change the script, "
            "and its runs are made anew"
        ) from None
    _keep_scores(store, identity, digest, result)


def _keep_scores(store: Store, identity: ScriptIdentity, written: str, result: Result) -> None:
    metrics = identity.scripted.task.metrics
    content = {
        "finite": True,
        "metrics": {name: result.test[name] for name in metrics},
        "per_class": {},
        "confusion": None,
        "calibration": None,
        "floors": {
            name: {metric: value for metric, value in floor.items() if metric in metrics}
            for name, floor in result.floors.items()
        },
    }
    files = {}
    values = result.per_example.get(identity.experiment.metric)
    if values:
        content["examples"] = len(values)
        import numpy as np

        from lossbench.execution.serialised import array_bytes

        files["statistics.npy"] = array_bytes(
            np.stack([values, np.ones(len(values))], axis=1).astype(np.float32)
        )
    store.put(SCORES, identity.scores(written), content, files)


def mean(values: Sequence[float]) -> float:
    """Mean; equal values are not rounded."""
    return values[0] if len(set(values)) == 1 else fmean(values)


def floors_of(scores: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What scripts say that predictors without training reach: the mean over the runs that say it."""
    found: dict[str, dict[str, list[float]]] = {}
    for content in scores:
        for name, floor in content["floors"].items():
            for metric, value in floor.items():
                found.setdefault(name, {}).setdefault(metric, []).append(value)
    return {name: {metric: mean(values) for metric, values in floor.items()} for name, floor in found.items()}
