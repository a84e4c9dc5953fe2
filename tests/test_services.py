"""A team's study on PostgreSQL, S3 and MLflow's server: compared, retrained, cloned, and each service killed.

All of them listen on 127.0.0.1 alone. More moments of each kill: `python -m benchmarks.faults --only "team's services"`.
"""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from service_cases import needs_services

from benchmarks.fault_services import SERVICES, join, kill_once
from benchmarks.fault_study import (
    REPRO,
    RETRAIN,
    TRACK,
    Study,
    Undisturbed,
    end,
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
        fresh: a checkout in which nothing was run.
        team: whose record and store the finished study has.
        done: the finished study, its outs pushed.
        right: what it holds.
        seconds: that it took.

    """

    running: Services
    fresh: Study
    team: Team
    done: Study
    right: Undisturbed
    seconds: float

    def copy(self, folder: Path, team: Team) -> Study:
        """Make another checkout, on a team's services."""
        made = self.fresh.copy(folder)
        join(made, team)
        return made


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
        began = time.perf_counter()
        must(done.run(*REPRO), done)
        seconds = time.perf_counter() - began
        git(done.folder, "add", "-A")
        git(done.folder, "commit", "-q", "-m", "a finished study")
        must(done.run("dvc", "push", "--quiet"), done)
        yield Made(running, fresh, team, done, Undisturbed.of(done), seconds)


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


def test_two_clones_that_run_at_once_leave_one_record(made: Made, tmp_path: Path) -> None:
    with made.running.team("both") as team:
        pair = [made.copy(tmp_path / name, team) for name in ("one", "other")]
        children = [one.start(*REPRO) for one in pair]
        try:
            assert [one.wait(timeout=600) for one in children] == [0, 0], said(*pair)
        finally:
            for one in children:
                end(one)
        for study in pair:
            assert not any(made.right.losses(study).values())
        assert pair[0].run(sys.executable, "-m", "lossbench", "store", "verify") == 0, pair[0].said


@pytest.mark.long
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_killed_costs_one_command(made: Made, tmp_path: Path, name: str) -> None:
    which, recovery = SERVICES[name]
    with made.running.team(name.split(maxsplit=1)[0].lower()) as team:
        study = made.copy(tmp_path / "study", team)
        kill_once(study, which(team), random.Random(name), made.seconds)  # moments
        assert study.run(*recovery) == 0, said(study)
        assert not any(made.right.losses(study).values()), said(study)
    assert "Traceback" not in said(study)


def test_no_password_stands_anywhere(made: Made) -> None:
    """In what was said and logged, in checkouts, and in the record; the last test of this file."""
    secrets = [made.running.postgres.password, made.running.s3.environment["AWS_SECRET_ACCESS_KEY"]]
    top = made.running.folder.parent
    files = [one for one in top.rglob("*") if one.is_file() and ".dvc/cache" not in str(one)]
    assert len(files) > 100
    told = [one for one in files if any(secret.encode() in one.read_bytes() for secret in secrets)]
    assert told == []
    for table in ("tags", "params", "experiment_tags", "model_version_tags"):
        values = made.team.ask(f"SELECT value FROM {table}")  # noqa: S608  # names of ours
        assert not [value for (value,) in values if any(secret in value for secret in secrets)]


def said(*studies: Study) -> str:
    """All that a study's commands printed."""
    return "\n".join(one.folder.with_suffix(".log").read_text(errors="replace") for one in studies)
