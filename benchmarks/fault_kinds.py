"""The kinds of fault of benchmarks.faults: how each is made to happen."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress

import psutil

from benchmarks import fault_champion, fault_originals, fault_promotion, fault_ray, fault_services
from benchmarks.fault_study import (
    DOCTOR,
    REPRO,
    TRACK,
    Inject,
    Kind,
    Study,
    end,
    family,
    left_running,
    newest,
)
from lossbench.identity import Owner
from lossbench.tracking.artifacts import FOLDER
from lossbench.tracking.claims import WRITER
from lossbench.tracking.ui import end_group, free_port, mlflow_server

CLOCK = """
import os, time

_real, _real_ns, _at = time.time, time.time_ns, float(os.environ["LOSSBENCH_CLOCK_BACK_AT"])


def _shift(now):
    return 86_400 if now > _at else 0


time.time = lambda: _real() - _shift(_real())
time.time_ns = lambda: _real_ns() - _shift(_real()) * 10**9
"""


CHECKPOINTS = ".lossbench/store/checkpoints/*.pt"
KEPT = ".lossbench/store/replicates/*/*/*"
"""Files of finished replicates: what each entry says, and its weights."""
ELSEWHERE = "a machine that is no more"
LONG_AGO = (3600.0, 86_400.0)
"""Seconds: longer than any lease, by any clock."""


def moment(study: Study, chance: random.Random) -> float:
    """Any moment of an undisturbed `dvc repro`, its first half second apart."""
    return chance.uniform(0.5, 0.95 * study.repro_seconds)


def killing(who: str, number: int = signal.SIGKILL, command: tuple[str, ...] = ("dvc", "repro")) -> Inject:
    """End the stages, the command, or its whole group at a random moment."""

    def inject(study: Study, chance: random.Random) -> int:
        process = study.start(*command)
        time.sleep(moment(study, chance))
        children = family(process)
        if who == "stage":
            for child in children:
                with suppress(psutil.NoSuchProcess):  # it ended by itself
                    child.send_signal(number)
        elif process.poll() is None:
            if who == "group":
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        if who == "stage" or number == signal.SIGTERM:
            process.wait(timeout=600)  # it came between two stages: all goes on
        left = left_running(children)
        end(process)
        return left

    return inject


def killed_tracker(study: Study, chance: random.Random) -> int:
    """Kill `lossbench track` while it records."""
    process = study.start(*TRACK)
    time.sleep(chance.uniform(1.0, 12.0))
    end(process)
    return 0


def server_gone(study: Study, chance: random.Random) -> int:
    """Kill the MLflow server at a random moment of training, with the live shipper at work; it comes back."""
    store, log = f"sqlite:///{study.folder / 'mlflow.db'}", study.folder.with_suffix(".server")
    with mlflow_server(store, log, free_port(0)) as uri:
        study.environment["MLFLOW_TRACKING_URI"] = uri
        process = study.start("dvc", "repro")
        deadline = time.monotonic() + 2 * study.repro_seconds
        while not list(study.folder.glob(".lossbench/journal/*/*/*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        live = study.start(*TRACK, "--live")
        time.sleep(chance.uniform(2.0, 10.0))
    process.wait(timeout=600)
    study.run(*TRACK, "--lenient")  # says that nobody answers
    end_group(live)
    again = study.companions.enter_context(mlflow_server(store, log, free_port(0)))
    study.environment["MLFLOW_TRACKING_URI"] = again
    return 0


def locked_store(study: Study, chance: random.Random) -> int:
    """Hold MLflow's database while the record is written to it."""
    process = study.start(*TRACK)
    time.sleep(chance.uniform(2.0, 8.0))
    holder = sqlite3.connect(study.folder / "mlflow.db", timeout=30, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        process.wait(timeout=300)
    finally:
        holder.close()
        end(process)
    return 0


def no_store(study: Study, chance: random.Random) -> int:
    """Delete MLflow's database, or some of its files."""
    del chance
    for file in study.folder.glob("mlflow.db*"):
        file.unlink()
    return 0


def disk_full(study: Study, chance: random.Random) -> int:
    """Let no file grow beyond a random size: what a full disk does to whoever writes."""
    blocks = int(2 ** chance.uniform(1, 9))  # of 512 bytes
    study.run("sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", *REPRO)
    return 0


def read_only(study: Study, chance: random.Random) -> int:
    """Make a folder that is written to read-only, as a mount where we may, by its mode where not."""
    name = chance.choice(["data", "models", "reports", ".lossbench", ".dvc/cache"])
    where = study.folder / name
    where.mkdir(exist_ok=True)
    if os.geteuid() == 0:  # modes do not bind the superuser
        mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        study.run("unshare", "--mount", "sh", "-c", mount, str(where), *REPRO)
        return 0
    subprocess.run(["chmod", "-R", "a-w", where], check=True)
    try:
        study.run(*REPRO)
    finally:
        subprocess.run(["chmod", "-R", "u+w", where], check=True)
    return 0


def corrupt_rwlock(study: Study, chance: random.Random) -> int:
    """Leave DVC's table of readers and writers empty or torn."""
    killing("group")(study, chance)
    file = study.folder / ".dvc/tmp/rwlock"
    file.parent.mkdir(exist_ok=True)
    file.write_text(chance.choice(["", "{", '{"/a/b": {"write": {"pid": 1', "\0\0\0"]), encoding="utf-8")
    return 0


def torn_lock(study: Study, chance: random.Random) -> int:
    """Cut dvc.lock off somewhere."""
    file = study.folder / "dvc.lock"
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])
    return 0


