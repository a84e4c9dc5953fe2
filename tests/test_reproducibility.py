"""The invariant the product rests on, with DVC and real training of a tiny study."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import write_params
from dvc_cases import BIN, checkout, dvc, environment, lock, python, repro
from ruamel.yaml import YAML

from benchmarks.fault_kinds import CLOCK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return [found for found in psutil.Process(process.pid).children(recursive=True) if found.is_running()]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study after its first dvc repro."""
    folder = checkout(tmp_path_factory.mktemp("done"))
    repro(folder)
    return folder


@pytest.fixture
def study(done: Path, tmp_path: Path) -> Path:
    """A copy of the finished study, its own to change."""
    shutil.copytree(done, tmp_path / "study", symlinks=True)
    return tmp_path / "study"


def edit(folder: Path, *path: str, value: Any) -> None:
    yaml = YAML(typ="safe")
    content = yaml.load((folder / "params.yaml").read_text())
    block = content
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = value
    write_params(folder, content)


def replicates(folder: Path) -> int:
    return len(list((folder / ".lossbench/replicates").iterdir()))


def test_a_forced_fresh_repro_leaves_the_lock_unchanged(study: Path) -> None:
    before = (study / "dvc.lock").read_bytes()
    repro(study, "--force", LOSSBENCH_FRESH="1")
    assert (study / "dvc.lock").read_bytes() == before


def test_the_number_of_workers_changes_nothing(study: Path) -> None:
    before = (study / "dvc.lock").read_bytes()
    repro(study, "--force", LOSSBENCH_FRESH="1", LOSSBENCH_WORKERS="1", OMP_NUM_THREADS="2")
    assert (study / "dvc.lock").read_bytes() == before


def test_with_nothing_changed_nothing_runs(study: Path) -> None:
    assert repro(study) == []


def test_a_changed_loss_reruns_its_arms_and_what_follows_them_and_no_more(study: Path) -> None:
    edit(study, "losses", "focal", "gamma", value=1.5)
    assert sorted(repro(study)) == sorted(
        ["check", "tune@digits-focal", "train@digits-focal", "tune@scenes-focal", "train@scenes-focal",
         "evaluate@digits", "evaluate@scenes", "report"]
    )  # fmt: skip


def test_another_seed_trains_one_replicate_an_arm(study: Path) -> None:
    before = replicates(study)
    edit(study, "seeds", value=[0, 1, 2, 3])
    ran = repro(study)
    assert not any(stage.startswith(("fetch", "validate", "tune")) for stage in ran)
    assert replicates(study) == before + 4


def test_an_edit_of_the_losses_reruns_training_and_one_in_the_docs_nothing(study: Path) -> None:
    (study / "docs").mkdir()
    (study / "docs/page.md").write_text("words")
    assert repro(study) == []
    with (study / "lossbench/losses/margin.py").open("a") as file:
        file.write("# an edit\n")
    ran = repro(study)
    assert "train@digits-focal" in ran
    assert not any(stage.startswith(("fetch", "validate")) for stage in ran)


def test_a_bad_param_stops_the_chain_before_anything_else(study: Path) -> None:
    edit(study, "losses", "focal", "gamma", value=-1)
    run = dvc(study, "repro")
    assert run.returncode != 0
    assert "error: params.yaml: losses.focal.gamma" in run.stderr + run.stdout
    assert "Running stage 'train" not in run.stdout


def test_metrics_and_plots_are_dvcs(study: Path) -> None:
    shown = dvc(study, "metrics", "show")
    assert shown.returncode == 0, shown.stderr
    assert "accuracy" in shown.stdout
    plots = dvc(study, "plots", "show", "--out", "plots")
    assert plots.returncode == 0, plots.stderr


@pytest.mark.parametrize("how", [[], ["--jobs", "1"], ["--jobs", "2"], ["--jobs", "9"]])
def test_arms_side_by_side_give_the_same_lock(how: list[str], done: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path, done)
    run = python(folder, "lossbench", "run", *how)
    assert run.returncode == 0, run.stdout + run.stderr
    assert lock(folder) == lock(done)
    beforehand = "Stage 'evaluate@digits' didn't change, skipping" in run.stdout
    assert beforehand == (how != ["--jobs", "1"]), "one after another, or all arms before the last dvc"


