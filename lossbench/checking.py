"""Whether ``params.yaml`` makes sense to the registries: what a model of its shape alone cannot know."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from lossbench import gpus, losses
from lossbench.closure import PACKAGE, source_of
from lossbench.data import sources
from lossbench.data.current import up_to_date
from lossbench.data.dataset import Dataset as Fetched
from lossbench.data.sources.listing import user_path
from lossbench.errors import UserError, nearest
from lossbench.execution import sites
from lossbench.execution.declared import records_of
from lossbench.execution.identity import use_own_code, user_code
from lossbench.execution.lineage import lineage
from lossbench.execution.local import worker_count
from lossbench.losses.building import check_distributions
from lossbench.losses.schedules import is_learned
from lossbench.models.base import check as check_model
from lossbench.models.names import LOOP_ONLY
from lossbench.originals import protect
from lossbench.params import Experiment, Params, ScriptExperiment
from lossbench.plugins import INSTALLED, load_object
from lossbench.recipe import Compute
from lossbench.scripts.checking import check_script, only_of_scripts
from lossbench.tasks.base import GAP, Task, task_for
from lossbench.tracking.store import check_driver, store_of
from lossbench.training.mixing import makes_distributions

AMPERE = 8
"""Capability from which on a GPU knows tf32 and bf16."""
TUNABLE = "PYTORCH_TUNABLEOP_ENABLED"


def check(params: Params, file: str = "params.yaml", study: Path = Path()) -> None:
    """Refuse what makes no sense, and what would do harm, before anything runs.

    Args and errors are those of :func:`check_declared`, which comes first, and :func:`check_experiments`.
    """
    check_declared(params, file, study)
    check_experiments(params, tuple(params.experiments), file, study)


def check_declared(params: Params, file: str = "params.yaml", study: Path = Path()) -> None:
    """Refuse what makes no sense without building anything.

    Unknown sources, tasks, models, losses, metrics and options; a device that is not there; an address of
    MLflow's that is none; what was declared otherwise when somebody looked; a place where the chain
    would delete what is not its own.

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
    use_own_code(params, study)
    try:
        _refuse_namesakes(params, study)
        for name, dataset in params.datasets.items():
            sources.check(dataset, f"datasets.{name}")
            _check_extra(dataset.expectations.extra, study)
        check_names(params, study)
        _refuse_namesakes(params, study)  # of what these have imported
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    _tell_of_unseen(params, study)


def check_experiments(
    params: Params, names: Sequence[str], file: str = "params.yaml", study: Path = Path()
) -> None:
    """Build the models and losses of some experiments, and run a step of each.

    Args:
        params: of the study, which are declared as they should be.
        names: of the experiments.
        file: named in messages.
        study: its folder.

    Raises:
        UserError: one sentence on what does not fit.

    """
    use_own_code(params, study)
    for name in names:
        _try(name, params, file, study)


def check_names(params: Params, study: Path) -> None:
    """Refuse names, options and a device that the registries and the machine do not know.

    Args:
        params: of the study, whose own code can be imported.
        study: its folder.

    Raises:
        UserError: naming the key's path, without the file's name.

    """
    for name, experiment in params.experiments.items():
        if isinstance(experiment, ScriptExperiment):
            check_script(name, experiment, params, study)
        else:
            _check_experiment(name, experiment)
    scripts = only_of_scripts(params)
    for name, spec in params.losses.items():
        if name not in scripts:
            losses.check(spec, f"losses.{name}")
    _check_distributions(params)
    for name, claim in params.hypotheses.items():
        for where in (claim.experiment, claim.than_experiment or claim.experiment):
            _check_claimed(claim.on, params.experiments[where], where, f"hypotheses.{name}.on")
    _check_retraining(params)
    check_compute(params.compute)
    _check_engine(params)


def _try(name: str, params: Params, file: str, study: Path) -> None:
    """Try an experiment: on its data where they are those of these params, else by their shape.

    What neither tells (the shape stands in the files alone) ``validate`` finds out, once there are data.
    """
    from lossbench.trial import try_experiment, try_shape

    if isinstance(params.experiments[name], ScriptExperiment):  # only the whole of it can be run
        return
    where = params.experiments[name].dataset
    dataset, key = params.datasets[where], f"datasets.{where}"
    if up_to_date(study, where, dataset):
        try_experiment(name, params, Fetched.open(study / "data" / where), file)
        return
    read = sources.source(dataset.source, key)
    options = read.check(dataset, key)
    shape = read.input_shape(options)
    if shape is not None:
        try_shape(name, params, shape, file, getattr(options, "classes", None))


