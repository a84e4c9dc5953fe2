"""What a worker does with a job: prepare the data once, train or score, put the result in the store."""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from lossbench.closure import Closure, edited, loaded
from lossbench.data.dataset import Dataset
from lossbench.errors import GateError
from lossbench.evaluation.gallery import gallery
from lossbench.evaluation.replicates import predict_replicate
from lossbench.execution import scripted
from lossbench.execution.checkpoints import checkpoint_of
from lossbench.execution.fill import Experiment as Shown
from lossbench.execution.identity import Identity, data_hash, deciding, losses_named, use_own_code
from lossbench.execution.jobs import (
    COSTS,
    FLOORS,
    GALLERY,
    SHOWN,
    TRAIN,
    WEIGHTS,
    Floors,
    Gallery,
    Job,
    Measure,
    Score,
    Train,
)
from lossbench.execution.scoring import Hand, Scoring, keep
from lossbench.execution.serialised import plain, read_array
from lossbench.folds import fold_folder, fold_of
from lossbench.losses.schedules import changes_stated
from lossbench.params import Params, ScriptExperiment
from lossbench.plugins import is_path, load_object
from lossbench.store import DamagedError, Entry, Store, hashed
from lossbench.system import peak_memory
from lossbench.tasks.base import Task, task_for
from lossbench.training.determinism import threads
from lossbench.training.faults import of_the_device
from lossbench.training.fitting import train
from lossbench.training.measure import constant_loss, kept_bytes, seconds_per_epoch, validation_loss
from lossbench.training.member import Member
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting, prepare, wants_maps

Emit = Callable[[Any], None]
LOADED = loaded()
"""The code that workers run: their server imported it before the driver made its keys."""


def work(job: Job, emit: Emit, hand: Hand | None = None) -> None:
    """Compute a job's entries.

    Args:
        job: what.
        emit: hears of its progress: ``("begun", seed, described)``, ``("epoch", seed, epoch, values)`` and
            ``("finished", seed)``.
        hand: takes what is predicted to another process, which scores it; None scores it here.

    Raises:
        GateError: if the GPU failed or has not the memory.
        UserError: if something of the job has no deterministic form there.

    """
    use_own_code(job.params, job.where.study)
    _import_own(job)
    try:
        _work(job, emit, hand)
    except RuntimeError as error:
        told = of_the_device(error, f"the {job.label}") if job.params.compute.device == "cuda" else None
        if told is None:
            raise
        raise told from error


def _work(job: Job, emit: Emit, hand: Hand | None) -> None:
    match job:
        case Train() if _scripted(job):
            scripted.train(job, emit)
        case Score() if _scripted(job):
            scripted.score(job)
        case Train():
            _train(job, emit, hand)
        case Score():
            _score(job, hand)
        case Measure():
            _measure(job)
        case Floors():
            _floors(job)
        case Gallery():
            _gallery(job)


def _scripted(job: Train | Score) -> bool:
    """Whether the user's own script trains the job's arm."""
    experiment = job.params.experiments[job.params.arms[job.arm].experiment]
    return isinstance(experiment, ScriptExperiment)


def _train(job: Train, emit: Emit, hand: Hand | None = None) -> None:
    identity = Identity(job.params, job.arm, job.where.study, job.fold)
    setting = _setting(job)
    company = job.members if job.params.compute.engine == "population" else ()
    keys = tuple(identity.training(member, job.recipe, company) for member in job.members)
    _agree(job, (*keys, identity.scores("")), (*job.keys, job.scoring), identity.code, identity.scoring)
    store = Store(job.where.store)
    described = describe(setting, job)
    if not job.trial:
        described |= _beside(setting, job)
    for member in job.members:
        emit(("begun", member.seed, described))
    checkpoint = checkpoint_of(job.where, store, hashed(keys))

    def on_epoch(seed: int, epoch: int, values: Mapping[str, float]) -> None:
        emit(("epoch", seed, epoch, dict(values)))

    def on_memory(held: int) -> None:
        emit(("memory", held))

    replicates = train(setting, job.members, on_epoch, checkpoint, on_memory)
    if setting.compute.processes > 1:  # each has imported the code when it began
        identity = Identity(job.params, job.arm, job.where.study, job.fold)
        _agree(job, (*keys, identity.scores("")), (*job.keys, job.scoring), identity.code, identity.scoring)
    for key, member, replicate in zip(keys, job.members, replicates, strict=True):
        # what breaks ties between points
        with threads(setting.compute.threads):
            loss = validation_loss(setting, member, replicate.state) if job.trial and not job.budget else None
        weights = _keep(store, key, job, described, replicate, loss)
        if not job.trial:
            shown = member.seed in job.shown
            _predict(job, identity, weights, replicate.state, member.seed, shown, hand)
        emit(("finished", member.seed, key))
    checkpoint.remove()
    if len(replicates) == 1 and replicates[0].seconds and not replicates[0].diverged:
        done = max(record.epoch for record in replicates[0].history)
        _keep_costs(identity, store, replicates[0].seconds / done)


