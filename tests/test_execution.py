"""Filling the store: what is missing is computed, wherever, and the outs are the same bytes however it went."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import ROOT, tiny_params, train_study, write_params
from safetensors.torch import load_file

from benchmarks.fault_study import outliving
from lossbench.errors import GateError, UserError
from lossbench.execution import local
from lossbench.execution.collect import LostError, collect_arm
from lossbench.execution.fill import Arm, Filling, Watch, arm_flow
from lossbench.execution.inline import InlineExecutor
from lossbench.execution.jobs import TRAIN, WEIGHTS, Event, Floors, Job, Where
from lossbench.execution.local import LocalExecutor, where, worker_count
from lossbench.execution.plan import duration, plan, sentences
from lossbench.outs import Outs
from lossbench.params import Params, load_params
from lossbench.recipe import Compute
from lossbench.store import Store


def study_params(**changes: Any) -> dict[str, Any]:
    content = tiny_params()
    content["experiments"].pop("scenes")
    content["datasets"].pop("scenes")
    content["arms"] = {name: arm for name, arm in content["arms"].items() if name.startswith("digits")}
    return content | changes


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two arms with a search, trained one job after another."""
    root = tmp_path_factory.mktemp("study") / "s"
    tuning = {"trials": 2, "seeds": [100], "learning_rate": {"low": 0.001, "high": 0.01}}
    train_study(root, study_params(tuning=tuning, seeds=[0, 1]))
    return root


@pytest.fixture
def own(study: Path, tmp_path: Path) -> Path:
    shutil.copytree(study, tmp_path / "s")
    return tmp_path / "s"


class Counted(Watch):
    """Counts what was computed."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)
        if event.kind == "progress" and event.content[0] == "finished":
            self.trained.append(f"{event.job.arm} {event.content[1]}")  # type: ignore[union-attr]


def filled(root: Path, executor: Any = InlineExecutor, params: Params | None = None) -> Counted:
    """Fill a study's store and write its arms; say what had to be trained."""
    params, outs, watch = params or load_params(root / "params.yaml"), Outs(root), Counted()
    store = Store(str(outs.home / "store"))
    filling = Filling(executor, watch)
    arms = [Arm(params, name, root) for name in params.arms]
    place = where(params, outs, store)
    for arm in arms:
        filling.add(arm.name, lambda arm=arm: arm_flow(arm, store, place, scores=False))  # type: ignore[misc]
    filling.run()
    for arm in arms:
        collect_arm(arm, store, outs)
    return watch


def written(root: Path) -> dict[str, bytes]:
    """All bytes of a study's arms."""
    files = [*root.glob("models/**/*"), *root.glob("reports/tuning/*")]
    return {one.relative_to(root).as_posix(): one.read_bytes() for one in sorted(files) if one.is_file()}


def test_what_is_in_the_store_is_not_trained_again(own: Path) -> None:
    before = written(own)
    assert filled(own).trained == []
    assert written(own) == before