def _check_extra(extra: str | None, study: Path) -> None:
    if extra:
        from lossbench.data.expectations.extra import extra_file, read_extra  # which brings pandas

        read_extra(extra_file(extra, study))


def _refuse_home(params: Params, file: str) -> None:
    """Refuse ``~`` where DVC reads the path: it would look for a folder of that name."""
    for name, dataset in params.datasets.items():
        if dataset.path.startswith("~"):
            path = user_path(dataset.path, f"datasets.{name}")
            raise UserError(
                f"{file}: 'datasets.{name}.path' is '{dataset.path}', but DVC, which watches it, knows no ~; "
                f"write '{path}' (`lossbench run` does that itself)"
            )


def _refuse_namesakes(params: Params, study: Path) -> None:
    """Refuse a module of the user's with the name of another's: whoever imports first decides which it is."""
    folder = user_code(params, study)
    if folder is None:
        return
    for name, file in _modules(folder):
        where = f"'code' has {Path(params.code) / file.relative_to(folder)}"
        if name in sys.stdlib_module_names - {"test"}:  # which nothing imports
            raise UserError(f"{where}, but '{name}' is a module of Python's own; allowed: another name")
        spec = find_spec(name) if getattr(sys.modules.get(name), "__spec__", True) else None
        if (
            spec is not None
            and spec.origin is not None
            and not Path(spec.origin).resolve().is_relative_to(folder)
        ):
            raise UserError(f"{where}, but '{name}' is imported from {spec.origin}; allowed: another name")


def _tell_of_unseen(params: Params, study: Path) -> None:
    """Tell of modules of the user's that are imported by names made at run time: no key holds them."""
    folder = user_code(params, study)
    found = {} if folder is None else _imported(folder)
    if not found:
        return
    seen = {name for content in lineage(params, study).values() for name in content["code"]}
    files = {source_of(name, folder) for name in seen}
    for name in sorted(name for name, file in found.items() if name not in seen and file not in files):
        print(
            f"note: '{name}' of your code is imported by a name that is made at run time: an edit of it "
            f"trains nothing anew; allowed: an import statement, or import_module('{name}')",
            flush=True,
        )


def _imported(folder: Path) -> dict[str, Path]:
    """Find the imported modules that lie in a folder, but for what is installed there, and us."""
    files = {name: getattr(module, "__file__", None) for name, module in tuple(sys.modules.items())}
    within = {
        name: Path(file) for name, file in files.items() if file and file.startswith(f"{folder}{os.sep}")
    }
    others = {PACKAGE, PACKAGE.parent / "stages", *INSTALLED, *(one.resolve() for one in INSTALLED)}
    return {
        name: file for name, file in within.items() if name != "__main__" and not others & {*file.parents}
    }


def _modules(folder: Path) -> Iterator[tuple[str, Path]]:
    for one in sorted(folder.iterdir()):
        file = one / "__init__.py" if one.is_dir() else one
        if one.stem.isidentifier() and one.stem != "__main__" and file.suffix == ".py" and file.is_file():
            yield one.stem, file


def _check_experiment(name: str, experiment: Experiment) -> None:
    key = f"experiments.{name}"
    task = task_for(experiment.task.name, experiment.metric, key)
    task.check_options(experiment.task.options, f"{key}.task")
    _check_metric(experiment.metric, task, f"{key}.metric")
    check_model(experiment.model, f"{key}.model")
    if experiment.recipe.augmentation.own is not None:
        load_object(experiment.recipe.augmentation.own, f"{key}.recipe.augmentation.own")


def _check_distributions(params: Params) -> None:
    """Refuse losses that cannot take what the recipe makes of targets, before anything runs."""
    for name, one in params.experiments.items():
        if isinstance(one, ScriptExperiment) or not one.recipe.mixes:
            continue
        task = task_for(one.task.name, one.metric, f"experiments.{name}")
        if makes_distributions(one.recipe, task):
            for arm in params.arms_of(name).values():
                check_distributions(params.losses[arm.loss], f"losses.{arm.loss}")


