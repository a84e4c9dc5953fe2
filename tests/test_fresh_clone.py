"""A clone with a DVC remote shows the whole comparison without training anything."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from dvc_cases import checkout, dvc, environment, repro

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a finished study, its outs pulled from the remote; the original is gone."""
    original = checkout(tmp_path_factory.mktemp("original"))
    git(original, "init", "-q")
    # Before DVC runs: it would write .gitignore files of its own into the folders that stages depend on.
    shutil.copy(ROOT / ".gitignore", original / ".gitignore")
    (original / ".dvc/config").write_text("[core]\n    analytics = false\n    remote = shelf\n")
    remote = tmp_path_factory.mktemp("shelf")
    assert dvc(original, "remote", "add", "shelf", str(remote)).returncode == 0
    repro(original)
    git(original, "add", "-A")
    git(original, "commit", "-q", "-m", "a finished study")
    assert dvc(original, "push", "-q").returncode == 0
    folder = tmp_path_factory.mktemp("clones") / "clone"
    git(original.parent, "clone", "-q", str(original), str(folder))
    shutil.rmtree(original)
    pulled = dvc(folder, "pull", "-q")
    assert pulled.returncode == 0, pulled.stderr
    return folder


def test_a_clone_with_a_remote_needs_no_training(clone: Path) -> None:
    assert repro(clone) == []
    assert not (clone / ".lossbench/store").exists()


def test_a_clone_s_runs_stand_in_mlflow_after_make_track(clone: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "lossbench", "track"],
        cwd=clone,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    shelves = [one.experiment_id for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs(shelves, max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    arms = {run.data.tags["arm"] for run in parents}
    assert arms == {"digits-cross_entropy", "digits-focal", "scenes-cross_entropy", "scenes-focal"}
    assert {run.data.tags["origin"] for run in parents} == {"restored from outs"}
    assert len(runs) - len(parents) == 4 * 3
    assert {run.info.status for run in runs} == {"FINISHED"}