def test_side_by_side_only_what_has_changed_runs(study: Path) -> None:
    idle = python(study, "lossbench", "run")
    assert idle.returncode == 0, idle.stdout + idle.stderr
    assert "Running stage" not in idle.stdout
    assert [file.name for file in study.glob("mlflow.db*")] == ["mlflow.db"]  # SQLite's log is written back
    edit(study, "losses", "focal", "gamma", value=1.5)
    run = python(study, "lossbench", "run")
    assert run.returncode == 0, run.stdout + run.stderr
    ran = [line.split("'")[1] for line in run.stdout.splitlines() if line.startswith("Running stage")]
    assert sorted(ran) == sorted(
        ["check", "tune@digits-focal", "train@digits-focal", "tune@scenes-focal", "train@scenes-focal",
         "evaluate@digits", "evaluate@scenes", "report"]
    )  # fmt: skip


def test_an_arm_that_fails_is_named_and_the_others_are_done(study: Path) -> None:
    (study / "lossbench/losses/margin.py").open("a").write("# an edit\n")
    code = study / "stages/train.py"
    code.write_text(
        code.read_text().replace("    chosen = ", '    assert "focal" not in arm, "planted"\n    chosen = ')
    )
    run = python(study, "lossbench", "run")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        "refused: a stage failed for digits-focal, scenes-focal; its output stands above"
    )
    assert "planted" in run.stderr
    assert "Running stage 'evaluate" not in run.stdout


def test_a_senseless_number_of_jobs_is_refused(study: Path) -> None:
    run = python(study, "lossbench", "run", "--jobs", "0")
    assert run.returncode == 2
    assert "--jobs: '0'; allowed: a whole number from 1, or auto" in run.stderr


def test_arms_side_by_side_end_within_seconds_of_a_signal(done: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path, done)
    edit(folder, "experiments", "digits", "recipe", "epochs", value=100_000)
    command = [sys.executable, "-m", "lossbench", "run", "--jobs", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=log, stderr=log, process_group=0
        )
    deadline = time.monotonic() + 120
    while (said := (tmp_path / "log").read_text()).count("train digits-") < 2:
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    children = family(process)
    assert len(children) >= 4
    began = time.monotonic()
    for _ in range(3):  # as `timeout` and make do, which both pass it on
        process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 20  # seconds for the checkpoints, where hours were left to train
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, f"left running: {[child.cmdline() for child in alive]}"


def test_two_at_once_end_as_one_would(done: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path, done)
    command = [sys.executable, "-m", "lossbench", "run"]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, cwd=folder, env=environment(), **streams) for _ in range(2)]
    said = [one.communicate(timeout=600)[0] for one in both]
    assert sorted(one.returncode for one in both) in ([0, 0], [0, 1]), said
    assert not any("Traceback" in text for text in said)
    for one, text in zip(both, said, strict=True):
        if one.returncode:
            assert text.splitlines()[-1].startswith("refused: another `make repro` is at work: process "), (
                text
            )
    repro(folder)
    assert lock(folder) == lock(done)


def test_a_clock_that_jumps_back_changes_nothing(done: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "study", done)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(CLOCK)
    back = {"PYTHONPATH": str(tmp_path / "site"), "LOSSBENCH_CLOCK_BACK_AT": str(time.time() + 15)}
    ran = python(folder, "lossbench", "run", **back)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    assert repro(folder) == []
    assert lock(folder) == lock(done)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert store.execute("SELECT count(*) FROM runs WHERE status != 'FINISHED'").fetchone() == (0,)


def test_make_repro_mends_a_lock_file_cut_off_and_a_torn_rwlock(study: Path) -> None:
    whole = (study / "dvc.lock").read_bytes()
    (study / "dvc.lock").write_bytes(whole[: len(whole) // 2])
    (study / ".dvc/tmp").mkdir(exist_ok=True)
    (study / ".dvc/tmp/rwlock").write_text("{")
    ran = python(study, "lossbench", "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "repaired: " in ran.stderr
    assert lock(study) == YAML(typ="safe").load(whole.decode())


@pytest.mark.parametrize("who", ["dvc", "stage", "group"])
def test_killed_at_random_moments_the_next_repro_ends_as_if_undisturbed(
    who: str, done: Path, tmp_path: Path
) -> None:
    folder = checkout(tmp_path, done)
    draw = random.Random(who)
    for _ in range(4):
        process = subprocess.Popen(
            [str(BIN / "dvc"), "repro"], cwd=folder, env=environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
        time.sleep(draw.uniform(2, 12))
        children = family(process)
        if who == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif who == "dvc":
            process.kill()
        else:
            for child in children:
                child.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, f"left running: {[child.cmdline() for child in alive]}"
        # DVC writes dvc.lock and its rwlock in place: a kill in that moment leaves half of one.
        mended = python(folder, "lossbench", "doctor")
        assert mended.returncode == 0, mended.stdout + mended.stderr
    repro(folder)
    assert lock(folder) == lock(done)
