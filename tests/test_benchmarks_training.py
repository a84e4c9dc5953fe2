"""The benchmarks around training run in a tiny form, and what they conclude follows from what they measured."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, tiny_params, write_params
from torch.nn.modules.module import register_module_forward_hook

from benchmarks import common, gpu, overhead, probe, training
from benchmarks.contenders import Way, as_taught, ways
from benchmarks.synthetic import setting, synthetic
from lossbench.models.base import build
from lossbench.recipe import Compute, Network
from lossbench.system import processors
from lossbench.training.member import Member
from lossbench.training.samples import Plan

CASE = training.CASES[0]
GOAL_KEYS = {"name", "goal", "measured", "met"}


def rounds(**seconds: list[float]) -> list[dict[str, dict[str, float]]]:
    count = len(next(iter(seconds.values())))
    return [
        {name.replace("_", " "): {"seconds": each[i], "accuracy": 0.9} for name, each in seconds.items()}
        for i in range(count)
    ]


def run(module: str, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark in a process of its own; read the one JSON it writes."""
    ended = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, "LOSSBENCH_RESULTS": str(tmp_path / "results"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (written,) = (tmp_path / "results").iterdir()
    found: dict[str, Any] = json.loads(written.read_text())
    assert {"machine", "commit", "rows", "goals"} <= set(found)
    assert found["rows"]
    assert all(set(goal) == GOAL_KEYS for goal in found["goals"])
    return found


def test_ratios_are_medians_of_those_within_a_round():
    # Between rounds the machine slows down tenfold: ratios of medians over rounds would say something else.
    taken = rounds(tutorial=[3.0, 30.0, 6.0], lightning=[4.0, 40.0, 8.0], quick=[1.0, 10.0, 3.0])
    assert training.ratio(taken, "tutorial", "quick") == 3.0
    assert training.ratio(taken, "lightning", "quick") == 4.0


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.5, False)])
def test_a_goal_is_met_when_the_ratio_to_each_of_the_others_reaches_it(ours, met):
    taken = [
        {
            "tutorial": {"seconds": 3.3}, "lightning": {"seconds": 3.4},
            "ours, one replicate": {"seconds": ours}, "ours, 8 side by side": {"seconds": ours},
        }
    ]  # fmt: skip
    found = training.goals(CASE, taken)
    assert len(found) == 4
    assert all(set(goal) == GOAL_KEYS and goal["met"] is met for goal in found)


def test_a_row_states_its_rate_and_the_share_of_the_ceiling():
    way = Way("ours", "ours", 1)
    taken = rounds(tutorial=[4.0], lightning=[8.0], ours=[2.0])
    row = training.summary(CASE, way, taken, {"flops": 10**9, "steps": 100}, 200e9)
    assert row["gflops"] == 50.0
    assert row["of_ceiling"] == 0.25
    assert (row["faster_than_tutorial"], row["faster_than_lightning"]) == (2.0, 4.0)


def test_the_others_get_as_many_threads_as_the_machine_has():
    cores = processors()
    chosen = {way.name: way for way in ways(8)}
    assert {chosen[name].threads for name in ("tutorial", "lightning", "ours, one replicate")} == {cores}
    assert chosen["ours, 8 side by side"].threads == 1
    assert {way.precision for way in chosen.values()} == {"fp32", "bf16"}


def test_the_network_as_tutorials_write_it_is_the_same_function():
    built = build(Network(name="lenet"), (1, 28, 28), 10)
    taught = as_taught(built)
    order = [type(part).__name__ for part in taught]
    assert order[:3] == ["Conv2d", "ReLU", "MaxPool2d"]
    images = torch.randn(4, 1, 28, 28)
    assert torch.equal(taught(images), built(images))
    assert {id(one) for one in taught.parameters()} == {id(one) for one in built.parameters()}


def test_the_probe_sees_a_process_its_imports_and_its_children(tmp_path):
    environment = probe.site_folder(tmp_path / "probe")
    code = "import subprocess, sys, decimal; subprocess.run([sys.executable, '-c', 'import time; time.sleep(.2)'])"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    parent, child = probe.read(tmp_path / "probe")
    assert "decimal" in parent.argv[1]
    assert child.wall >= 0.2
    assert parent.born <= child.born <= child.ended <= parent.ended + 0.01
    assert 0 < parent.imports < parent.wall
    assert child.parent == parent.pid
    assert probe.workers_cpu(parent, [parent, child]) < 0.5 * child.cpu


