"""What a crash leaves is repaired; what is good, and what a living process holds, stays."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from ruamel.yaml import YAML

from lossbench.doctor import examine, find_repository, guarded
from lossbench.doctor.living import at_work
from lossbench.doctor.lockfile import examine_lockfile
from lossbench.execution.lineage import write_lineage
from lossbench.identity import Owner, part_name
from lossbench.outs import Outs
from lossbench.params import load_params
from lossbench.store import Store
from lossbench.tracking.journal import EventFile, read
from lossbench.training.checkpoint import Checkpoint
from tests.conftest import ROOT, in_process, stage, tiny_params, write_params

DEAD = 2**22 + 1  # beyond any process number
ENTRY = "  {name}:\n    cmd: python -m stages.{name}\n    outs:\n    - path: {name}.txt\n      hash: md5\n      md5: {md5}\n      size: 3\n"


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("LOSSBENCH_HOME", raising=False)
    root = tmp_path / "study"
    (root / ".dvc/tmp").mkdir(parents=True)
    write_params(root, tiny_params())
    git(root, "init", "-q")
    return root


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@x")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def lock_text(*names: str, md5: str = "a" * 32) -> str:
    return "schema: '2.0'\nstages:\n" + "".join(ENTRY.format(name=name, md5=md5) for name in names)


def repair(root: Path) -> list[str]:
    """Repair everything; a second examination must find nothing."""
    with guarded(find_repository(root)) as undisturbed:
        made = examine(root, undisturbed)
        assert made.busy == []
        for one in made.findings:
            one.repair()
        assert examine(root, undisturbed).findings == []
    return [f"{one.what}; {one.cure}" for one in made.findings]


def test_a_healthy_study_has_nothing_to_repair(study):
    (study / "dvc.lock").write_text(lock_text("fetch", "train"))
    assert repair(study) == []


@pytest.mark.parametrize("content", ["", '{"read": {"/x": [{"pi', "[]", '{"write": {"/x": {"pid": "1"}}}'])
def test_a_torn_rwlock_is_removed(study, content):
    (study / ".dvc/tmp/rwlock").write_text(content)
    assert len(repair(study)) == 1
    assert not (study / ".dvc/tmp/rwlock").exists()


def test_entries_of_dead_processes_leave_the_rwlock_and_living_ones_stay(study):
    dead, living = {"pid": DEAD, "cmd": "dvc repro"}, {"pid": os.getpid(), "cmd": "dvc repro"}
    path = study / ".dvc/tmp/rwlock"
    path.write_text(json.dumps({"read": {"/a": [dead, living], "/b": [dead]}, "write": {"/c": dead}}))
    assert len(repair(study)) == 1
    assert json.loads(path.read_text()) == {"read": {"/a": [living]}, "write": {}}


def test_a_reused_process_number_does_not_hold_a_lock_for_ever(study):
    path = study / ".dvc/tmp/rwlock"
    path.write_text(json.dumps({"write": {"/c": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    before = psutil.Process().create_time() - 3600
    os.utime(path, (before, before))
    assert len(repair(study)) == 1
    assert not path.exists()


def test_nothing_of_dvc_is_touched_while_its_lock_is_held(study):
    torn = study / ".dvc/tmp/rwlock"
    torn.write_text("{")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl,sys,time; f=open(sys.argv[1],'a'); fcntl.flock(f,2); print(flush=True); time.sleep(60)",
         str(study / ".dvc/tmp/lock")], stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        holder.stdout.readline()
        done = stage(study, "doctor")
    finally:
        holder.kill()
        holder.wait()
    assert done.returncode == 1
    assert "at work" in done.stderr
    assert torn.read_text() == "{"


def test_a_lock_file_cut_anywhere_gives_way_to_git_s_and_is_valid_afterwards(study):
    """Cut between two entries it is valid, and DVC runs what is missing: from its run cache, and the store."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    path, text = study / "dvc.lock", lock_text("fetch", "train", "report")
    merged = text.replace("  train:\n", "  train:\n<<<<<<< HEAD\n")
    for committed in (None, lock_text("fetch", "report", md5="b" * 32)):
        if committed is not None:
            path.write_text(committed)
            git(study, "add", "dvc.lock")
            git(study, "commit", "-qm", "x")
        for broken in (merged, *(text[:cut] for cut in range(0, len(text), 7))):
            path.write_text(broken)
            for one in examine_lockfile(study, study / "kept"):
                one.repair()
                assert ("put back" in one.cure) == (committed is not None)
                assert path.read_text() == committed if committed is not None else not path.exists()
            assert examine_lockfile(study, study / "kept") == []
            if path.exists():
                COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(path.read_text()))
    assert merged in [kept.read_text() for kept in (study / "kept").iterdir()]


