"""Retraining from end to end, with DVC, MLflow's registry and a folder that grows."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import write_params
from dvc_cases import environment
from PIL import Image
from retraining_cases import NAME, add_images, aliases, growing_study, params, records, retrain, runs

from lossbench.lock import REPRO_LOCK, only_one

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return growing_study(tmp_path / "study")


def test_the_whole_life_of_a_champion(study: Path) -> None:
    first = retrain(study)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "promoted: the first champion: accuracy" in first.stdout
    assert aliases(study) == {"champion": "1"}

    before = runs(study)
    # Another study of the same checkout is no reason to retrain this one.
    beside = study / "studies/never-run"
    beside.mkdir(parents=True)
    (beside / "dvc.yaml").symlink_to("../../dvc.yaml")
    write_params(beside, params() | {"root": "../.."})
    again = retrain(study)
    assert (again.returncode, again.stdout) == (0, "nothing new since the last retraining; nothing done\n")
    assert runs(study) == before
    assert len(records(study)) == 1

    add_images(study / "images", 30, 60)
    grown = retrain(study)
    assert grown.returncode == 0, grown.stdout + grown.stderr
    assert [one["outcome"] for one in records(study)] in (["promoted", "promoted"], ["promoted", "kept"])
    last = records(study)[-1]
    assert float(last["challenger_score"]) >= 0.5
    assert int(last["samples"]) > int(records(study)[0]["samples"])
    assert "Retraining" in (study / "reports/retraining.html").read_text()

    for index in range(20):  # the same picture in two classes, many times: no class is what it says
        Image.new("L", (16, 16), index).save(study / "images/0" / f"odd-{index}.png")
    bad = retrain(study)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert records(study)[-1]["outcome"] == "failed"
    assert "the champion stays" in records(study)[-1]["reason"]
    assert retrain(study).returncode == 1  # still bad: it is tried and told again


def test_a_version_says_where_it_comes_from_and_no_secret_is_written_anywhere(study: Path) -> None:
    planted = "planted-6f1d0c"
    ran = retrain(
        study, AWS_SECRET_ACCESS_KEY=planted, MLFLOW_TRACKING_PASSWORD=planted, DATABASE_URL=planted
    )
    assert ran.returncode == 0
    assert planted not in ran.stdout + ran.stderr
    told = [file for file in study.rglob("*") if file.is_file() and planted.encode() in file.read_bytes()]
    assert not told
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.description.startswith("Promoted: the first champion: accuracy")
    assert {"arm", "seed", "dvc_stage", "params_hash", "data_hash"} <= set(version.tags)
    assert version.tags["dvc_stage"].startswith("train@mine-")


STEPS = (
    "create_registered_model",
    "create_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
)
PROMOTER = """
import os, signal, sys, traceback
from pathlib import Path
from lossbench.retraining.registry import Registry
from lossbench.tracking.server import connect
class Deadly:
    def __init__(self, client, step, nth, when):
        self.client, self.step, self.left, self.when = client, step, int(nth), when
    def __getattr__(self, name):
        call = getattr(self.client, name)
        def wrapped(*a, **k):
            self.left -= name == self.step
            here = name == self.step and self.left == 0
            if here and self.when == "before": os.kill(os.getpid(), signal.SIGKILL)
            answer = call(*a, **k)
            if here and self.when == "after": os.kill(os.getpid(), signal.SIGKILL)
            return answer
        return wrapped
def promote(key, step, nth, when):
    registry = Registry(Deadly(connect(Path.cwd()), step, nth, when), "tiny")
    plain = connect(Path.cwd())
    model = plain.search_logged_models([one.experiment_id for one in plain.search_experiments()])[0]
    judged = registry.standing()
    version = registry.register(key, model.model_id, model.source_run_id, {}, "second")
    registry.take_over(version, judged, {"version": version})
