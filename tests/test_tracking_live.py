"""The live shipper: shows running arms while they train, and never gets in their way."""

import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from lossbench.params import load_params
from lossbench.tracking import journal, live
from lossbench.tracking.experiment import BEAT, SHIPPED, open_experiment
from lossbench.tracking.live import LiveAttempt, Shipper
from lossbench.tracking.server import connect
from lossbench.tracking.track import SHIPPER, track
from lossbench.tracking.ui import end_group, free_port, mlflow_server
from tests.test_tracking_ship import assert_mirrors, role, runs_of
from tests.tracking_study import described, journalled, replicate, tell, train, write_outs, write_study

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def study(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_study(tmp_path, losses=("focal",))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def shipper_of(root):
    return Shipper(load_params(root / "params.yaml"), root)


def turn(shipper):
    """One round of the shipper's loop."""
    shipper._find()
    for attempt in shipper._attempts:
        attempt.read()
    return shipper.ship()


def test_a_running_arm_is_seen_epoch_by_epoch(study):
    params = load_params(study / "params.yaml")
    shipper = shipper_of(study)
    with journalled(study / ".lossbench", described(params, "toy-focal")) as observer:
        tell(observer, replicate("toy-focal", 0))
        tell(observer, replicate("toy-focal", 1), until=1)
        turn(shipper)
        runs = {run.data.tags.get("seed", "parent"): run for run in runs_of(study)}
        assert {name: run.info.status for name, run in runs.items()} == {
            "parent": "RUNNING",
            "0": "FINISHED",
            "1": "RUNNING",
        }
        assert runs["1"].data.metrics["train/loss"] == replicate("toy-focal", 1).history[0].value


def test_a_silent_training_gives_signs_of_life(study, monkeypatch):
    """On another machine nothing else tells a long epoch from death."""
    params = load_params(study / "params.yaml")
    shipper = shipper_of(study)
    with journalled(study / ".lossbench", described(params, "toy-focal")) as observer:
        tell(observer, replicate("toy-focal", 0), until=1)
        turn(shipper)
        began = {run.info.run_id: run.data.tags[BEAT] for run in runs_of(study)}
        monkeypatch.setattr(live, "BEATS", 0.0)
        monkeypatch.setattr(live.time, "time", lambda: 2e9)
        turn(shipper)
        assert len(began) == 2
        assert {run.data.tags[BEAT] for run in runs_of(study)} == {"2000000000"}


def test_what_was_shown_live_keeps_its_addresses_and_becomes_whole(study):
    params = load_params(study / "params.yaml")
    shipper = shipper_of(study)
    with journalled(study / ".lossbench", described(params, "toy-focal")) as observer:
        turn(shipper)
        for seed in params.seeds:
            tell(observer, replicate("toy-focal", seed))
            turn(shipper)
    turn(shipper)
    live_ids = {run.info.run_id for run in runs_of(study)}
    write_outs(study, params, "toy-focal")
    track(params, study)
    assert_mirrors(study, arms=1)
    assert {run.info.run_id for run in runs_of(study)} == live_ids


@pytest.mark.slow
@pytest.mark.parametrize("death", range(1, 12))
def test_a_pass_that_dies_while_adopting_live_runs_leaves_nothing_doubled(study, monkeypatch, death):
    from lossbench.tracking.server import ServerGoneError
    from tests.test_tracking_ship import DyingServer

    params = load_params(study / "params.yaml")
    shipper = shipper_of(study)
    with journalled(study / ".lossbench", described(params, "toy-focal")) as observer:
        turn(shipper)
        for seed in params.seeds:
            tell(observer, replicate("toy-focal", seed))
    turn(shipper)
    write_outs(study, params, "toy-focal")
    dying = DyingServer(connect(study), 4 + death, after=bool(death % 2))
    with monkeypatch.context() as patch:
        patch.setattr("lossbench.tracking.track.connect", lambda _: dying)
        with pytest.raises(ServerGoneError):
            track(params, study)
    track(params, study)
    assert_mirrors(study, arms=1)


def test_a_doubtful_attempt_is_written_again_whole(study):
    """A call that failed may have done its work: the runs are deleted and written again."""
    params = load_params(study / "params.yaml")
    path = None
    with journalled(study / ".lossbench", described(params, "toy-focal")) as observer:
        (path,) = study.glob(".lossbench/journal/toy/toy-focal/*.jsonl")
        attempt = LiveAttempt(path, "(root)")
        shelf = open_experiment(connect(study), params, study, "toy")
        log = shelf.log

        def log_and_die(*arguments):
            log(*arguments)
            raise ConnectionError("the answer was lost")

        shelf.log = log_and_die
        tell(observer, replicate("toy-focal", 0))
        attempt.read()
        with pytest.raises(ConnectionError):
            attempt.ship(shelf)
        shelf.log = log
        tell(observer, replicate("toy-focal", 1))
    attempt.read()
    attempt.ship(shelf)
    parents = role(runs_of(study), "arm")
    assert len(parents) == 1
    assert SHIPPED in parents[0].data.tags
    write_outs(study, params, "toy-focal")
    track(params, study)
    assert_mirrors(study, arms=1)


@pytest.mark.slow
def test_a_killed_training_is_closed_as_killed(study):
    params = load_params(study / "params.yaml")
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from tests.tracking_study import *;"
        "o = JournalObserver(Path('.lossbench'), described(load_params(), 'toy-focal'));"
        "tell(o, replicate('toy-focal', 0), until=2); print('ready', flush=True); time.sleep(60)"
    )
    training = subprocess.Popen(
        [sys.executable, "-c", code, "x", str(ROOT)], cwd=study, stdout=subprocess.PIPE, text=True
    )
    assert training.stdout.readline() == "ready\n"
    shipper = shipper_of(study)
    turn(shipper)
    assert {run.info.status for run in runs_of(study)} == {"RUNNING"}
    training.kill()
    training.communicate()
    turn(shipper)
    assert {run.info.status for run in runs_of(study)} == {"KILLED"}
    assert {run.data.tags["lossbench.current"] for run in role(runs_of(study), "arm")} == {"false"}
    train(study, params, "toy-focal")  # the next run goes on and ends
    track(params, study)
    assert_mirrors(study, arms=1)
    assert len(role(runs_of(study), "arm")) == 1


