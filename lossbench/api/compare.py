"""``lossbench.compare``: the pipeline's work on what a caller holds in memory, without DVC."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.errors import UserError, nearest

if TYPE_CHECKING:
    from lossbench.api.arrays import Notes
    from lossbench.api.asked import Asked
    from lossbench.api.comparison import Comparison
    from lossbench.data.samples import Fetched
    from lossbench.outs import Outs
    from lossbench.params import Params
    from lossbench.store import Store

FOLDER = "comparisons"
"""In the private folder: what comparisons from Python leave."""
NEEDED = (
    "torch", "pydantic", "pandas", "pyarrow", "great_expectations", "jinja2", "altair",
    "vl_convert", "filelock",
)  # fmt: skip
SITES = ("local", "ray", "slurm")
HOME, EXECUTOR, TRACKING = "LOSSBENCH_HOME", "LOSSBENCH_EXECUTOR", "MLFLOW_TRACKING_URI"
BEYOND = ("lowest_value", "highest_value", "range_used")
"""Expectations of pixels; numbers that somebody has standardised already are no pixels."""
EXPECTED = {
    "model": "a class, a function that builds one, 'module:Object', or one of our names",
    "losses": 'a mapping such as {"ce": "cross_entropy", "mine": my_loss}',
    "metric": "one of the task's test metrics",
    "margin": "the largest difference that does not matter to you, in the metric's unit",
}


def compare(
    *,
    model: Any = None,
    losses: Any = None,
    train: Any = None,
    test: Any = None,
    validation: Any = None,
    task: Any = "segmentation",
    metric: str | None = None,
    margin: float | None = None,
    seeds: int | Sequence[int] = 8,
    recipe: Any = None,
    tuning: Any = None,
    budgets: Sequence[float] = (),
    looks: Sequence[int] = (),
    executor: str = "local",
    mlflow: str | bool | None = None,
    baseline: str | None = None,
    level: float = 0.05,
    classes: Sequence[str] | None = None,
    ignore_index: int | None = None,
    device: Any = "cpu",
    weights: Any = None,
    table: Mapping[str, Any] | None = None,
    expectations: Mapping[str, Any] | None = None,
    name: str = "comparison",
) -> "Comparison":
    """Train a network with each loss, over the same seeds, and say which loss is better.

    What was trained is kept in the store (``.lossbench`` in the working directory, ``LOSSBENCH_HOME`` or
    ``LOSSBENCH_STORE``), by what made it: the same call again, or one with a loss more, trains what is
    missing. So does a call after Ctrl-C, and a pipeline's study on the same data.

    Args:
        model: a ``torch.nn.Module`` class or a function that returns one, of a module or of this notebook;
            ``"module:Object"``; one of our names (``"unet"``); or a mapping, ``{"name": …, "width": 8}``.
            One that takes ``input_shape`` and ``outputs`` is given them; a value ``"{outputs}"`` or
            ``"{channels}"`` is filled in.
        losses: name → loss: one of our names (``"dice"``), a mapping (``{"name": "focal", "gamma": 2}``,
            ``{"sum": {"cross_entropy": 1, "dice": 1}}``), a class or function of (logits, target), a
            lambda, or an object such as ``nn.CrossEntropyLoss(label_smoothing=0.1)``.
        train: (inputs, targets) as tensors or arrays; a torch Dataset, which is read once; or a DataFrame
            with the columns of the source `table`. Inputs are images (N, C, H, W), uint8 or float; targets
            are labels (N,), masks (N, H, W), labels a class (N, C), or boxes (N, K, 5). Soft labels are
            probabilities (N, C): they are trained on, the likeliest class is what is scored.
        test: likewise; scores come from these. None: a share of the training samples, by a hash of their
            content.
        validation: likewise; what epochs and a search's points are chosen by. None: as for ``test``.
        task: a task's name, or a mapping with its options.
        metric: test metric that decides.
        margin: a difference shown to lie within ± this is a tie.
        seeds: how many, or which.
        recipe: a :class:`lossbench.Recipe` or a mapping; None: 20 epochs of Adam at 0.003 with a cosine.
        tuning: points of a search of the learning rate around the recipe's, a :class:`lossbench.Tuning`,
            or a mapping; the same search for every loss. None: none.
        budgets: shares of the epochs, ascending to 1, at each of which every replicate is trained.
        looks: numbers of seeds at which one decides; what is decided gets no more seeds.
        executor: ``local``, ``ray`` or ``slurm``.
        mlflow: address of an MLflow store that gets a record; True for ``MLFLOW_TRACKING_URI``, or
            ``mlflow.db`` here.
        baseline: loss that the others are compared with; None: the first.
        level: chance of a false verdict, all of them together.
        classes: names, in the order of their numbers; None: the numbers.
        ignore_index: target value of pixels that do not count.
        device: ``cpu`` or ``cuda``; a :class:`lossbench.recipe.Compute` says more.
        weights: how much each training sample counts in the loss, (N,), or each pixel, (N, H, W); or a
            mapping with ``train`` and ``validation``. Finite, ≥ 0; scores are never weighted.
        table: options of the source `table`, where data frames are given (``{"size": (64, 64)}``).
        expectations: knobs of the data's validation, as under ``datasets.X.expectations`` of a params.yaml.
        name: of the comparison, on its page and in MLflow.

    Returns:
        The comparison: ``.answer``, ``.verdicts``, ``.scores``, ``.report(path)``, ``.models(loss)``; a
        notebook shows it.

    Raises:
        UserError: one sentence on an argument that makes no sense.
        GateError: one sentence on data that do not pass validation, or a training that failed.

    """
    _expect_packages()
    from lossbench.api.asked import Asked

    asked = Asked(
        model, losses, task, metric, margin, seeds, recipe, tuning, tuple(budgets or ()), tuple(looks or ()),
        baseline, level, device, expectations, name,
    )  # fmt: skip
    try:
        asked.expect_all(EXPECTED)
        with _surroundings(executor, mlflow) as home:
            data = {"train": train, "validation": validation, "test": test}
            also = {"weights": weights, "table": table or {}}
            return _compared(asked, data, classes, ignore_index, also, home, bool(mlflow))
    except UserError as error:
        from lossbench.api.asked import told

        raise told(error, str(name)) from None
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept: the same call goes on from there", file=sys.stderr)
        raise


def _expect_packages() -> None:
    missing = [one for one in NEEDED if find_spec(one) is None]
    if missing:
        raise UserError(
            f"lossbench.compare needs the package{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            "install what the pipeline needs: requirements.lock of our repository"
        )


@contextmanager
def _surroundings(executor: str, mlflow: str | bool | None) -> Iterator[Path]:
    """Set what the pipeline takes from its environment while the block runs; gives the private folder."""
    from lossbench.written import home

    if executor not in SITES:
        raise UserError(f"executor is {executor!r}; {nearest(str(executor), SITES)}")
    place = home(Path.cwd()).absolute()
    made = {HOME: str(place), EXECUTOR: executor}
    if isinstance(mlflow, str):
        made[TRACKING] = mlflow
    elif mlflow:
        from lossbench.tracking.store import store_of

        made[TRACKING] = store_of(Path.cwd()).uri
    before = {name: os.environ.get(name) for name in made}
    os.environ.update(made)
    try:
        yield place
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _compared(
    asked: "Asked",
    data: Mapping[str, Any],
    classes: Any,
    ignore: Any,
    also: Mapping[str, Any],
    home: Path,
    record: bool,
) -> "Comparison":
    from lossbench.api.asked import params_of
    from lossbench.api.code import Code
    from lossbench.api.comparison import Comparison
    from lossbench.store import opened

    around = home / FOLDER
    around.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=around) as draft:
        kind_of(asked.task)
        params_of(asked, Code(Path(draft) / "asked"), 1, ())  # before a Dataset is read for minutes
        kept, training, quiet = _written(asked, data, classes, ignore, also, around, Path(draft))
        params = params_of(asked, Code(Path(draft) / "code"), training, quiet)
        study = _folder_of(params, kept, Path(draft), around)
        with _one_at_a_time(study), opened(home) as store:
            _settle(params, kept, Path(draft), study)
            _answer(params, study, store, record)
    return Comparison(params, study)


def _answer(params: "Params", study: Path, store: "Store", record: bool) -> None:
    """Check, train and score what is missing, and judge."""
    from lossbench.execution.beside import in_worker
    from lossbench.execution.fill import Arm
    from lossbench.execution.local import warm_up
    from lossbench.execution.settled import lacks
    from lossbench.execution.sites import site
    from lossbench.execution.validation import collect_validation
    from lossbench.outs import Outs
    from lossbench.running import validator

    outs = Outs(study)
    site(params, outs, store)  # what it lacks is said now
    missing = any(lacks(Arm(params, arm, study), store) for arm in params.arms)
    if missing:
        warm_up()
    with validator(params, outs, store) as validate:
        if missing:  # what was trained has passed it
            in_worker(check_asked, params, study)
        validate(lambda: None)
    for name in params.datasets:
        collect_validation(params, name, outs, store)
    _run(params, outs, store, record)


@contextmanager
def _one_at_a_time(study: Path) -> Iterator[None]:
    """Let nobody else write to the same comparison's folder."""
    from lossbench.lock import HeldError, only_one

    try:
        with only_one(study / "compare.lock", "comparison like this one"):
            yield
    except HeldError as held:
        raise UserError(str(held)) from None