def _check_claimed(metric: str, experiment: Experiment, name: str, key: str) -> None:
    """Refuse a claim on a metric that its experiment does not have."""
    if not isinstance(experiment, ScriptExperiment):
        task = task_for(experiment.task.name, experiment.metric, f"experiments.{name}")
        _check_metric(metric, task, key, also=[GAP])
    elif metric not in experiment.task.metrics:
        raise UserError(
            f"'{key}' is '{metric}', which 'experiments.{name}.task.metrics' does not declare; "
            f"{nearest(metric, experiment.task.metrics)}"
        )


def _check_retraining(params: Params) -> None:
    """Refuse to put into service what a script has trained: nobody here can load it."""
    name = params.retraining.experiment
    if name is not None and isinstance(params.experiments[name], ScriptExperiment):
        raise UserError(
            f"'retraining.experiment' is '{name}', whose models a script trains and keeps; allowed: an "
            "experiment whose task is not 'command'"
        )


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
        if isinstance(one, ScriptExperiment):  # trains as it likes
            continue
        if one.recipe.augmentation.own is not None:
            raise UserError(
                "'compute.engine' is 'population', which cannot run "
                f"'experiments.{name}.recipe.augmentation.own'; allowed: loop"
            )
        if one.model.name in LOOP_ONLY:
            raise UserError(
                f"'compute.engine' is 'population', which cannot train model '{one.model.name}' of "
                f"'experiments.{name}'; allowed: loop"
            )
        learned = next(
            (a.loss for a in params.arms_of(name).values() if is_learned(params.losses[a.loss])), None
        )
        if learned is not None:
            raise UserError(
                f"'compute.engine' is 'population', which cannot train 'losses.{learned}', whose weights are "
                "learned; allowed: loop"
            )


def check_compute(compute: Compute) -> None:
    """Refuse a GPU that is not there, what the device cannot compute in or repeat, and processes in vain.

    Raises:
        UserError: naming the key, or the variable.

    """
    _check_processes(compute)
    _check_members(compute)
    if compute.device == "cpu":
        if compute.precision == "tf32":
            raise UserError(
                "'compute.precision' is 'tf32', which GPUs alone compute in; allowed on the cpu: fp32, bf16"
            )
        if compute.graphs:
            raise UserError("'compute.graphs' is true, which GPUs alone have; allowed on the cpu: false")
        return
    import torch

    from lossbench.training.determinism import check_workspace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says why before we do
        found = torch.cuda.is_available()
    if not found:
        raise UserError(f"'compute.device' is 'cuda', but torch finds no GPU here{_why_none()}; allowed: cpu")
    check_workspace()
    if os.environ.get(TUNABLE, "0") != "0":
        raise UserError(
            f"{TUNABLE} is '{os.environ[TUNABLE]}', with which torch takes whichever product was faster this "
            "time, so that results need not repeat; allowed: 0, or unset"
        )
    major, _ = torch.cuda.get_device_capability()
    if compute.precision != "fp32" and major < AMPERE:
        raise UserError(
            f"'compute.precision' is '{compute.precision}', but {torch.cuda.get_device_name()} (capability "
            f"{major}) computes in neither tf32 nor bf16; allowed here: fp32"
        )


def _why_none() -> str:
    """Say why there is no GPU, where torch or a variable tells: an old driver, none, none that is visible."""
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's own
    except (RuntimeError, AssertionError) as error:
        said = [str(error).splitlines()[0].partition(". ")[0].rstrip(".")]
    else:
        said = []
    visible = os.environ.get(gpus.VISIBLE)
    said += [] if visible is None else [f"{gpus.VISIBLE} is '{visible}'"]
    return f" ({'; '.join(said)})" if said else ""


def _check_members(compute: Compute) -> None:
    if compute.members is not None and compute.engine != "population":
        raise UserError(
            f"'compute.members' is {compute.members}, but 'compute.engine' is '{compute.engine}', which "
            "trains one seed at a time; allowed with it: null"
        )


def _check_processes(compute: Compute) -> None:
    if compute.processes == 1:
        return
    for key, found, wanted in (("engine", compute.engine, "loop"), ("graphs", compute.graphs, False)):
        if found != wanted:
            raise UserError(
                f"'compute.{key}' is '{str(found).lower()}', which several processes of one replicate cannot "
                f"be ('compute.processes' is {compute.processes}); allowed with them: {str(wanted).lower()}"
            )
    if sites.is_local():  # of another machine this one knows nothing
        worker_count(compute)
