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
from conftest import tiny_params, write_params
from docs_cases import follow, shown_params
from dvc_cases import BIN, checkout, dvc, environment, lock, lossbench, repro
from ruamel.yaml import YAML

from benchmarks.fault_kinds import CLOCK
from benchmarks.fault_study import outliving
from lossbench.store import Store

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


def entries(folder: Path, kind: str = "replicates") -> set[str]:
    """Keys of what the store holds of a kind: replicates, trials of a search among them."""
    return {key for one, key in Store(str(folder / ".lossbench/store")).entries() if one == kind}


def arms(folder: Path, keys: set[str]) -> list[str]:
    """Name the arms of replicates, once for each."""
    store = Store(str(folder / ".lossbench/store"))
    return sorted(entry.content["arm"] for key in keys if (entry := store.get("replicates", key)))


def ran(said: str) -> list[str]:
    """Name the stages that ran, whoever called dvc."""
    return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]


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


FOCAL = ["check", "train@digits-focal", "train@scenes-focal", "evaluate@digits", "evaluate@scenes", "report"]
"""What a change of the focal loss reruns."""


def test_a_changed_loss_reruns_its_arms_and_what_follows_them_and_no_more(study: Path) -> None:
    before = entries(study)
    edit(study, "losses", "focal", "gamma", value=1.5)
    assert sorted(repro(study)) == sorted(FOCAL)
    assert arms(study, entries(study) - before) == ["digits-focal"] * 3 + ["scenes-focal"] * 3


def test_another_seed_trains_one_replicate_an_arm(study: Path) -> None:
    before = entries(study)
    edit(study, "seeds", value=[0, 1, 2, 3])
    assert not any(stage.startswith(("fetch", "validate")) for stage in repro(study))
    assert arms(study, entries(study) - before) == sorted(tiny_params()["arms"])


def test_an_edit_reruns_what_runs_the_edited_code_and_words_rerun_nothing(study: Path) -> None:
    before = entries(study)
    (study / "docs").mkdir()
    (study / "docs/page.md").write_text("words")
    assert repro(study) == []
    margin = study / "lossbench/losses/margin.py"
    margin.write_text('"""Another docstring."""\n\n# and a comment\n' + margin.read_text().split('"""', 2)[2])
    assert repro(study) == ["check"]
    margin.write_text(margin.read_text() + "\n\nEDITED = True\n")  # a loss of no arm
    assert repro(study) == ["check"]
    assert entries(study) == before
    focal = study / "lossbench/losses/distribution.py"
    focal.write_text(focal.read_text() + "\n\nEDITED = True\n")
    assert {"train@digits-focal", "train@scenes-focal"} <= set(repro(study))
    assert {"digits-focal", "scenes-focal"} <= set(arms(study, entries(study) - before))


def test_an_arm_of_one_experiment_reruns_no_other_experiments_evaluation(study: Path) -> None:
    before, scores = entries(study), entries(study, "scores")
    edit(study, "losses", "hinge", value={"name": "hinge"})
    edit(study, "arms", "digits-hinge", value={"experiment": "digits", "dataset": "digits", "loss": "hinge"})
    assert sorted(repro(study)) == ["check", "evaluate@digits", "report", "train@digits-hinge"]
    assert arms(study, entries(study) - before) == ["digits-hinge"] * 3
    assert len(entries(study, "scores") - scores) == 3


@pytest.mark.parametrize(
    "page", ["docs/new-loss.md", "docs/new-model.md", "docs/plugins.md", "plugins/README.md"]
)
def test_following_a_page_word_for_word_computes_its_own_arms_alone(page: str, study: Path) -> None:
    before, scores = entries(study), entries(study, "scores")
    follow(page, study)
    content, shown = YAML(typ="safe").load((study / "params.yaml").read_text()), shown_params(page)
    for block, added in shown.items():
        content[block] |= added
    write_params(study, content)
    run = lossbench(study, "run")
    assert run.returncode == 0, run.stdout + run.stderr
    assert arms(study, entries(study) - before) == sorted([*shown["arms"]] * 3)
    assert len(entries(study, "scores") - scores) == len(shown["arms"]) * 3
    trained = {one for one in ran(run.stdout) if one.startswith("train")}
    assert trained == {f"train@{one}" for one in shown["arms"]}


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


@pytest.mark.parametrize("how", [["--jobs", "1"], ["--jobs", "2"], ["--jobs", "9"]])
def test_a_run_with_any_number_of_workers_gives_the_same_lock(
    how: list[str], done: Path, tmp_path: Path
) -> None:
    folder = checkout(tmp_path, done)
    run = lossbench(folder, "run", *how)
    assert run.returncode == 0, run.stdout + run.stderr
    assert lock(folder) == lock(done)
    assert len(entries(folder)) == 4 * 3