def test_populations_of_at_most_so_many_members_are_jobs_of_their_own(own: Path) -> None:
    compute = {"device": "cpu", "engine": "population", "members": 2}
    keys = []
    for count in (4, 5):
        write_params(own, load(own) | {"compute": compute, "seeds": list(range(count))})
        wanted = Arm(load_params(own / "params.yaml"), "digits-focal", own).replicates({"best": {}})
        assert wanted.together == ((0, 1), (2, 3), (4,))[: -(-count // 2)]
        keys.append(wanted.keys)
    assert keys[1][:4] == keys[0], "a further seed leaves those that are full as they are"


@pytest.mark.parametrize("other", [4, 32, None])
def test_how_many_a_population_may_hold_is_in_no_key_where_it_divides_none(
    other: int | None, own: Path
) -> None:
    """Who shares a population is in all of its members' keys; other companies are other keys."""
    found = []
    for members in (3, other, 2):
        compute = {"device": "cpu", "engine": "population", "members": members}
        write_params(own, load(own) | {"compute": compute, "seeds": [0, 1, 2]})
        arm = Arm(load_params(own / "params.yaml"), "digits-focal", own)
        found.append((*arm.replicates({"best": {}}).keys, arm.identity.scores("w"), arm.identity.shown("w")))
    assert found[1] == found[0]
    assert not set(found[2][:3]) & set(found[0][:3])
    assert found[2][3:] == found[0][3:]


def test_a_further_seed_costs_one_replicate_an_arm(own: Path) -> None:
    write_params(own, study_params(tuning=load(own)["tuning"], seeds=[0, 1, 2]))
    assert sorted(filled(own).trained) == ["digits-cross_entropy 2", "digits-focal 2"]


def test_another_loss_trains_its_own_replicates_alone(own: Path) -> None:
    content = load(own)
    content["losses"]["hinge"] = {"name": "hinge"}
    content["arms"]["digits-hinge"] = {"experiment": "digits", "dataset": "digits", "loss": "hinge"}
    write_params(own, content)
    assert {one.split()[0] for one in filled(own).trained} == {"digits-hinge"}


def load(root: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    content: dict[str, Any] = YAML(typ="safe").load((root / "params.yaml").read_text())
    return content


@pytest.mark.slow
def test_experiments_that_see_their_data_alike_go_each_by_its_own_metric(tmp_path: Path) -> None:
    """One process prepares data once for both; checkpoints and searches go by the metric that decides."""
    content = study_params(seeds=[0])
    one = content["experiments"]["digits"]
    content["experiments"]["other"] = {**one, "metric": "balanced_accuracy"}
    content["arms"] = {
        f"{name}-focal": {"experiment": name, "dataset": "digits", "loss": "focal"}
        for name in ("digits", "other")
    }
    content["comparison"], content["hypotheses"] = {"baseline": "focal"}, {}
    for order in (("digits", "other"), ("other", "digits")):
        root = tmp_path / order[0]
        train_study(
            root, content | {"arms": {f"{one}-focal": content["arms"][f"{one}-focal"] for one in order}}
        )
        store = Store(str(root / ".lossbench/store"))
        params = load_params(root / "params.yaml")
        for name, metric in (("digits", "accuracy"), ("other", "balanced_accuracy")):
            (key,) = Arm(params, f"{name}-focal", root).replicates({"best": {}}).keys
            entry = store.get(TRAIN, key)
            assert entry is not None
            assert entry.content["described"]["monitor"] == metric


@pytest.mark.slow  # quickly by two that are killed, in test_execution_faults.py
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_of_any_number_write_the_same_bytes(
    own: Path, study: Path, workers: int, warm_workers: None
) -> None:
    shutil.rmtree(own / ".lossbench")
    shutil.rmtree(own / "models")
    filled(own, lambda: LocalExecutor(Compute(), workers))
    assert written(own) == written(study)


def test_a_damaged_replicate_is_told_and_trained_anew(
    own: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (own / "models/digits/digits-focal/seed-0.safetensors").read_bytes()
    (file,) = (own / ".lossbench/store/replicates").rglob(hashlib.sha256(weights).hexdigest())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 64
    file.write_bytes(content)
    with pytest.raises(LostError, match="not what was written"):
        filled(own)
    assert len(filled(own).trained) == 1
    assert written(own) == written(study)


def test_a_senseless_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("0", "-1", "two", "1.5", ""):
        monkeypatch.setenv("LOSSBENCH_WORKERS", value)
        with pytest.raises(UserError, match=r"LOSSBENCH_WORKERS is .*; allowed: a whole number from 1"):
            worker_count(Compute())


def test_workers_times_threads_fit_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOSSBENCH_WORKERS", raising=False)
    monkeypatch.setattr(local, "processors", lambda: 7)
    assert [worker_count(Compute(threads=count)) for count in (1, 2, 7, 9)] == [7, 3, 1, 1]


@pytest.mark.slow
def test_a_workers_replicate_of_two_processes_is_kept_under_a_key_of_its_own(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's workers start the processes; weights are those of one process but for rounding."""
    monkeypatch.setattr(local, "processors", lambda: 2)
    name, made, codes = "digits-focal", [], []
    for processes in (1, 2):
        write_params(own, load(own) | {"tuning": {"trials": 0}, "seeds": [0]})
        params = load_params(own / "params.yaml")
        compute = params.compute.model_copy(update={"processes": processes})
        params = params.model_copy(update={"arms": {name: params.arms[name]}, "compute": compute})
        executor = partial(LocalExecutor, compute, worker_count(compute))
        assert filled(own, executor, params).trained == [f"{name} 0"]
        made.append(load_file(Outs(own).arm("digits", name) / "seed-0.safetensors"))
        codes.append(set(Arm(params, name, own).identity.code.files))
    assert all(torch.allclose(made[0][part], made[1][part], rtol=0, atol=1e-4) for part in made[0])
    assert any(not torch.equal(made[0][part], made[1][part]) for part in made[0])
    assert "lossbench.training.ranks" in codes[1] - codes[0]


def test_a_job_that_fails_ends_its_arm_and_the_others_go_on(own: Path) -> None:
    class Failing(InlineExecutor):
        def next(self) -> Event | None:
            event = super().next()
            if event is not None and event.kind == "done" and getattr(event.job, "arm", "") == "digits-focal":
                return Event(event.job, "failed", GateError("planted"))
            return event

    shutil.rmtree(own / ".lossbench/store")
    with pytest.raises(GateError, match="planted"):
        filled(own, Failing)
    kept = Store(str(own / ".lossbench/store"))
    assert sum(kind == TRAIN for kind, _ in kept.entries()) >= 4, "the other arm was finished"


def test_a_worker_whose_code_differs_refuses_the_job(own: Path) -> None:
    params, outs = load_params(own / "params.yaml"), Outs(own)
    store = Store(str(own / "empty"))
    arm = Arm(params, "digits-focal", own)
    (job, *_) = arm.jobs(arm.trials, arm.trials.keys, where(params, outs, store), trial=True)
    executor = InlineExecutor()
    executor.submit([type(job)(**{**vars(job), "keys": ("another",)})])
    event = executor.next()
    assert event is not None
    assert event.kind == "failed"
    assert "code, data or processor differ" in str(event.content)


def test_the_first_job_of_a_group_shows_how_much_memory_the_others_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = LocalExecutor(Compute(), 8)
    jobs = [Floors(Where(Path(), Path(), ""), None, name, "key") for name in ("a", "a", "b")]  # type: ignore[arg-type]
    begun: list[Job] = []

    class Pipe:
        def send(self, job: Job) -> None:
            begun.append(job)

    class Process:
        pid = os.getpid()

        def is_alive(self) -> bool:
            return True

    def start() -> Any:
        worker = local._Worker(Process(), Pipe(), 0)  # type: ignore[arg-type]
        executor._alive.append(worker)
        return worker

    monkeypatch.setattr(executor, "_start", start)
    executor.submit(jobs)
    executor._begin()
    assert begun == [jobs[0], jobs[2]], "one of each group at first"
    executor.peaks = {jobs[0].group: 2**40}
    executor._begin()
    assert len(begun) == 2, "no room beside it"
    executor.peaks = {jobs[0].group: 1}
    executor._begin()
    assert len(begun) == 3


@pytest.fixture
def long(own: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A training that takes hours, run by the stage in a process of its own."""
    content = load(own) | {"tuning": {"trials": 0}}
    content["experiments"]["digits"]["recipe"]["epochs"] = 100_000
    write_params(own, content)
    child = subprocess.Popen(
        [sys.executable, "-m", "lossbench.stages.train", "digits-focal"],
        cwd=own, env={**os.environ, "PYTHONPATH": str(ROOT), "LOSSBENCH_WORKERS": "2"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield own, child
    finally:
        child.kill()
        child.wait()


def training(child: "subprocess.Popen[str]", root: Path) -> list[psutil.Process]:
    """Wait until two replicates are on their way; return the worker processes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = psutil.Process(child.pid).children(recursive=True)
        journals = [one.read_text() for one in root.glob(".lossbench/journal/**/*.jsonl")]
        events = [json.loads(line) for text in journals for line in text.splitlines() if line.endswith("}")]
        begun = Counter(one["seed"] for one in events if one.get("event") == "epoch")
        if sum(count > 2 for count in begun.values()) >= 2 and len(found) >= 2:
            return found
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.2)
    raise AssertionError("nothing was trained within two minutes")


@pytest.mark.slow
def test_sigterm_ends_training_soon_with_its_checkpoints_written(long: tuple[Path, Any]) -> None:
    root, child = long
    family = training(child, root)
    time.sleep(3)
    began = time.monotonic()
    child.terminate()
    assert child.wait(timeout=30) == 143
    assert time.monotonic() - began < 15
    assert not outliving(family, 5)
    assert len(list((root / ".lossbench/store/checkpoints").glob("*.pt"))) == 2
    assert not list((root / ".lossbench/store").rglob("*.part"))


@pytest.mark.slow
def test_a_killed_stage_leaves_no_worker_behind(long: tuple[Path, Any]) -> None:
    root, child = long
    family = training(child, root)
    os.kill(child.pid, signal.SIGKILL)
    assert not outliving(family, 10)


@pytest.mark.slow
def test_a_worker_killed_once_is_replaced_and_twice_is_told(long: tuple[Path, Any]) -> None:
    root, child = long

    def worker() -> psutil.Process | None:
        """Find the youngest process that the workers' server forked."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(child.pid).children(recursive=True)
            forked = [one for one in found if one.ppid() != child.pid]
            return max(forked, key=lambda one: one.create_time(), default=None)
        return None

    training(child, root)
    first = worker()
    assert first is not None
    first.kill()
    time.sleep(3)
    assert child.poll() is None, "it goes on with fewer at a time"
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:  # either of both trainings may be hit first
        one = worker()
        if one is not None:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        time.sleep(3)
    said = child.communicate(timeout=10)[0]
    assert child.returncode == 1
    assert "killed, most likely for memory; it goes on with 1 at a time" in said
    assert "lower 'recipe.batch_size', the trainings side by side (--jobs, or LOSSBENCH_WORKERS)" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_killed_at_random_moments_the_replicates_are_the_undisturbed_ones(own: Path, study: Path) -> None:
    chance = random.Random(3)
    shutil.rmtree(own / ".lossbench")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lossbench.stages.train", "digits-focal"]
    for _ in range(4):
        child = subprocess.Popen(command, cwd=own, env=environment, stderr=subprocess.DEVNULL)
        try:
            child.wait(timeout=1 + chance.random() * 6)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    subprocess.run(command, cwd=own, env=environment, check=True, capture_output=True)
    assert written(own) == written(study)


def test_a_plan_says_what_is_missing_and_how_long_it_takes(own: Path) -> None:
    params, outs = load_params(own / "params.yaml"), Outs(own)
    arms = {name: Arm(params, name, own) for name in params.arms}
    full, empty = Store(str(outs.home / "store")), Store(str(own / "empty"))
    (known,) = plan(params, arms, full, where(params, outs, full), InlineExecutor)
    assert (known.there, known.trials, known.replicates, known.epochs) == (8, 0, 0, 0)
    assert sentences([known], 2) == ["digits: all 8 trainings are done"]
    (told,) = plan(params, arms, empty, where(params, outs, empty), InlineExecutor)
    assert (told.there, told.trials, told.replicates, told.epochs) == (0, 4, 4, 16)
    assert told.seconds is not None
    assert 0 < told.seconds < 60
    first, whole = sentences([told], 2)
    assert first.startswith("digits: 4 trials and 4 replicates to train (16 epochs); ")
    assert whole.startswith("in all about ")
    assert whole.endswith(", with 2 at a time")
    # A trial's two epochs, then a replicate's: no number of workers makes that less.
    paid = replace(told, seconds=10.0, peak=2**30)
    assert sentences([paid], 2)[-1] == "in all about 80 s, with 2 at a time"
    assert sentences([paid], 32)[-1] == "in all about 40 s, with 32 at a time"


def test_a_duration_reads_as_one_says_it() -> None:
    assert [duration(one) for one in (0.2, 89, 600, 86_400)] == ["1 s", "89 s", "10 min", "24.0 h"]


def test_what_is_collected_says_what_was_trained(study: Path) -> None:
    described = json.loads((study / "models/digits/digits-focal/arm.json").read_bytes())
    assert described["loss_parameters"]["gamma"] == 2.0
    assert described["seeds"] == [0, 1]
    assert set(described["epochs"]) == {"0", "1"}
    assert "monitor" not in described
    entry = next(key for kind, key in Store(str(study / ".lossbench/store")).entries() if kind == TRAIN)
    found = Store(str(study / ".lossbench/store")).get(TRAIN, entry)
    assert found is not None
    assert list(found.files) == [WEIGHTS]