def key(name: str) -> str:
    """A name as checkpoints and replicates have: a hash."""
    return hashlib.sha256(name.encode()).hexdigest()


def test_checkpoints_that_are_torn_or_abandoned_go_and_others_stay(study):
    folder = study / ".lossbench/store/checkpoints"
    for name in ("good", "torn", "old"):
        Checkpoint(folder / f"{key(name)}.pt").save({"step": torch.ones(2)})
    raw = (folder / f"{key('torn')}.pt").read_bytes()
    (folder / f"{key('torn')}.pt").write_bytes(raw[:-5])
    os.utime(folder / f"{key('old')}.pt", (time.time() - 40 * 86400,) * 2)
    mine = part_name(f"{key('mine')}.pt")
    (folder / mine).write_bytes(b"x")
    (folder / mine.replace(f".{os.getpid()}-", f".{DEAD}-")).write_bytes(b"x")
    assert len(repair(study)) == 3
    assert {path.name for path in folder.iterdir()} == {f"{key('good')}.pt", mine}


def test_a_damaged_entry_of_the_store_goes_and_whole_ones_stay(study):
    store = Store(str(study / ".lossbench/store"))
    for name in ("good", "torn"):
        store.put("replicates", key(name), {"seed": 1}, {"state.safetensors": name.encode() * 100})
    (file,) = (study / f".lossbench/store/replicates/{key('torn')[:2]}/{key('torn')}").glob("[!e]*")
    file.write_bytes(file.read_bytes()[:-40])
    assert len(repair(study)) == 1
    assert store.get("replicates", key("torn")) is None
    assert store.get("replicates", key("good")) is not None


STRANGERS = [
    "checkpoints/my-resnet.pt", "checkpoints/epoch.12.part", "replicates/of-mine/photo.jpg", "downloads/film.part",
    "downloads/tmpab12cd3_", "timings/lap.txt",
]  # fmt: skip


def test_files_of_others_that_look_like_halves_stay(study, tmp_path, monkeypatch):
    home = tmp_path / "scratch"
    monkeypatch.setenv("LOSSBENCH_HOME", str(home))
    theirs = [home / name for name in STRANGERS]
    theirs += [study / ".photos.part", study / "data/.photos.part", study / "data/.pets.part/cat/1.png"]
    for file in theirs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"theirs")
        os.utime(file, (time.time() - 400 * 86400,) * 2)
    assert repair(study) == []
    assert all(file.read_bytes() == b"theirs" for file in theirs)


def test_half_downloads_and_half_datasets_go_and_whole_ones_stay(study):
    shelf = study / ".lossbench/downloads/mnist"
    shelf.mkdir(parents=True)
    (shelf / "tmpab12cd3_").write_bytes(b"half")
    (shelf / "whole.gz").write_bytes(b"whole")
    (shelf / ".part-x").mkdir()
    (shelf / ".part-x" / "a.tgz").write_bytes(b"half")
    (study / "data/.digits.part").mkdir(parents=True)
    (study / "data/digits").mkdir()
    assert repair(study) == []  # they may be another machine's, which is writing them
    for path in (*shelf.rglob("*"), study / "data/.digits.part"):
        os.utime(path, (time.time() - 3600,) * 2)
    assert len(repair(study)) == 3
    assert [path.name for path in shelf.iterdir()] == ["whole.gz"]
    assert [path.name for path in (study / "data").iterdir()] == ["digits"]


def journal(study: Path, name: str, owner: Owner) -> Path:
    path = study / f".lossbench/journal/digits/digits-focal/{name}.jsonl"
    file = EventFile(path)
    file.append("attempt", {"attempt": name, "owner": vars(owner), "described": {}})
    file.append("epoch", {"seed": 0, "epoch": 1, "values": {"train/loss": 1.0}})
    file.close()
    return path


