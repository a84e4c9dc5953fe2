"""Whether ``params.yaml`` makes sense to the registries: what a model of its shape alone cannot know."""

from collections.abc import Sequence
from pathlib import Path

from lossbench import losses, models
from lossbench.data import sources
from lossbench.data.current import up_to_date
from lossbench.data.dataset import Dataset as Fetched
from lossbench.data.sources.listing import user_path
from lossbench.errors import UserError, nearest
from lossbench.execution.declared import records_of
from lossbench.execution.identity import user_code
from lossbench.originals import protect
from lossbench.params import Experiment, Params
from lossbench.plugins import load_object, use_code
from lossbench.recipe import Compute
from lossbench.tasks.base import GAP, Task, task_for
from lossbench.tracking.store import check_driver, store_of


def check(params: Params, file: str = "params.yaml", study: Path = Path()) -> None:
    """Refuse what makes no sense, and what would do harm, before anything runs.

    Unknown sources, tasks, models, losses, metrics and options; a device that is not there; an address of
    MLflow's that is none; what was declared otherwise when somebody looked; a place where the chain
    would delete what is not its own; a misfitting model.

    Args:
        params: of the study.
        file: named in messages.
        study: its folder.

    Raises:
        UserError: one sentence naming the key's path, what was found and the nearest valid name.

    """
    protect(params, study, file)
    _refuse_home(params, file)
    records_of(params, study)
    check_driver(store_of(study))
    use_code(user_code(params, study))
    try:
        for name, dataset in params.datasets.items():
            sources.check(dataset, f"datasets.{name}")
        for name, experiment in params.experiments.items():
            _check_experiment(name, experiment)
        for name, spec in params.losses.items():
            losses.check(spec, f"losses.{name}")
        for name, claim in params.hypotheses.items():
            for where in (claim.experiment, claim.than_experiment or claim.experiment):
                one = params.experiments[where]
                task = task_for(one.task.name, one.metric, f"experiments.{where}")
                _check_metric(claim.on, task, f"hypotheses.{name}.on", also=[GAP])
        check_compute(params.compute)
        _check_engine(params)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    for name in params.experiments:
        _try(name, params, file, study)


def _try(name: str, params: Params, file: str, study: Path) -> None:
    """Try an experiment: on its data where they are those of these params, else by their shape.

    What neither tells (the shape stands in the files alone) ``validate`` finds out, once there are data.
    """
    from lossbench.trial import try_experiment, try_shape

    where = params.experiments[name].dataset
    dataset, key = params.datasets[where], f"datasets.{where}"
    if up_to_date(study, where, dataset):
        try_experiment(name, params, Fetched.open(study / "data" / where), file)
        return
    read = sources.source(dataset.source, key)
    shape = read.input_shape(read.check(dataset, key))
    if shape is not None:
        try_shape(name, params, shape, file)


def _refuse_home(params: Params, file: str) -> None:
    """Refuse ``~`` where DVC reads the path: it would look for a folder of that name."""
    for name, dataset in params.datasets.items():
        if dataset.path.startswith("~"):
            path = user_path(dataset.path, f"datasets.{name}")
            raise UserError(
                f"{file}: 'datasets.{name}.path' is '{dataset.path}', but DVC, which watches it, knows no ~; "
                f"write '{path}' (`make repro` does that itself)"
            )


def _check_experiment(name: str, experiment: Experiment) -> None:
    key = f"experiments.{name}"
    task = task_for(experiment.task.name, experiment.metric, key)
    task.check_options(experiment.task.options, f"{key}.task")
    _check_metric(experiment.metric, task, f"{key}.metric")
    models.check(experiment.model, f"{key}.model")
    if experiment.recipe.augmentation.own is not None:
        load_object(experiment.recipe.augmentation.own, f"{key}.recipe.augmentation.own")


def _check_metric(metric: str, task: type[Task], key: str, also: Sequence[str] = ()) -> None:
    known = [*(one.name for one in task.metrics), *also]
    if metric not in known:
        raise UserError(
            f"'{key}' names no metric of task '{task.name}': '{metric}'; {nearest(metric, known)}"
        )


def _check_engine(params: Params) -> None:
    if params.compute.engine != "population":
        return
    for name, one in params.experiments.items():
        if one.recipe.augmentation.own is not None:
            raise UserError(
                "'compute.engine' is 'population', which cannot run "
                f"'experiments.{name}.recipe.augmentation.own'; allowed: loop"
            )
        if one.model.name in models.LOOP_ONLY:
            raise UserError(
                f"'compute.engine' is 'population', which cannot train model '{one.model.name}' of "
                f"'experiments.{name}'; allowed: loop"
            )


def check_compute(compute: Compute) -> None:
    """Refuse a GPU that is not there, and a precision or engine that the device cannot serve."""
    import torch

    if compute.device == "cuda" and not torch.cuda.is_available():
        raise UserError("'compute.device' is 'cuda', but torch finds no GPU here; allowed: cpu")
