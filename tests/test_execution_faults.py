"""What goes wrong while the store is filled: it is mended or said in a sentence, and the bytes stay the same."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, stage, train_study, write_params
from law_cases import mostly_slow
from test_execution import Counted, filled, load, own, study, study_params, written

from benchmarks.fault_study import outliving
from lossbench.closure import closure
from lossbench.errors import GateError
from lossbench.execution import work
from lossbench.execution.collect import weights_in_models
from lossbench.execution.fill import Arm
from lossbench.execution.inline import InlineExecutor
from lossbench.execution.jobs import SCORES, TRAIN, Event, Score
from lossbench.execution.local import LocalExecutor, where
from lossbench.outs import Outs
from lossbench.params import load_params
from lossbench.recipe import Compute
from lossbench.stages.evaluate import main as evaluate
from lossbench.store import Store

__all__ = ["own", "study"]
HEAVY = {"torch", "pandas", "mlflow", "great_expectations", "scipy", "sklearn", "dvc"}


@pytest.mark.parametrize(
    "arguments", mostly_slow([("evaluate", "digits"), ("train", "digits-focal")], 2), ids=" ".join
)
def test_a_stage_that_only_collects_imports_nothing_heavy(arguments: tuple[str, str], own: Path) -> None:
    before = {one: one.read_bytes() for one in own.rglob("reports/evaluation/**/*.csv")} | written(own)  # type: ignore[operator]
    name, what = arguments
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"lossbench.stages.{name}", what], cwd=own,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "lossbench" in imported
    assert not imported & HEAVY
    after = {one: one.read_bytes() for one in own.rglob("reports/evaluation/**/*.csv")} | written(own)  # type: ignore[operator]
    assert after == before


class KillsIdle(LocalExecutor):
    """Workers that have nothing to do are killed twice, as the kernel may do for memory: one after it costs a second."""

    killed = 0

    def _begin(self) -> None:
        for worker in self._alive:
            if worker.job is None and worker.process.is_alive() and KillsIdle.killed < 2:
                assert worker.process.pid is not None
                os.kill(worker.process.pid, signal.SIGKILL)
                worker.process.join(10)  # its number is gone a moment before its end is known
                KillsIdle.killed += 1
        super()._begin()


class KillsTheServer(LocalExecutor):
    """The server that workers are forked from is killed once, and they with it."""

    killed = 0

    def next(self) -> Event | None:
        event = super().next()
        server = forkserver._forkserver  # type: ignore[attr-defined]
        if event is not None and event.kind == "progress" and not KillsTheServer.killed:
            os.kill(server._forkserver_pid, signal.SIGKILL)
            KillsTheServer.killed += 1
        return event


@pytest.mark.parametrize("kind", [KillsIdle, pytest.param(KillsTheServer, marks=pytest.mark.slow)])
def test_whoever_is_killed_the_same_bytes_are_written(
    own: Path, study: Path, kind: Any, warm_workers: None
) -> None:
    kind.killed = 0
    shutil.rmtree(own / ".lossbench")
    shutil.rmtree(own / "models")
    filled(own, lambda: kind(Compute(), 2))
    assert kind.killed
    assert written(own) == written(study)


def test_code_edited_since_a_worker_imported_it_is_named_and_nothing_is_kept(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's server imports before the driver reads the files: an edit in between is the worker's."""
    old = {**work.LOADED, "lossbench.training.loop": b"EARLIER = True\n"}
    monkeypatch.setattr(work, "LOADED", old)
    shutil.rmtree(own / ".lossbench/store")
    with pytest.raises(
        GateError, match=r"file edited meanwhile \(lossbench\.training\.loop\)\? Run the same again"
    ):
        filled(own)
    assert list(Store(str(own / ".lossbench/store")).entries()) == []


def test_own_code_edited_since_a_worker_imported_it_is_named_and_reloaded_code_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker takes job after job: under a key of what stands there now it would keep what stood there."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(work, "_IMPORTED", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "mine_edited.py"

    def told(source: str) -> list[str]:
        file.write_text(source)
        return work._edited_since(closure(["mine_edited"], tmp_path))

    assert told("def f(): return 1") == [], "not imported yet"
    file.write_text("def f(): return 2")
    module = importlib.import_module("mine_edited")
    try:
        assert told("def f(): return 2  # a comment") == []
        assert told("def f(): return 3") == ["mine_edited"]
        importlib.reload(module)
        assert told("def f(): return 3") == []
        assert told("def f(): return 4") == ["mine_edited"]
    finally:
        del sys.modules["mine_edited"]


def test_scores_are_kept_under_the_drivers_key_or_not_at_all(own: Path) -> None:
    params, outs = load_params(own / "params.yaml"), Outs(own)
    store = Store(str(own / "other"))
    weights = own / "models/digits/digits-focal/seed-0.safetensors"
    executor = InlineExecutor()
    executor.submit([Score(where(params, outs, store), params, "digits-focal", 0, weights, "another", True)])
    event = executor.next()
    assert event is not None
    assert event.kind == "failed"
    assert "code, data or processor differ" in str(event.content)
    assert list(store.entries()) == []


def test_a_missing_seeds_file_is_named_with_what_brings_it_back(own: Path) -> None:
    file = own / "models/digits/digits-focal/seed-1.safetensors"
    file.unlink()
    with pytest.raises(GateError, match=r"seed-1\.safetensors: no such file; `dvc pull` fetches it"):
        weights_in_models(load_params(own / "params.yaml"), "digits", Outs(own))
    run = stage(own, "evaluate", "digits")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