def test_the_journal_of_a_killed_training_gets_its_end_and_a_living_one_is_left_alone(study):
    me = Owner.me()
    killed = journal(study, "killed", Owner(me.host, me.boot, DEAD, 1.0))
    living = journal(study, "living", me)
    with killed.open("ab") as file:
        file.write(b'{"event": "epo')
    before, untouched = read(killed), living.read_bytes()
    assert len(repair(study)) == 1
    assert read(killed) == [*before, {"event": "ended", "time": before[-1]["time"], "status": "KILLED"}]
    assert living.read_bytes() == untouched


def test_a_broken_database_is_moved_aside_not_deleted(study):
    (study / "mlflow.db").write_bytes(b"not a database" * 100)
    (said,) = repair(study)
    assert "lossbench track" in said
    (aside,) = study.glob("mlflow.db.broken-*")
    assert aside.read_bytes() == b"not a database" * 100


@pytest.mark.slow
def test_runs_of_dead_processes_are_closed(study):
    from lossbench.tracking.experiment import OWNER
    from lossbench.tracking.server import connect

    client = connect(study)
    number = client.create_experiment("digits")
    me = Owner.me()
    dead = client.create_run(number, tags={OWNER: str(Owner(me.host, me.boot, DEAD, 1.0))}).info.run_id
    mine = client.create_run(number, tags={OWNER: str(me)}).info.run_id
    assert len(repair(study)) == 1
    assert [client.get_run(one).info.status for one in (dead, mine)] == ["KILLED", "RUNNING"]


def test_check_only_looks_and_repair_says_what_it_did(study):
    torn = study / ".dvc/tmp/rwlock"
    torn.write_text("{")
    looked = in_process(study, "doctor", "--check")
    assert (looked.returncode, torn.exists()) == (1, True)
    assert str(torn) in looked.stdout
    done = in_process(study, "doctor")
    assert (done.returncode, torn.exists()) == (0, False), done.stderr
    assert "removed" in done.stdout
    again = in_process(study, "doctor", "--check")
    assert (again.returncode, again.stdout) == (0, "nothing to repair\n")


def test_outside_a_study_it_says_so(tmp_path):
    done = stage(tmp_path, "doctor")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_after_a_repair_dvc_status_works_and_the_trained_study_is_whole(trained_study, tmp_path):
    """Everything at once, on a study with real outs: nothing good is gone, and DVC works again."""
    root = tmp_path / "study"
    shutil.copytree(trained_study, root)
    for name in (".dvcignore", "dvc.yaml", "looks.yaml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    for name in ("lossbench", "stages", "plugins"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(root, "init", "-q")
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def dvc(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["dvc", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
        )

    dvc("init", "-q")
    write_lineage(load_params(root / "params.yaml"), Outs(root))
    committed = dvc("commit", "-f", "check", "fetch@digits")
    assert committed.returncode == 0, committed.stderr
    outs = {
        path: path.read_bytes()
        for name in ("data", "models", "reports")
        for path in (root / name).rglob("*")
        if path.is_file()
    }
    text = (root / "dvc.lock").read_text()
    (root / "dvc.lock").write_text(text[: text.rindex("outs:") + 9])
    (root / ".dvc/tmp/rwlock").write_text('{"read": ')
    assert dvc("status").returncode != 0
    done = stage(root, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    status = dvc("status")
    assert status.returncode == 0, status.stderr
    assert {path: path.read_bytes() for path in outs} == outs
    assert stage(root, "doctor", "--check").stdout == "nothing to repair\n"


@pytest.mark.parametrize("asks", [True, False])
def test_who_only_waits_for_dvcs_daily_question_is_not_at_work(asks: bool, tmp_path: Path) -> None:
    daemon = tmp_path / "lib/dvc/__main__.py"
    daemon.parent.mkdir(parents=True)
    daemon.write_text("import time\nprint('there', flush=True)\ntime.sleep(60)\n")
    words = [sys.executable, str(daemon), *(["daemon", "updater"] if asks else ["repro"])]
    (tmp_path / "dvc").write_text(f"import subprocess\nsubprocess.run({words!r}, check=False)\n")
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "dvc"), "init"], cwd=tmp_path, stdout=subprocess.PIPE, process_group=0
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            assert bool(at_work(tmp_path, tmp_path)) is not asks
        finally:
            os.killpg(child.pid, signal.SIGKILL)