def test_a_run_reruns_what_has_changed_and_no_more(study: Path) -> None:
    before = entries(study)
    idle = lossbench(study, "run")
    assert idle.returncode == 0, idle.stdout + idle.stderr
    assert ran(idle.stdout) == []
    assert [file.name for file in study.glob("mlflow.db*")] == ["mlflow.db"]  # SQLite's log is written back
    edit(study, "losses", "focal", "gamma", value=1.5)
    run = lossbench(study, "run")
    assert run.returncode == 0, run.stdout + run.stderr
    assert ran(run.stdout) == ["check"]  # what was trained anew is collected and reported by the run itself
    assert set(arms(study, entries(study) - before)) == {"digits-focal", "scenes-focal"}


def test_what_the_store_has_is_collected_without_training_when_the_lock_is_gone(study: Path) -> None:
    whole, before = lock(study), entries(study)
    (study / "dvc.lock").unlink()
    run = lossbench(study, "run")
    assert run.returncode == 0, run.stdout + run.stderr
    assert lock(study) == whole
    assert entries(study) == before
    assert ran(run.stdout) == []  # all is done by the run itself, and DVC has it recorded
    assert repro(study) == []


def test_an_arm_that_fails_is_named_and_the_others_are_done(study: Path) -> None:
    before = entries(study)
    edit(study, "losses", "focal", value={"name": "failing:planted"})
    edit(study, "seeds", value=[0, 1, 2, 3])
    (study / "plugins/failing.py").write_text(
        "def planted(logits, target):\n"
        "    if len(target) > 2:  # the check gives two samples\n"
        "        raise RuntimeError('planted')\n"
        "    return logits.square().mean()\n"
    )
    run = lossbench(study, "run")
    assert run.returncode == 1
    assert "planted" in run.stderr
    failed = [line.partition(":")[0] for line in run.stderr.splitlines() if line.endswith(": planted")]
    assert sorted(one for one in failed if one.endswith("focal")) == ["digits-focal", "scenes-focal"]
    assert arms(study, entries(study) - before) == ["digits-cross_entropy", "scenes-cross_entropy"]
    assert not any(stage.startswith("evaluate") for stage in ran(run.stdout))


def test_a_senseless_number_of_jobs_is_refused(study: Path) -> None:
    run = lossbench(study, "run", "--jobs", "0")
    assert run.returncode == 2
    assert "'0'; allowed: a whole number from 1" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_run_ends_within_seconds_of_a_signal(done: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path, done)
    edit(folder, "experiments", "digits", "recipe", "epochs", value=100_000)
    command = [sys.executable, "-m", "lossbench", "run", "--jobs", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=log, stderr=log, process_group=0
        )
    deadline = time.monotonic() + 120
    while not any('"epoch"' in one.read_text() for one in folder.glob(".lossbench/journal/**/*.jsonl")):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.2)
    children = family(process)
    assert len(children) >= 4  # the workers' server, its tracker, and two workers
    began = time.monotonic()
    for _ in range(3):  # as `timeout` and make do, which both pass it on
        process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 20  # seconds for the checkpoints, where hours were left to train
    assert not outliving(children, 5)


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
            assert text.splitlines()[-1].startswith("refused: another `lossbench run` is at work: "), text
    repro(folder)
    assert lock(folder) == lock(done)


def test_a_clock_that_jumps_back_changes_nothing(done: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "study", done)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(CLOCK)
    back = {"PYTHONPATH": str(tmp_path / "site"), "LOSSBENCH_CLOCK_BACK_AT": str(time.time() + 15)}
    run = lossbench(folder, "run", **back)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert repro(folder) == []
    assert lock(folder) == lock(done)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        assert store.execute("SELECT count(*) FROM runs WHERE status != 'FINISHED'").fetchone() == (0,)


def test_a_run_mends_a_lock_file_cut_off_and_a_torn_rwlock(study: Path) -> None:
    whole = (study / "dvc.lock").read_bytes()
    (study / "dvc.lock").write_bytes(whole[: len(whole) // 2])
    (study / ".dvc/tmp").mkdir(exist_ok=True)
    (study / ".dvc/tmp/rwlock").write_text("{")
    run = lossbench(study, "run")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "repaired: " in run.stderr
    assert lock(study) == YAML(typ="safe").load(whole.decode())


COMMANDS = {
    "dvc repro": [str(BIN / "dvc"), "repro"],
    "lossbench run": [sys.executable, "-m", "lossbench", "run"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("who", ["driver", "children", "group"])
def test_killed_at_random_moments_the_next_repro_ends_as_if_undisturbed(
    command: str, who: str, done: Path, tmp_path: Path
) -> None:
    folder = checkout(tmp_path, done)
    draw = random.Random(f"{command} {who}")
    for _ in range(2 if who == "driver" else 1):  # who is left alone meets a second kill, too
        process = subprocess.Popen(
            COMMANDS[command], cwd=folder, env=environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
        time.sleep(draw.uniform(2, 15))
        children = family(process)
        if who == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif who == "driver":
            process.kill()
        else:
            for child in children:
                child.kill()
        process.wait()
        assert not outliving(children, 10)
        # DVC writes dvc.lock and its rwlock in place: a kill in that moment leaves half of one.
        mended = lossbench(folder, "doctor")
        assert mended.returncode == 0, mended.stdout + mended.stderr
    again = subprocess.run(
        COMMANDS[command], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert lock(folder) == lock(done)