@pytest.mark.slow
def test_the_probe_tells_forked_workers_from_programs(tmp_path):
    environment = probe.site_folder(tmp_path / "probe")
    code = (
        "import os, subprocess, sys, time\n"
        "spin = 'import time\\nwhile time.process_time() < .6: pass'\n"
        "subprocess.run([sys.executable, '-c', spin])\n"
        "if not os.fork():\n    began = time.process_time()\n    while time.process_time() < began + .3: pass\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    found = probe.read(tmp_path / "probe")
    assert probe.workers_cpu(found[0], found) == pytest.approx(0.3, abs=0.15)


def test_time_not_spent_training_is_overhead():
    stage = {"training": 80.0}
    shown = {"shipper": 5.0, "shipper_start": 2.0, "training": 1000.0}
    found = overhead.of_run(100.0, [stage], cores=2, entry=1e-4, count=800)
    found |= overhead.of_hour(found, shown, cores=2)
    found |= {"idle_dvc_repro": 1.4, "all_in_the_store": 16.0, "many_arms_in_the_store": 45.0}
    assert found["share"] == pytest.approx(0.6)
    assert found["journal_share"] == pytest.approx(0.001)
    live = 2 / 7200 + 3 / 1000 + 0.001
    assert found["mlflow_share_of_an_hour"] == pytest.approx(live)
    assert found["share_of_an_hour"] == pytest.approx((60 / 3600 + live) / (1 + 60 / 3600 + live))
    assert [goal["met"] for goal in overhead.goals(found)] == [False, False, True, True, True, False, True]


def measured(wall):
    """A run by itself: 80 processor seconds of training on two processors."""
    programs = {
        "processes": 9,
        "torch": 1,
        "seconds": 2 * wall,
        "imports": 5.0,
        "rest": 2 * wall - 85,
        "training": 80.0,
    }
    rows = [{"what": "workers", **programs}, {"what": "all", **programs}]
    return {"wall": wall, "rows": rows, "keys_seconds": 0.1, "entry": 1e-4, "epochs": 800}


def test_each_part_measured_by_itself_replaces_its_own_row_and_goals_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    shown = {"shipper": 5.0, "shipper_start": 2.0, "training": 1000.0}
    by_name = {
        "share": "everything around training, share of the default `make repro`",
        "hour": "everything around training, extrapolated to an hour of training",
        "idle": "`dvc repro` with nothing changed, seconds",
    }

    def goals(part, found):
        noted = overhead.noted("overhead", part, found, 2)
        met = {one["name"]: one["measured"] for one in noted["goals"]}
        return noted, [met.get(by_name[name]) for name in ("share", "hour", "idle")]

    assert goals("idle", {"n": 1, "seconds": [1.1]})[1] == [None, None, 1.1]
    first, found = goals("run", measured(100.0))
    assert (found, first["rows"][1]["seconds"]) == ([0.6, None, 1.1], 200.0)
    _, (share, hour, _) = goals("live", shown)
    assert share == 0.6
    assert hour > 0.6 * 100 / 3600 / 2
    again, found = goals("run", measured(50.0))  # whose share of an hour is drawn anew from the live part
    assert found[0] == pytest.approx(0.2)
    assert found[1] < hour
    assert (again["rows"][1]["seconds"], found[2]) == (100.0, 1.1)


def process(module, pid, cpu, imports_cpu, children_cpu=0.0, parent=1):
    return probe.Process(("-m", module), 0, 10, imports_cpu, cpu, imports_cpu, children_cpu, pid, parent)


@pytest.mark.parametrize(("trained", "proper"), [(100.0, 1.0), (20.0, 0.5)])
def test_training_proper_is_what_the_workers_took_or_the_replicates_where_that_is_less(trained, proper):
    processes = [
        process("lossbench", 2, 1.0, 0.5, 60.0),
        probe.Process(
            ("-c", "from multiprocessing.forkserver import main"), 0, 10, 2.0, 3.0, 2.0, 40.0, 4, 2, True
        ),
        process("dvc", 3, 2.0, 1.0, 12.0, parent=2),
        process("stages.train", 5, 1.0, 0.5, parent=3),
        process("stages.evaluate", 6, 4.0, 2.0, 5.0, parent=3),
    ]
    rows = overhead.by_program(processes, trained)
    found = {row["what"]: row for row in rows}
    assert found["workers"]["training"] == pytest.approx(40 * proper)
    assert found["workers"]["rest"] == pytest.approx(1 + 40 * (1 - proper))
    assert (found["workers"]["torch"], found["lossbench"]["torch"]) == (1, 0)
    assert (found["stages.evaluate"]["training"], found["stages.evaluate"]["rest"]) == (0, 7)
    assert found["dvc"]["seconds"] == pytest.approx(2 + 12 - (1 + 4 + 5))
    everything = sum(row["seconds"] for row in rows)
    assert everything == pytest.approx(1 + 60)
    assert overhead.idle(rows, 40.0, cores=2)["seconds"] == pytest.approx(80 - 61)


def test_one_pair_that_differs_in_its_bits_misses_the_goal_and_is_no_gpu_result():
    agreed = {"part": "agreement", "tost_p_at_one_percent": 0.001}
    graphs = [{"part": "graphs", "equal": True, "recorded": recorded} for recorded in (True, "no: a sync")]
    rows = [{"part": "losses", "equal": True}, {"part": "variety", "equal": False}, *graphs, agreed]
    equal, recorded, tost = gpu.goals(rows, gpu.TWIN, 1.0)
    assert (equal["measured"], equal["met"], tost["met"]) == (1, False, True)
    assert (recorded["measured"], recorded["met"]) == (1, False)


def test_rows_that_failed_or_came_too_late_meet_no_goal():
    rows = [{"part": "variety", "what": "bad", "error": "RuntimeError: CUDA error: of some kind"},
            {"part": "variety", "what": "good", "equal": True}]  # fmt: skip
    nothing = gpu.goals(rows, gpu.FULL, 9.0)
    assert not any(one["met"] for one in nothing)


@pytest.mark.parametrize("engine", ["loop", "population"])
def test_what_determinism_costs_is_seen_without_it_in_either_engine(engine, tmp_path):
    made = setting(synthetic(tmp_path, "label", (1, 28, 28), 16), gpu.LENET, engine=engine, batch_size=8)
    seen = set()

    def look(*_):
        seen.add(torch.are_deterministic_algorithms_enabled())

    with register_module_forward_hook(look):
        gpu._train(made, 2)
        assert seen == {True}
        seen.clear()
        with gpu.nondeterministic():
            gpu._train(made, 2)
    assert seen == {False}


def test_on_a_gpu_what_is_left_out_is_determinism_and_not_the_precision(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with gpu.nondeterministic(), gpu.loop.deterministic(Compute(device="cuda", precision="fp32")):
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("size", [gpu.FULL, gpu.TWIN], ids=["of a GPU", "the twin's"])
def test_the_first_losses_are_of_as_many_steps_as_their_row_says(size, tmp_path, monkeypatch):
    taken = []

    def trained(made, given):
        taken.append(Plan(made, 0).per_epoch)
        one = SimpleNamespace(history=[SimpleNamespace(value=1.0)])
        return one if isinstance(given, Member) else [one for _ in given]

    monkeypatch.setattr(gpu, "train_population", trained)
    monkeypatch.setattr(gpu, "train_replicate", trained)
    for steps in (1, 5, 10):
        taken.clear()
        gpu._first_losses(tmp_path / str(steps), replace(size, device="cpu"), steps)
        assert set(taken) == {steps}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_comparison_of_training_loops_runs(tmp_path):
    found = run("training", tmp_path, "--small", "--only", "mnist", "--rounds", "1", "--replicates", "2")
    assert {row["way"] for row in found["rows"]} >= {"tutorial", "lightning", "ours, 2 side by side"}
    assert all(row["seconds"] > 0 and 0 < row["of_ceiling"] < 1.5 for row in found["rows"])
    assert len(found["goals"]) == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_overhead_is_measured_stage_by_stage(tmp_path):
    params = tiny_params()
    params["arms"] = {name: arm for name, arm in params["arms"].items() if arm["experiment"] == "digits"}
    del params["experiments"]["scenes"], params["datasets"]["scenes"]
    write_params(tmp_path, params)
    found = run("overhead", tmp_path, "--params", str(tmp_path / "params.yaml"), "--longer", "4", "--rounds", "1", "--arms", "3")  # fmt: skip
    rows = {row["what"]: row for row in found["rows"]}
    assert {"workers", "lossbench", "validation", "dvc"} <= set(rows)
    assert not [name for name in rows if name.startswith("stages.")]  # workers do what stages would
    assert rows["validation"]["torch"] == rows["dvc"]["torch"] == 0
    assert rows["workers"]["torch"] == rows["workers"]["processes"] == 1
    assert rows["workers"]["training"] > 0
    parts = [row["seconds"] for name, row in rows.items() if name != "all"]
    assert sum(parts) == pytest.approx(found["shares"]["wall"] * processors(), rel=0.001)
    assert rows["idle processors"]["seconds"] > 0
    assert {name: found["parts"][name]["n"] for name in ("idle", "store", "arms")} == {"idle": 1, "store": 1, "arms": 1}  # fmt: skip
    assert len(found["goals"]) == 7
    assert found["shares"]["shipper_core_seconds_per_training_core_second"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_twin_on_the_cpu_says_that_it_is_none_of_a_gpu(tmp_path):
    found = run("gpu", tmp_path, "--twin")
    assert "no GPU" in found["device"]
    assert [row for row in found["rows"] if "error" in row] == []
    parts = {"variety", "graphs", "patches", "loop", "speed", "agreement", "losses"}
    assert {row["part"] for row in found["rows"]} == parts
    assert all(row["equal"] for row in found["rows"] if row["part"] in ("losses", "variety", "graphs"))
    assert all(row["recorded"] is True for row in found["rows"] if row["part"] == "graphs")