def _agree(job: Job, mine: object, drivers: object, *codes: Closure) -> None:
    """Refuse a job under whose key something else would be kept.

    Raises:
        GateError: naming the edited modules, where they are known.

    """
    changed = sorted({name for code in codes for name in (*edited(code, LOADED), *_edited_since(code))})
    if mine == drivers and not changed:
        return
    which = f" ({', '.join(changed)})" if changed else ""
    raise GateError(
        f"{job.label}: the worker's code, data or processor differ from those of whoever sent the job; was a "
        f"file edited meanwhile{which}? Run the same again"
    )


def _edited_since(code: Closure) -> list[str]:
    """Name the user's modules that were edited since this process imported them."""
    found = []
    for name in code.files.keys() - LOADED.keys():
        module = name.partition(": ")[0]  # of which the rest is a file that it names
        imported = getattr(sys.modules.get(module), "__spec__", None)  # another one after a reload
        if imported is None:
            continue
        spec, digest = _IMPORTED.get(name, (None, ""))
        if spec is not imported:
            _IMPORTED[name] = (imported, code.files[name])
        elif digest != code.files[name]:
            found.append(name)
    return found


_IMPORTED: dict[str, tuple[object, str]] = {}
"""The user's modules that this process has imported: whose import it was, and the hash of its code then."""


def _keep(
    store: Store,
    key: str,
    job: Train,
    described: Mapping[str, Any],
    replicate: Replicate,
    validation_loss: float | None,
) -> str:
    """Put a replicate into the store; returns the hash of its weights."""
    content = {
        "arm": job.arm,
        "seed": replicate.seed,
        "described": described,
        "epoch": replicate.epoch,
        "diverged": replicate.diverged,
        **({} if validation_loss is None else plain({"validation_loss": validation_loss})),
        "seconds": replicate.seconds,
        "history": [[one.epoch, one.split, one.metric, one.value] for one in replicate.history],
    }
    return store.put(TRAIN, key, content, {WEIGHTS: save(replicate.state)}).files[WEIGHTS]


def _beside(setting: Setting, job: Train) -> dict[str, Any]:
    """What constant outputs reach under an arm's loss, six digits of it, and what a step keeps in memory.

    Found once by each worker; the latter for one process alone.
    """
    member = replace(job.members[0], seed=0)
    key = hashed([job.arm, job.fold, member.own, setting.recipe.batch_size])
    if key not in _BESIDE:
        with threads(setting.compute.threads):
            found = constant_loss(setting, member)
            # Several processes may be there because one has not the memory for a step on the whole batch.
            kept = kept_bytes(setting, member) if setting.compute.processes == 1 else None
        constant = None if found is None else float(f"{found:.6g}")
        _BESIDE[key] = {"constant_loss": constant, "kept_bytes": kept}
    return _BESIDE[key]


_BESIDE: dict[str, dict[str, Any]] = {}


def describe(setting: Setting, job: Train) -> dict[str, Any]:
    """Say what is trained, parameters as resolved: the part of ``arm.json`` that needs torch."""
    first = job.members[0]
    return {
        "task": job.params.experiments[job.params.arms[job.arm].experiment].task.name,
        "task_options": setting.task.options.model_dump(mode="json"),
        "loss_parameters": _stated(setting, first),
        "model": setting.network.model_dump(mode="json"),
        "recipe": setting.recipe_of(first).model_dump(mode="json"),
        "compute": deciding(setting.compute),
        "monitor": setting.task.monitor,
    }


def _stated(setting: Setting, member: Member) -> dict[str, Any]:
    """State a loss's parameters: their last values, and how they change where they do."""
    changes = changes_stated(member.loss or setting.loss)
    return setting.loss_of(member).parameters_stated() | ({"changes": changes} if changes else {})


def _score(job: Score, hand: Hand | None) -> None:
    identity = Identity(job.params, job.arm, job.where.study, job.fold)
    store = Store(job.where.store)
    if isinstance(job.weights, Path):
        written = job.weights.read_bytes()
    else:
        entry = store.get(TRAIN, job.weights)
        if entry is None:
            raise GateError(f"{job.label}: the replicate is no longer in the store; run the same again")
        written = _file(job, entry, WEIGHTS)
    digest = hashlib.sha256(written).hexdigest()
    _agree(job, identity.scores(digest), job.key, identity.scoring)
    _predict(job, identity, digest, load(written), job.seed, job.shown, hand)


def _predict(
    job: Train | Score,
    identity: Identity,
    weights: str,
    state: Any,
    seed: int,
    shown: bool,
    hand: Hand | None,
) -> None:
    """Predict with a replicate, and score it, or have another process do that."""
    experiment, params = identity.experiment, identity.params
    task, data = _task(params, params.arms[identity.arm].experiment, identity.data)
    predicted = predict_replicate(
        state, experiment.model, seed, task, experiment.metric, data, params.compute, write=shown
    )
    key, code = identity.shown(weights) if shown else None, identity.scoring.digest
    scoring = Scoring(job, predicted, identity.scores(weights), key, code)
    if hand is None:
        keep(scoring, task, data)
    else:
        hand(scoring)


