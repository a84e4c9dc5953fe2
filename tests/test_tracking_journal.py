"""The journal: written before anyone else hears of training, and readable whatever happened."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each

from lossbench.identity import Owner
from lossbench.tracking.journal import EventFile, Tail, read, read_timings
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.provenance import digest
from lossbench.tracking.replay import find_replay
from tests.tracking_study import (
    EPOCHS,
    described,
    journalled,
    replicate,
    tell,
    train,
    write_outs,
    write_study,
)

ROOT = Path(__file__).resolve().parents[1]


def journal_of(root: Path, arm: str) -> Path:
    (path,) = (root / ".lossbench" / "journal" / "toy" / arm).glob("*.jsonl")
    return path


def test_a_training_leaves_its_story_and_its_seconds(tmp_path):
    params = write_study(tmp_path)
    train(tmp_path, params, "toy-focal")
    events = [event["event"] for event in read(journal_of(tmp_path, "toy-focal"))]
    assert events == ["attempt", *["started", *["epoch"] * EPOCHS, "finished"] * 2, "ended"]
    assert read_timings(tmp_path / ".lossbench", "toy-focal") == {0: 1.0, 1: 2.0}


def test_seconds_of_replicates_from_the_store_are_kept(tmp_path):
    params = write_study(tmp_path)
    train(tmp_path, params, "toy-focal")
    with journalled(tmp_path / ".lossbench", described(params, "toy-focal")) as observer:
        stored = replicate("toy-focal", 0)
        observer.finished(type(stored)(**{**vars(stored), "seconds": 0.0, "fresh": False}))
    assert read_timings(tmp_path / ".lossbench", "toy-focal") == {0: 1.0, 1: 2.0}


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_last_line_is_dropped_and_the_rest_is_read(tmp_path, cut):
    params = write_study(tmp_path)
    train(tmp_path, params, "toy-focal")
    path = journal_of(tmp_path, "toy-focal")
    whole = read(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path) == whole[:-1]


def test_a_line_torn_in_the_middle_costs_only_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    for name in ("one", "two", "three"):
        file = EventFile(path)
        file.append(name, {})
        file.close()
        if name == "two":
            path.write_bytes(path.read_bytes()[:-9] + b"\n")
    assert [event["event"] for event in read(path)] == ["one", "three"]


def test_a_tail_sees_every_event_once_though_lines_arrive_in_pieces(tmp_path):
    path = tmp_path / "a.jsonl"
    raw = b"".join(json.dumps({"event": "epoch", "time": 0, "epoch": n}).encode() + b"\n" for n in range(5))
    path.write_bytes(b"")
    tail, seen = Tail(path), []
    for start in range(0, len(raw), 13):
        with path.open("ab") as file:
            file.write(raw[start : start + 13])
        seen += [event["epoch"] for event in tail.new()]
    assert seen == list(range(5))


@given(st.binary(max_size=200))
def test_no_garbage_breaks_the_reader(tmp_path_factory, garbage):
    path = tmp_path_factory.mktemp("j") / "a.jsonl"
    path.write_bytes(garbage + b'\n{"event": "ended", "time": 1}\n')
    assert read(path)[-1] == {"event": "ended", "time": 1}


def test_a_killed_process_loses_no_event(tmp_path):
    """SIGKILL right after an append: what was appended is there."""
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from lossbench.tracking.journal import JournalObserver;"
        "o = JournalObserver(Path(sys.argv[1]), {'arm': 'a', 'experiment': 'e'});"
        "[o.epoch(0, n, {'train/loss': 1.0 / n}) for n in range(1, 101)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = tmp_path.glob("journal/e/a/*.jsonl")
    assert [event["epoch"] for event in read(path) if event["event"] == "epoch"] == list(range(1, 101))


def test_the_outcome_of_training_is_the_outcome_of_the_attempt(tmp_path):
    params = write_study(tmp_path)
    home = tmp_path / ".lossbench"
    for number, (error, status) in enumerate([(SystemExit, "KILLED"), (ValueError, "FAILED")]):
        content = {**described(params, "toy-focal"), "arm": f"arm{number}"}
        with pytest.raises(error), journalled(home, content):
            raise error
        (path,) = home.glob(f"journal/toy/arm{number}/*.jsonl")
        assert read(path)[-1]["status"] == status


def test_training_goes_on_where_the_journal_cannot_be_written(tmp_path, capsys):
    params = write_study(tmp_path)
    (tmp_path / ".lossbench").write_text("a file where the folder should be")
    train(tmp_path, params, "toy-focal")
    assert "training goes on" in capsys.readouterr().err
    assert ArmOuts(tmp_path, "toy", "toy-focal").exist()


def test_an_epoch_costs_training_less_than_a_millisecond(tmp_path):
    params = write_study(tmp_path)
    with journalled(tmp_path / ".lossbench", described(params, "toy-focal")) as observer:
        start = time.process_time()
        for epoch in range(1, 1001):
            observer.epoch(0, epoch, {"train/loss": 0.1, "validation/accuracy": 0.9})
        assert (time.process_time() - start) / 1000 < 1e-3


def test_training_pays_for_no_mlflow():
    heavy = "('mlflow', 'torch', 'pandas')"
    code = f"import sys, lossbench.tracking.journal; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_journal_is_believed_only_where_it_tells_what_the_outs_hold(tmp_path):
    params = write_study(tmp_path)
    train(tmp_path, params, "toy-focal")
    outs = ArmOuts(tmp_path, "toy", "toy-focal")
    told = find_replay(outs)
    assert told is not None
    assert told.histories == outs.history
    write_outs(tmp_path, params, "toy-focal", shift=0.5)
    assert find_replay(ArmOuts(tmp_path, "toy", "toy-focal")) is None


def test_a_resumed_training_tells_its_whole_history_at_the_end(tmp_path):
    """After a resume only the later epochs are seen live; `finished` brings the earlier ones."""
    params = write_study(tmp_path, seeds=1)
    done = replicate("toy-focal", 0)
    with journalled(tmp_path / ".lossbench", described(params, "toy-focal")) as observer:
        observer.started(0, EPOCHS)
        last = {f"{one.split}/{one.metric}": one.value for one in done.history if one.epoch == EPOCHS}
        observer.epoch(0, EPOCHS, last)
        observer.finished(done)
    write_outs(tmp_path, params, "toy-focal")
    assert find_replay(ArmOuts(tmp_path, "toy", "toy-focal")) is not None


def test_an_owner_is_dead_when_its_process_is_gone_or_its_number_was_reused(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    me = Owner.me()
    assert not me.dead()
    assert Owner(me.host, me.boot, os.getpid(), me.started - 100).dead()
    assert Owner(me.host, "another boot", me.pid, me.started).dead()
    assert not Owner("another host", "x", 1, 0).dead()
    child.kill()
    child.wait()
    assert Owner(me.host, me.boot, child.pid, me.started).dead()


@given(st.lists(st.text(max_size=5), max_size=4))
def test_a_digest_keeps_its_parts_apart(parts):
    assert digest(*parts) != digest(*parts, "")
    assert digest("".join(parts), 1) != digest("".join(parts), "1")


def test_a_killed_attempt_can_be_told_from_one_that_goes_on(tmp_path):
    params = write_study(tmp_path)
    with journalled(tmp_path / ".lossbench", described(params, "toy-focal")) as observer:
        tell(observer, replicate("toy-focal", 0), until=1)
        assert read(journal_of(tmp_path, "toy-focal"))[-1]["event"] == "epoch"


ROOMS = sorted((ROOT / "lossbench" / "tracking").glob("*.py"))


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    named = {f"{node.module}.{one.name}" for node in nodes for one in node.names if node.module}
    return {name for name in named | {str(node.module) for node in nodes} if name.startswith("lossbench.")}


@each("path", ROOMS)
def test_tracking_imports_nothing_that_builds_on_it(path):
    above = ("serving", "retraining", "reporting", "doctor", "scheduling")
    assert [
        name for name in imported(path) if name.startswith(tuple(f"lossbench.{one}" for one in above))
    ] == []