def kind_of(task: Any) -> str:
    """Find the kind of targets that a task has.

    Raises:
        UserError: for an unknown task.

    """
    from lossbench.tasks.base import task_class

    name = task.get("name") if isinstance(task, Mapping) else task
    if not isinstance(name, str):
        raise UserError(f"task is {task!r}; expected a task's name, or a mapping with 'name'")
    return task_class(name, "task").kinds[0]


def _written(
    asked: "Asked",
    data: Mapping[str, Any],
    classes: Any,
    ignore: Any,
    also: Mapping[str, Any],
    around: Path,
    draft: Path,
) -> tuple[Path, int, Sequence[str]]:
    """Write the data as ``fetch`` does: (their folder, samples to train on, expectations to leave out)."""
    from lossbench.api.arrays import Notes
    from lossbench.api.given import Given, fetched, wanted_of
    from lossbench.data.dataset import DatasetInfo
    from lossbench.data.fetching import write
    from lossbench.execution.identity import described_hash
    from lossbench.params import Dataset, Splits

    notes, shares = Notes(), Splits(reference=0.0)
    wanted = wanted_of(kind_of(asked.task), classes, ignore)
    found = fetched(Given(data, wanted, also["table"], draft / "read", also["weights"]), shares, notes)
    found, quiet = _no_pixels(found, notes)
    for sentence in notes.said:
        print(f"note: {sentence}", flush=True)
    block = Dataset(source="python", path="data", splits=shares)
    write(found, block, str(asked.name), draft / "data")
    info = DatasetInfo.read(draft / "data")
    kept = around / "data" / described_hash(draft / "data")[:16]
    if kept.is_dir():
        shutil.rmtree(draft / "data")
    else:
        kept.parent.mkdir(exist_ok=True)
        (draft / "data").replace(kept)
    return kept, info.sizes["train"], quiet


