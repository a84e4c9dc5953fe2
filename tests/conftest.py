"""Fixtures shared by all tests: a small study, trained for real."""

import contextlib
import gc
import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any
from unittest import mock

import law_cases
import losses_cases
import pytest
import torch
from filelock import FileLock
from ruamel.yaml import YAML
from server_cases import Server

from lossbench import cli
from lossbench.execution import local
from lossbench.execution.declared import ensure_looks
from lossbench.execution.server import DRIVER, WORK

ROOT = Path(__file__).parent.parent

# Forked workers need a parent whose thread pool was never used; two test processes share two cores.
torch.set_num_threads(1)
# A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

law_cases.register()
gc.disable()  # while tests are collected, which makes none


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--loss``."""
    parser.addoption("--loss", help="hold the laws of losses over this one alone")


def pytest_configure(config: pytest.Config) -> None:
    """Tell the laws, which are collected after this, of ``--loss``."""
    losses_cases.ONLY = config.getoption("loss")
    known = {case.name for case in losses_cases.CASES}
    if losses_cases.ONLY not in (None, *known):
        raise pytest.UsageError(
            f"--loss {losses_cases.ONLY}: no such loss; there are {', '.join(sorted(known))}"
        )


@pytest.fixture(autouse=True)
def _no_address_left_behind() -> Iterator[None]:
    """No test leaves an MLflow address to those after it: their studies would report to its store."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    assert os.environ.get("MLFLOW_TRACKING_URI") == before


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """Servers of scripted answers that end with the test; nobody waits between two tries."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made: list[Server] = []

    class Kept(Server):
        def __init__(self, *answers: bytes | int) -> None:
            super().__init__(*answers)
            made.append(self)

    yield Kept
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def tiny_params() -> dict[str, Any]:
    """Params of a study that trains in seconds: two losses on both default tasks, three seeds."""
    recipe = {"epochs": 2, "batch_size": 32, "optimizer": {"name": "adam", "learning_rate": 0.005}}
    losses = {"cross_entropy": {"name": "cross_entropy"}, "focal": {"name": "focal", "gamma": 2.0}}
    return {
        "root": ".",
        "code": "plugins",
        "datasets": {
            "digits": {"source": "digits", "path": "requirements.lock", "subset": 256},
            "scenes": {
                "source": "digit_scenes", "path": "requirements.lock", "train": 48, "validation": 16, "test": 24,
                "reference": 8,
            },
        },
        "experiments": {
            "digits": {
                "task": "classification", "dataset": "digits", "recipe": recipe, "metric": "accuracy", "margin": 0.01,
                "model": {"name": "simple_cnn", "width": 4, "layers": 2, "hidden": 0},
            },
            "scenes": {
                "task": "segmentation", "dataset": "scenes", "recipe": recipe, "metric": "mean_iou", "margin": 0.02,
                "model": {"name": "unet", "width": 4, "depth": 1},
            },
        },
        "losses": losses,
        "arms": {
            f"{experiment}-{loss}": {"experiment": experiment, "dataset": experiment, "loss": loss}
            for experiment in ("digits", "scenes")
            for loss in losses
        },
        "seeds": [0, 1, 2],
        "compute": {"device": "cpu"},
        "tuning": {"trials": 0},
        "comparison": {"baseline": "cross_entropy"},
        "hypotheses": {
            "focal_wins": {
                "claim": "Focal wins.", "experiment": "digits", "better": "focal", "than": "cross_entropy",
                "on": "accuracy",
            }
        },
    }  # fmt: skip


def write_params(folder: Path, content: dict[str, Any]) -> None:
    """Write a params.yaml."""
    yaml = YAML()
    yaml.default_flow_style = False
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    ensure_looks(folder)


def stage(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the chain, or a verb of `lossbench`, in a study's folder."""
    first, *rest = arguments
    module = (
        [f"lossbench.stages.{first}"] if (ROOT / "stages" / f"{first}.py").is_file() else ["lossbench", first]
    )
    return subprocess.run(
        [sys.executable, "-m", *module, *rest],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def in_process(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a verb of `lossbench` in a study's folder as :func:`stage` does, but by this process, which has imported."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", ["lossbench", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    code = ended.value.code
    return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else int(code is not None),
                                       out.getvalue(), err.getvalue())  # fmt: skip


def train_study(root: Path, content: dict[str, Any]) -> None:
    """Fetch, train and evaluate a study by the library, without DVC."""
    from lossbench.data.dataset import DatasetInfo
    from lossbench.data.fetching import fetch
    from lossbench.execution.collect import collect_arm, collect_evaluation, weights_in_models
    from lossbench.execution.fill import Arm, Experiment, Filling
    from lossbench.execution.inline import InlineExecutor
    from lossbench.execution.local import where
    from lossbench.outs import Outs
    from lossbench.params import load_params
    from lossbench.running import add_all
    from lossbench.store import opened

    root.mkdir(exist_ok=True)
    write_params(root, content)
    params, outs = load_params(root / "params.yaml"), Outs(root)
    for name, dataset in params.datasets.items():
        fetch(dataset, name, root / "data" / name)
        (root / "reports/validation").mkdir(parents=True, exist_ok=True)
        empty = f'{{"dataset": "{name}", "success": true, "evaluated": 1, "expectations": []}}'
        (root / f"reports/validation/{name}.json").write_text(empty)
    with opened(outs.home) as store:
        arms = {name: Arm(params, name, root) for name in params.arms}
        filling = Filling(InlineExecutor)
        add_all(filling, params, arms, outs, store, where(params, outs, store))
        filling.run()
        for arm in arms.values():
            collect_arm(arm, store, outs)
        for name, experiment in params.experiments.items():
            classes = DatasetInfo.read(outs.data(experiment.dataset)).classes
            weights = weights_in_models(params, name, outs)
            collect_evaluation(Experiment(params, name, root), weights, classes, store, outs)


@pytest.fixture(scope="session")
def warm_workers() -> None:
    """The workers' server, begun once, with what a first optimizer imports: a second for each worker else."""
    get_context("forkserver").set_forkserver_preload([local.SERVER, WORK, "torch._dynamo"])
    os.environ[DRIVER] = str(os.getpid())
    forkserver.ensure_running()


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of several test processes makes, for all: nobody writes to it."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).is_dir():
            make(shared / f"{name}.part")
            (shared / f"{name}.part").replace(shared / name)
    return shared / name


@pytest.fixture(scope="session")
def trained_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study, fetched, trained, evaluated and reported by the library, without DVC; a copy of one's own."""
    made = once(tmp_path_factory, "trained", lambda root: train_study(root, tiny_params()))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("study"), dirs_exist_ok=True))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables, to be copied: making them costs a second."""

    def make(root: Path) -> None:
        from lossbench.tracking.server import connect

        root.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            connect(root)
        with closing(sqlite3.connect(root / "mlflow.db")) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or the copies would lack what is in -wal

    return once(tmp_path_factory, "store", make) / "mlflow.db"


def pytest_collection_finish() -> None:
    """What was imported stays: no later search for garbage goes through it again."""
    gc.collect()
    gc.freeze()
    gc.enable()