def score_handed(scoring: Scoring) -> None:
    """Score what another process has predicted.

    Raises:
        GateError: if the code here is another than there.

    """
    job = scoring.job
    use_own_code(job.params, job.where.study)
    _import_own(job)
    identity = Identity(job.params, job.arm, job.where.study, job.fold)
    _agree(job, identity.scoring.digest, scoring.code, identity.scoring)
    keep(scoring, *_task(job.params, job.params.arms[job.arm].experiment, identity.data))


def _measure(job: Measure) -> None:
    params = job.params
    recipe = params.experiments[params.arms[job.arm].experiment].recipe
    member = Member(params.seeds[0])
    setting = _setting(Train(job.where, params, job.arm, recipe, (member,), ()))
    with threads(params.compute.threads):
        seconds = seconds_per_epoch(setting, member)
    _keep_costs(Identity(params, job.arm, job.where.study), Store(job.where.store), seconds)


def _keep_costs(identity: Identity, store: Store, seconds: float) -> None:
    store.put(COSTS, identity.costs, {"seconds": seconds, "peak": peak_memory()})


def _floors(job: Floors) -> None:
    experiment = Shown(job.params, job.experiment, job.where.study)
    _agree(job, experiment.floors(job.fold), job.key, experiment.scoring)
    task, data = _task(job.params, job.experiment, _data(job, job.experiment, job.fold))
    Store(job.where.store).put(FLOORS, job.key, {"floors": plain(task.floors(data))})


def _gallery(job: Gallery) -> None:
    experiment = Shown(job.params, job.experiment, job.where.study)
    _agree(job, experiment.gallery(job.shown), job.key, experiment.scoring)
    fold = fold_of(job.params, job.experiment, job.seed)
    task, data = _task(job.params, job.experiment, _data(job, job.experiment, fold))
    store = Store(job.where.store)
    decisions, texts = {}, {}
    for arm, key in job.shown:
        entry = store.get(SHOWN, key)
        if entry is None:
            raise GateError(
                f"{job.label}: what '{arm}' decided is no longer in the store; run the same again"
            )
        decisions[arm] = read_array(_file(job, entry, "decisions.npy"))
        texts[arm] = tuple(entry.content["texts"])
    described, arrays = gallery(data, task, decisions, texts, job.seed)
    store.put(GALLERY, job.key, described, {"gallery.npz": arrays})


def _file(job: Job, entry: Entry, name: str) -> bytes:
    """Read an entry's file; whoever shares the store may have pruned it a moment ago."""
    try:
        return entry.read(name)
    except DamagedError as error:
        raise GateError(f"{job.label}: {error}; run the same again") from None


def _setting(job: Train) -> Setting:
    """Prepare an arm; data are read once for all arms and trials that see them alike."""
    params, arm = job.params, job.params.arms[job.arm]
    network, loss = params.experiments[arm.experiment].model, params.losses[arm.loss]
    task, data = _task(params, arm.experiment, _data(job, arm.experiment, job.fold))
    alike = [
        params.experiments[arm.experiment].task.model_dump(mode="json"),
        data_hash(data.folder.resolve()),
        job.recipe.model_dump(mode="json", exclude={"epochs", "optimizer", "schedule"}),
        params.compute.model_dump(mode="json"),
        loss if wants_maps(loss, task) else None,
    ]
    key = hashed(alike)
    if key not in _PREPARED:
        while len(_PREPARED) >= KEPT:
            _PREPARED.pop(next(iter(_PREPARED)))
        _PREPARED[key] = prepare(
            task, data, network, job.recipe, loss, params.compute, job.where.share * KEPT
        )
    # The task too: another experiment that sees the data alike may go by another metric.
    return replace(_PREPARED[key], task=task, network=network, recipe=job.recipe, loss=loss)


def _import_own(job: Job) -> None:
    """Import the user's modules before anything is drawn: one may seed a generator when it is imported.

    And before their files are read for a key: an edit in between is noticed by the next job.
    """
    params = job.params
    whose = job.experiment if isinstance(job, Floors | Gallery) else params.arms[job.arm].experiment
    experiment = params.experiments[whose]
    if isinstance(experiment, ScriptExperiment):
        return
    loss = params.losses[params.arms[job.arm].loss] if isinstance(job, Train | Measure) else {}
    names = [experiment.model.name, experiment.task.name, experiment.metric, *losses_named(loss)]
    for name in (*names, experiment.recipe.augmentation.own):
        if is_path(name):
            load_object(str(name), "code")


KEPT = 2
"""Settings that a worker keeps: jobs of two experiments may alternate."""
_PREPARED: dict[str, Setting] = {}


def _data(job: Job, experiment: str, fold: int) -> Path:
    return fold_folder(job.where.study / "data" / job.params.experiments[experiment].dataset, fold)


def _task(params: Params, experiment: str, folder: Path) -> tuple[Task, Dataset]:
    chosen = params.experiments[experiment]
    data = Dataset.open(folder)
    return task_for(chosen.task.name, chosen.metric)(data.info, chosen.task.options), data