def _no_pixels(found: "Fetched", notes: "Notes") -> "tuple[Fetched, Sequence[str]]":
    """Name expectations that speak of pixels, where inputs are numbers of another kind."""
    from lossbench.data.rows import FromFiles
    from lossbench.data.samples import looked_at

    train = found.groups.get("train")
    if train is None or isinstance(train.inputs, FromFiles) or train.inputs.dtype.kind != "f":
        return found, ()
    train = looked_at(train, found)
    found = replace(found, groups={**found.groups, "train": train})
    facts = train.facts or {}
    low, high = float(facts["minimum"].min()), float(facts["maximum"].max())
    if low >= 0 and high <= 1:
        return found, ()
    notes.add(
        f"inputs lie between {low:.3g} and {high:.3g}; they are standardised by the training split's mean "
        "and sd"
    )
    return found, BEYOND


def _folder_of(params: "Params", data: Path, draft: Path, around: Path) -> Path:
    """Name a comparison's folder by what is compared."""
    from lossbench.store import hashed

    written = sorted((draft / "code").glob("notebook_*.py"))
    own = {file.name: file.read_text(encoding="utf-8") for file in written}
    study = around / hashed([params.model_dump(mode="json"), data.name, own])[:16]
    study.mkdir(exist_ok=True)
    return study


def _settle(params: "Params", data: Path, draft: Path, study: Path) -> None:
    """Write params.yaml, code and data into a comparison's folder."""
    from ruamel.yaml import YAML

    from lossbench.execution.declared import LOOKS, ensure_looks

    shutil.rmtree(study / "code", ignore_errors=True)
    (draft / "code").replace(study / "code")
    own = study / "data" / next(iter(params.datasets))
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(data, own, copy_function=link_or_copy)
    (study / LOOKS).unlink(missing_ok=True)
    ensure_looks(study)
    with (study / "params.yaml").open("w", encoding="utf-8") as stream:
        stream.write("# Written by lossbench.compare.\n\n")
        YAML().dump(params.model_dump(mode="json"), stream)


def link_or_copy(source: str, target: str) -> None:
    """Give a file of ours another name, which takes no room; or copy it where there are no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def check_asked(params: "Params", study: Path) -> None:
    """Refuse what the registries do not know, and what does not fit the data; tried on a few samples.

    Raises:
        UserError: one sentence.

    """
    from lossbench.checking import check_names
    from lossbench.data.dataset import Dataset
    from lossbench.execution.identity import use_own_code
    from lossbench.trial import try_experiment

    use_own_code(params, study)
    check_names(params, study)
    for name in params.experiments:
        try_experiment(name, params, Dataset.open(study / "data" / name))


def _run(params: "Params", outs: "Outs", store: "Store", record: bool) -> None:
    """Fill the store, collect, judge; look after look where any are declared."""
    from lossbench.execution.collect import collect_all, filled_and_collected
    from lossbench.execution.declared import begin_looks, record_found
    from lossbench.processes import step
    from lossbench.reporting.write import write_report
    from lossbench.running import fill

    while True:
        filled_and_collected(
            lambda: fill(params, outs, store, journal=record), lambda: collect_all(params, outs, store)
        )
        if not params.comparison.looks:
            break
        write_report(params, outs.study, outs.study)
        if not record_found(params, outs.study) or not begin_looks(params, outs.study):
            break
    if record:
        write_report(params, outs.study, outs.study)
        step(sys.executable, "-m", "lossbench", "track", "--lenient", "--study", str(outs.study))