def torn_journal(study: Study, chance: random.Random) -> int:
    """Cut a journal off somewhere."""
    file = newest(study.folder, ".lossbench/journal/*/*/*.jsonl")
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])
    return 0


def in_training(study: Study) -> None:
    """Run until a checkpoint exists, then kill everything."""
    process = study.start("dvc", "repro")
    deadline = time.monotonic() + 4 * study.repro_seconds
    while time.monotonic() < deadline and process.poll() is None:
        if list(study.folder.glob(CHECKPOINTS)):
            break
        time.sleep(0.02)
    children = family(process)
    end(process)
    left_running(children)


def torn_checkpoint(study: Study, chance: random.Random) -> int:
    """Kill training, then damage the checkpoints it left."""
    in_training(study)
    files = list(study.folder.glob(CHECKPOINTS))
    if not files:
        study.said.append("no checkpoint was written: nothing to damage")
    for file in files:
        content = bytearray(file.read_bytes())
        if chance.random() < 0.5:
            del content[chance.randrange(len(content)) :]
        else:
            content[chance.randrange(len(content))] ^= 0xFF
        file.write_bytes(content)
    return 0


def no_home(study: Study, chance: random.Random) -> int:
    """Kill training, then delete stores, checkpoints and journals."""
    killing("group")(study, chance)
    shutil.rmtree(study.folder / ".lossbench", ignore_errors=True)
    return 0


def torn_replicate(study: Study, chance: random.Random) -> int:
    """Damage a kept replicate, and make the chain ask for it again."""
    file = chance.choice(sorted(study.folder.glob(KEPT)))
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])
    (study.folder / "dvc.lock").unlink()
    shutil.rmtree(study.folder / ".dvc/cache/runs")
    return 0


def damaged_out(study: Study, chance: random.Random) -> int:
    """Overwrite or delete a file of the outs."""
    files = [file for name in ("data", "models", "reports") for file in (study.folder / name).rglob("*")]
    file = chance.choice([file for file in sorted(files) if file.is_file() and file.name != ".gitignore"])
    file.unlink()
    if chance.random() < 0.5:
        file.write_bytes(b"not what was here")
    return 0