def test_with_models_and_an_empty_store_evaluation_scores_and_trains_nothing(
    own: Path, monkeypatch: pytest.MonkeyPatch, warm_workers: None
) -> None:
    before = {one.name: one.read_bytes() for one in (own / "reports/evaluation/digits").rglob("*.*")}
    shutil.rmtree(own / ".lossbench")
    monkeypatch.chdir(own)
    evaluate(load_params(), "digits")
    kinds = {kind for kind, _ in Store(str(own / ".lossbench/store")).entries()}
    assert SCORES in kinds
    assert TRAIN not in kinds
    after = {one.name: one.read_bytes() for one in (own / "reports/evaluation/digits").rglob("*.*")}
    assert after == before


def test_a_search_all_of_whose_points_diverged_leaves_the_params_as_written(tmp_path: Path) -> None:
    tuning = {"trials": 2, "seeds": [100], "learning_rate": {"low": 1e30, "high": 1e32}}
    train_study(tmp_path / "s", study_params(tuning=tuning, seeds=[0]))
    told = json.loads((tmp_path / "s/reports/tuning/digits-focal.json").read_bytes())
    assert told["best"] == {}
    assert [one["mean"] for one in told["trials"]] == [None, None]
    described = json.loads((tmp_path / "s/models/digits/digits-focal/arm.json").read_bytes())
    assert described["diverged"] == []


def test_a_population_that_lacks_a_member_is_trained_whole_to_the_same_bytes(tmp_path: Path) -> None:
    root = tmp_path / "s"
    tuning = {"trials": 2, "seeds": [100], "learning_rate": {"low": 0.001, "high": 0.01}}
    compute = {"device": "cpu", "engine": "population"}
    train_study(root, study_params(tuning=tuning, seeds=[0, 1], compute=compute))
    before, store = written(root), Store(str(root / ".lossbench/store"))
    params = load_params(root / "params.yaml")
    arm = Arm(params, "digits-focal", root)
    found, _ = arm.found(store)
    assert found is not None
    store.drop(TRAIN, arm.replicates(found).keys[1])
    assert filled(root).trained == ["digits-focal 0", "digits-focal 1"]
    assert written(root) == before


@pytest.mark.slow
def test_workers_train_a_population_to_the_same_bytes(tmp_path: Path, warm_workers: None) -> None:
    root, compute = tmp_path / "s", {"device": "cpu", "engine": "population"}
    train_study(root, study_params(seeds=[0, 1], compute=compute))
    before = written(root)
    shutil.rmtree(root / ".lossbench")
    filled(root, lambda: LocalExecutor(Compute(engine="population"), 2))
    assert written(root) == before


@pytest.mark.slow
def test_two_studies_that_share_a_store_at_once_write_the_same_bytes(
    own: Path, study: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own / ".lossbench")
    shutil.copytree(own, tmp_path / "twin")
    command = [sys.executable, "-m", "lossbench.stages.train", "digits-focal"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOSSBENCH_STORE": str(tmp_path / "shared")}
    both = [
        subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)
        for root in (own, tmp_path / "twin")
    ]
    said = [one.communicate(timeout=240)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert written(own) == written(tmp_path / "twin") == written(study)
    assert Store(str(tmp_path / "shared")).damaged() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_ends_a_stage_without_a_traceback(number: signal.Signals, own: Path) -> None:
    """As Ctrl-C does, which reaches driver, server and workers at once."""
    content = load(own) | {"tuning": {"trials": 0}}
    content["experiments"]["digits"]["recipe"]["epochs"] = 100_000
    write_params(own, content)
    with (own / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lossbench.stages.train", "digits-focal"], cwd=own, process_group=0,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not any(
            one.read_text().count('"epoch"') > 4 for one in own.glob(".lossbench/journal/**/*.jsonl")
        ):
            assert time.monotonic() < deadline, (own / "log").read_text()
            time.sleep(0.2)
        os.killpg(child.pid, number)
        assert child.wait(timeout=30) == 128 + number
    finally:  # else it would train on beside all other tests
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    assert "Traceback" not in (own / "log").read_text()
    assert len(list((own / ".lossbench/store/checkpoints").glob("*.pt"))) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.3, 1.0])
def test_the_workers_server_ends_with_a_killed_driver_while_it_still_imports(after: float, own: Path) -> None:
    shutil.rmtree(own / ".lossbench/store")
    child = subprocess.Popen(
        [sys.executable, "-m", "lossbench.stages.train", "digits-focal"], cwd=own,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (family := psutil.Process(child.pid).children(recursive=True)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(after)
    family = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    assert not outliving(family, 5)


def test_events_of_a_failed_job_reach_the_watch_once(own: Path) -> None:
    """A job that fails is told once, whatever its executor tried before."""
    watch = Counted()
    write_params(own, study_params(tuning={"trials": 0}, seeds=[7]))
    (own / "data/digits/train/inputs.npy").resolve().unlink()
    from lossbench.execution.fill import Filling, arm_flow

    params, outs = load_params(own / "params.yaml"), Outs(own)
    store = Store(str(outs.home / "store"))
    filling = Filling(lambda: LocalExecutor(params.compute, 2), watch)
    arm = Arm(params, "digits-focal", own)
    filling.add(arm.name, lambda: arm_flow(arm, store, where(params, outs, store), scores=False))
    with pytest.raises(FileNotFoundError):
        filling.run()
    assert [one.kind for one in watch.events if one.kind != "progress"] == ["failed"]