"""
FORKING = """
for line in sys.stdin:  # each in a process of its own, which need not import MLflow anew
    child = os.fork()
    if child == 0:
        try:
            promote("key-two", *line.split())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A study with its first champion, and the registry as it was then."""
    folder = growing_study(tmp_path_factory.mktemp("trained") / "study")
    assert retrain(folder).returncode == 0
    return folder, (folder / "mlflow.db").read_bytes()


def put_back(study: Path, registry: bytes) -> None:
    for rest in study.glob("mlflow.db-*"):
        rest.unlink()
    (study / "mlflow.db").write_bytes(registry)


@pytest.fixture
def promoted(trained: tuple[Path, bytes]) -> Path:
    """The same study with its first champion."""
    put_back(*trained)
    return trained[0]


def test_a_kill_between_any_two_steps_of_promotion_leaves_one_champion(
    promoted: Path, trained: tuple[Path, bytes]
) -> None:
    study, died = promoted, 0
    forking = subprocess.Popen(
        [sys.executable, "-c", PROMOTER + FORKING], cwd=study, env=environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert forking.stdin is not None
    assert forking.stdout is not None

    def promote(step: str, nth: int, when: str) -> int:
        print(step, nth, when, file=forking.stdin, flush=True)
        return int(forking.stdout.readline())

    with forking, forking.stdin:
        for step in STEPS:
            for nth in (1, 2):
                for when in ("before", "after"):
                    put_back(*trained)
                    ended = promote(step, nth, when)
                    assert ended in (0, -signal.SIGKILL)
                    died += ended != 0
                    assert aliases(study)["champion"] in ("1", "2"), (step, nth, when)
                    assert promote("never", 1, "before") == 0
                    assert aliases(study) == {"champion": "2", "previous_champion": "1"}, (step, nth, when)
    assert died >= 8
    back = retrain(study, "rollback")
    assert back.returncode == 0, back.stderr
    assert aliases(study) == {"champion": "1", "previous_champion": "2"}
    assert retrain(study, "rollback").returncode == 0
    assert aliases(study) == {"champion": "2", "previous_champion": "1"}


def test_a_second_call_leaves_at_once_and_says_who_is_at_work(study: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-m", "lossbench", "retrain"], cwd=study, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    lock = study / ".lossbench/retraining.lock"
    try:
        deadline = time.monotonic() + 60
        while not (lock.exists() and lock.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        second = retrain(study)
        assert second.returncode == 0
        assert f"another retraining is at work: process {first.pid} on " in second.stdout
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    third = retrain(study)
    assert third.returncode == 0, third.stdout + third.stderr
    assert aliases(study) == {"champion": "1"}


def test_while_make_repro_is_at_work_a_retraining_leaves(study: Path) -> None:
    with only_one(study / ".lossbench" / REPRO_LOCK, "`lossbench run`"):
        ended = retrain(study)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"another `lossbench run` is at work: process {os.getpid()} on " in ended.stdout
    assert not (study / "reports/retraining.csv").exists()


def test_of_many_retrainings_at_once_one_promotes_and_the_others_leave(study: Path) -> None:
    crowd = [
        subprocess.Popen(
            [sys.executable, "-m", "lossbench", "retrain"], cwd=study, env=environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    said = [one.communicate(timeout=600)[0] for one in crowd]
    assert [one.returncode for one in crowd] == [0] * 4, said
    assert sum("promoted: the first champion" in text for text in said) == 1, said
    others = [text for text in said if "promoted" not in text]
    assert all("at work" in text or "nothing new" in text for text in others), said
    assert aliases(study) == {"champion": "1"}
    assert [one["outcome"] for one in records(study)] == ["promoted"]
    with closing(sqlite3.connect(study / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM model_versions").fetchone() == (1,)


def test_promoters_that_share_no_lock_leave_one_champion_and_one_former(promoted: Path) -> None:
    """Two hosts on a file system that passes no locks on: the registry alone has to hold."""
    study = promoted
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", f"{PROMOTER}promote('key-{number}', 'never', 1, 'before')"],
            cwd=study, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    for one in crowd:
        said = one.communicate(timeout=300)[0]
        # Overtaken between writing and reading back, a promoter says so instead of claiming the place.
        assert one.returncode == 0 or "OvertakenError" in said, said
    settled = aliases(study)
    assert settled["champion"] in {"2", "3", "4"}
    assert settled["previous_champion"] in {"1", "2", "3", "4"} - {settled["champion"]}
    # Whom the champion replaced its tags say; the other alias follows them, by the next call at the latest.
    with closing(sqlite3.connect(study / "mlflow.db")) as database:
        asked = "SELECT value FROM model_version_tags WHERE key = 'lossbench.replaces' AND version = ?"
        (former,) = database.execute(asked, (settled["champion"],)).fetchone()
    assert former in {"1", "2", "3", "4"} - {settled["champion"]}
    assert retrain(study, "rollback").returncode == 0
    assert aliases(study) == {"champion": former, "previous_champion": settled["champion"]}


def test_the_notified_command_hears_the_outcome_and_its_failure_fails_nothing(study: Path) -> None:
    content = params()
    content["retraining"]["notify"] = [
        sys.executable, "-c", "import sys, pathlib; pathlib.Path('heard.json').write_text(sys.stdin.read()); sys.exit(3)",
    ]  # fmt: skip
    write_params(study, content)
    ran = retrain(study)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads((study / "heard.json").read_text())["outcome"] == "promoted"
    assert "exited with 3" in ran.stderr