def clock_back(study: Study, chance: random.Random) -> int:
    """Let the clock of every Python process jump back by a day at a random moment of `make repro`."""
    site = study.folder.with_suffix(".site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(CLOCK, encoding="utf-8")
    at = str(time.time() + moment(study, chance))
    study.run(*REPRO, PYTHONPATH=str(site), LOSSBENCH_CLOCK_BACK_AT=at)
    return 0


def two_at_once(study: Study, chance: random.Random) -> int:
    """Run `make repro` twice at the same time."""
    first = study.start(*REPRO)
    time.sleep(chance.uniform(0, study.repro_seconds / 2))
    study.run(*REPRO)
    first.wait(timeout=600)
    return 0


def two_recorders(study: Study, chance: random.Random) -> int:
    """Let two checkouts record to one server at once; one of them is killed at a random moment."""
    other = study.copy(study.folder.with_name(f"{study.folder.name}-other"))
    store, log = f"sqlite:///{study.folder / 'mlflow.db'}", study.folder.with_suffix(".server")
    address = study.companions.enter_context(mlflow_server(store, log, free_port(0)))
    study.environment["MLFLOW_TRACKING_URI"] = other.environment["MLFLOW_TRACKING_URI"] = address
    victim, survivor = chance.sample([study.start(*TRACK), other.start(*TRACK)], 2)
    time.sleep(chance.uniform(2.0, 12.0))
    end(victim)
    survivor.wait(timeout=600)
    shutil.rmtree(other.folder)
    return 0


def renamed(study: Study, chance: random.Random) -> int:
    """Rename the checkout while it is recorded; the recorder is killed, and all goes on in the new place."""
    process = study.start(*TRACK)
    time.sleep(chance.uniform(1.0, 12.0))
    study.folder = study.folder.rename(study.folder.with_name(f"{study.folder.name} renamed"))
    end(process)
    return 0


def copied(study: Study, chance: random.Random) -> int:
    """Copy the checkout (`cp -a`) while it is recorded; all goes on in the copy, the old place stays."""
    process = study.start(*TRACK)
    time.sleep(chance.uniform(1.0, 12.0))
    end(process)
    place = study.folder / FOLDER
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    copy = study.folder.with_name(f"{study.folder.name}-copy")
    subprocess.run(["cp", "-a", study.folder, copy], check=True)
    study.folder = copy
    study.run(*TRACK)
    after = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    study.lost_originals += sum(before.get(file) != after.get(file) for file in before.keys() | after.keys())
    return 0


def died_elsewhere(study: Study, chance: random.Random) -> int:
    """Kill the recorder, and have its claims say that it ran on a machine that was not heard of for long."""
    killed_tracker(study, chance)
    gone = str(Owner(ELSEWHERE, "another boot", 1, 0.0, "1"))
    with closing(sqlite3.connect(study.folder / "mlflow.db", timeout=30)) as store, store:
        if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'tags'").fetchone():
            return 0  # it died before it had claimed anything
        like = (f"{WRITER}%",)
        for key, run, text in store.execute(
            "SELECT key, run_uuid, value FROM tags WHERE key LIKE ?", like
        ).fetchall():
            said = json.loads(text) | {"owner": gone, "at": time.time() - chance.uniform(*LONG_AGO)}
            store.execute(
                "UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?", (json.dumps(said), key, run)
            )
    return 0


def of_records() -> list[Kind]:
    """List the kinds in which a record is shared or moved, or whoever made it was on another machine."""
    return [
        Kind("two checkouts record at once, one killed", "untracked", two_recorders, TRACK),
        Kind("checkout renamed while recorded", "untracked", renamed, TRACK),
        Kind("checkout copied while recorded", "untracked", copied, TRACK),
        Kind("recorder died on another machine", "untracked", died_elsewhere, TRACK),
    ]


def kinds() -> list[Kind]:
    """List all kinds of fault."""
    return [
        Kind("SIGKILL to the stage", "ready", killing("stage")),
        Kind("SIGKILL to dvc", "ready", killing("dvc")),
        Kind("SIGKILL to the whole group", "ready", killing("group")),
        Kind("SIGTERM to the stage", "ready", killing("stage", signal.SIGTERM)),
        Kind("SIGTERM to `make repro`", "ready", killing("command", signal.SIGTERM, REPRO)),
        Kind("SIGKILL to `make repro`", "ready", killing("command", signal.SIGKILL, REPRO)),
        Kind("SIGKILL to all that `make repro` started", "ready", killing("stage", signal.SIGKILL, REPRO)),
        Kind("two `make repro` at once", "ready", two_at_once),
        Kind("disk full (no file may grow)", "ready", disk_full),
        Kind("a folder is read-only", "ready", read_only),
        Kind("clock back by a day", "ready", clock_back),
        Kind("checkpoints corrupt", "ready", torn_checkpoint),
        Kind("stores, checkpoints and journals deleted", "ready", no_home),
        Kind("DVC's rwlock corrupt", "ready", corrupt_rwlock, DOCTOR),
        Kind("dvc.lock cut off", "done", torn_lock, DOCTOR),
        Kind("a kept replicate damaged", "done", torn_replicate),
        Kind("an out overwritten or deleted", "done", damaged_out),
        Kind("half a journal line", "untracked", torn_journal),
        Kind("tracker killed", "untracked", killed_tracker, TRACK),
        Kind("MLflow's database locked", "untracked", locked_store, TRACK),
        Kind("MLflow's database deleted", "done", no_store, TRACK),
        Kind("MLflow server killed in training", "ready", server_gone, TRACK),
        *of_records(),
        *fault_promotion.kinds(),
        *fault_originals.kinds(),
        *fault_champion.kinds(),
        *fault_services.kinds(),
        *fault_ray.kinds(),
    ]
