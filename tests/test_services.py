"""A team's study on PostgreSQL, S3 and MLflow's server, on 127.0.0.1 alone: compared, retrained, cloned."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from service_cases import needs_services

from benchmarks.fault_study import (
    REPRO,
    RETRAIN,
    TRACK,
    Study,
    Undisturbed,
    must,
    params,
    set_epochs,
)
from benchmarks.overhead import checkout
from benchmarks.services import Services, Team, services
from benchmarks.small_study import write_params

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900), needs_services]
EPOCHS = 30
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost")


@dataclass(frozen=True)
class Made:
    """What all tests start from.

    Attributes:
        running: the services.
        team: whose record and store the finished study has.
        done: the finished study, its outs pushed.
        right: what it holds.

    """

    running: Services
    team: Team
    done: Study
    right: Undisturbed


def join(study: Study, team: Team) -> None:
    """Have a study record to a team's server, and share its store."""
    study.environment |= team.environment
    study.ask = team.ask


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("services")
    write_params(folder, params())
    fresh = Study(checkout(folder / "fresh", folder / "params.yaml"))
    set_epochs(fresh, EPOCHS)
    with services(folder / "running") as running, running.team("team") as team:
        must(fresh.run("dvc", "remote", "add", "--quiet", "--default", "team", team.remote), fresh)
        done = fresh.copy(folder / "done")
        join(done, team)
        must(done.run(*REPRO), done)
        git(done.folder, "add", "-A")
        git(done.folder, "commit", "-q", "-m", "a finished study")
        must(done.run("dvc", "push", "--quiet"), done)
        yield Made(running, team, done, Undisturbed.of(done))


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_fresh_clone_pulls_everything_and_doubles_nothing(made: Made, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(made.done.folder), "clone")
    clone = Study(tmp_path / "clone")
    join(clone, made.team)
    assert clone.run("dvc", "pull", "--quiet") == 0, clone.said
    assert clone.run("dvc", "repro") == 0, clone.said
    assert "Running stage" not in clone.said[-1]
    assert clone.run(*TRACK) == 0, clone.said
    assert "MLflow: 0 arms recorded now, 2 were there" in clone.said[-1]
    assert not any(made.right.losses(clone).values())


def test_retraining_registers_on_postgresql_what_lies_in_s3(made: Made, tmp_path: Path) -> None:
    study = made.done.copy(tmp_path / "retrained")
    join(study, made.team)
    assert study.run(*RETRAIN) == 0, study.said
    assert "promoted: the first champion" in study.said[-1]
    assert made.team.ask("SELECT alias, version FROM registered_model_aliases") == [("champion", 1)]
    listed = made.running.s3.client().list_objects_v2(Bucket="bucket", Prefix="team/artifacts/")
    assert any(one["Key"].endswith("MLmodel") for one in listed["Contents"])
    assert study.run(*RETRAIN) == 0, study.said
    assert study.said[-1].startswith("nothing new since the last retraining")