def test_runs_deleted_by_hand_stop_the_live_view_only(study):
    params = load_params(study / "params.yaml")
    shipper = shipper_of(study)
    with journalled(study / ".lossbench", described(params, "toy-focal")) as observer:
        tell(observer, replicate("toy-focal", 0), until=1)
        turn(shipper)
        for run in runs_of(study):
            connect(study).delete_run(run.info.run_id)
        tell(observer, replicate("toy-focal", 0))
        assert turn(shipper)
    train(study, params, "toy-focal")
    track(params, study)
    assert_mirrors(study, arms=1)


def test_a_dead_server_slows_no_training(study, monkeypatch):
    """The observer never waits: the shipper is another process, and the port is closed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(journal, "LIVE_AFTER", 0.0)
    params = load_params(study / "params.yaml")
    monkeypatch.chdir(study)
    start = time.monotonic()
    train(study, params, "toy-focal")
    assert time.monotonic() - start < 2.0


@pytest.mark.slow
def test_a_long_training_starts_one_shipper_that_ends_after_it(study, monkeypatch):
    monkeypatch.setattr(journal, "LIVE_AFTER", 0.0)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(study)
    params = load_params(study / "params.yaml")
    with journalled(study / ".lossbench", described(params, "toy-focal")) as observer:
        tell(observer, replicate("toy-focal", 0))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not runs_of(study):
            time.sleep(0.3)
        assert {run.info.status for run in runs_of(study)} <= {"RUNNING", "FINISHED"}
        tell(observer, replicate("toy-focal", 1))
    write_outs(study, params, "toy-focal")
    track(params, study)  # waits for the shipper to finish the arm
    assert_mirrors(study, arms=1)
    assert len(role(runs_of(study), "arm")) == 1


def test_sending_rests_until_it_took_its_share_of_the_machine_and_ends_with_training(tmp_path, monkeypatch):
    """The clock stands still but for sleeps; each sending takes two seconds of one of two processors."""
    now, spent, sent, looks = [0.0], [0.0], [], itertools.count()
    monkeypatch.setattr(live, "processors", lambda: 2)
    monkeypatch.setattr(live, "SHARE", 0.05)
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(live.time, "process_time", lambda: spent[0])
    monkeypatch.setattr(live.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(live, "LONGEST", 20.0)
    attempt = types.SimpleNamespace(status=None, done=False)
    early = types.SimpleNamespace(status=None, done=False, read=lambda: None)
    shipper = Shipper(write_study(tmp_path), tmp_path)

    def read():
        look = next(looks)
        attempt.status = "FINISHED" if look == 45 else None
        early.status = "FINISHED" if look >= 12 else None

    def ship():
        sent.append(now[0])
        spent[0] += 2.0
        early.done = early.status is not None
        return True

    attempt.read = read
    shipper._attempts += [attempt, early]
    monkeypatch.setattr(shipper, "_find", lambda: None)
    monkeypatch.setattr(shipper, "ship", ship)
    shipper.run()
    assert sent == [0.0, 20.0, 12 * live.POLL, 44.0, 64.0, 84.0, 45 * live.POLL]
    assert live.POLL < SHIPPER / 2  # what ended is there before `lossbench track` gives up waiting for it


@pytest.mark.slow
def test_a_server_killed_and_restarted_at_random_ends_with_a_complete_record(
    tmp_path, empty_store, monkeypatch
):
    """SIGKILL to the server a few times while arms train and the shipper ships; then one `make track`."""
    monkeypatch.setattr(live, "POLL", 0.05)
    monkeypatch.setattr(live, "RETRY", 0.2)
    monkeypatch.setattr(live, "SHARE", 1.0)
    params = write_study(tmp_path, losses=("cross_entropy", "focal", "dice"), seeds=4)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    port, chance = free_port(0), random.Random(1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    over = threading.Event()
    kills = []

    def serve():
        while not over.is_set():
            server = _server(tmp_path, port)
            over.wait(chance.uniform(4, 9))
            if not over.is_set():
                kills.append(time.monotonic())
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
                over.wait(chance.uniform(0.1, 1))
            else:
                end_group(server)

    keeper = threading.Thread(target=serve)
    keeper.start()
    try:
        for arm in params.arms:
            shipper = Shipper(params, tmp_path)
            with journalled(tmp_path / ".lossbench", described(params, arm)) as observer:
                shipping = threading.Thread(target=shipper.run)
                shipping.start()
                for seed in params.seeds:
                    tell(observer, replicate(arm, seed))
                    time.sleep(chance.uniform(0.5, 3))
            shipping.join(60)
            assert not shipping.is_alive()
            write_outs(tmp_path, params, arm)
    finally:
        over.set()
        keeper.join(60)
    assert len(kills) >= 2
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "server.log", port) as base:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", base)
        track(params, tmp_path)
        assert_mirrors(tmp_path, arms=3, seeds=4)


def _server(root: Path, port: int) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{root / 'mlflow.db'}",
    ]
    with (root / "server.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )


@pytest.mark.slow
def test_the_ui_ends_its_children(tmp_path, empty_store):
    write_study(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    port = free_port(0)
    ui = subprocess.Popen(
        [sys.executable, "-u", "-m", "lossbench", "ui", "--port", str(port)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ui.stdout.readline() == f"MLflow: http://127.0.0.1:{port}\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    ui.send_signal(signal.SIGTERM)
    ui.communicate(timeout=30)
    assert ui.returncode == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
