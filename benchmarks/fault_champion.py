"""Faults of registry, store and record, for benchmarks.faults: afterwards the right model serves."""

import random
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ruamel.yaml import YAML

from benchmarks.fault_promotion import first_stays, registry, second_takes_over
from benchmarks.fault_study import EPOCHS, RETRAIN, TRACK, Kind, Study, end, reading, set_epochs
from benchmarks.registry import Answer, proxied
from lossbench.tracking.ui import free_port, mlflow_server

ROLLBACK = (sys.executable, "-m", "lossbench", "rollback")
LOSSBENCH = (sys.executable, "-m", "lossbench")
KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from lossbench.tracking.server import connect
left = [int(sys.argv[1])]
def count(*_):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
event.listen(Engine, "before_cursor_execute", count)
connect(Path.cwd())
"""
"""Makes the store's tables and dies at a statement."""


def tables_half_made(study: Study, chance: random.Random) -> int:
    """Kill whoever makes MLflow's tables, at a random statement."""
    study.run(sys.executable, "-c", KILLED, str(chance.randrange(600)))
    return 0


def spoiled_answer(study: Study, chance: random.Random) -> int:
    """Have a load balancer answer a random call of a retraining whose challenger is worse."""
    store, log = f"sqlite:///{study.folder / 'mlflow.db'}", study.folder.with_suffix(".server")
    address = study.companions.enter_context(mlflow_server(store, log, free_port(0)))
    proxy, study.environment["MLFLOW_TRACKING_URI"] = study.companions.enter_context(proxied(address))
    set_epochs(study, 1)
    proxy.aim(chance.randrange(400), Answer("HTML", chance.choice([200, 400, 404, 503])))
    study.run(*RETRAIN)
    proxy.aim(None)
    return 0


def weights_cut(study: Study, chance: random.Random) -> int:
    """Cut the champion's weights short for the time of one retraining; they come back from a backup."""
    address = "SELECT storage_location FROM model_versions WHERE version = 1"
    with reading(study.folder) as store:
        folder = Path(unquote(urlsplit(store.execute(address).fetchone()[0]).path))
    (file,) = folder.rglob("weights.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])
    set_epochs(study, 1)
    study.run(*RETRAIN)
    file.write_bytes(content)
    return 0


def no_alias(study: Study, chance: random.Random) -> int:
    """Delete the champion's alias, as somebody does who begins anew."""
    del chance
    with closing(sqlite3.connect(study.folder / "mlflow.db", timeout=30)) as store, store:
        store.execute("DELETE FROM registered_model_aliases")
    return 0


def record_of_bytes(study: Study, chance: random.Random) -> int:
    """Fill the record with bytes that are no text, before a better challenger comes."""
    (study.folder / "reports/retraining.csv").write_bytes(chance.randbytes(chance.randrange(1, 400)))
    set_epochs(study, EPOCHS)
    return 0


def rolled_back(study: Study, chance: random.Random) -> int:
    """Roll a better version back by hand; then anything changes, and a schedule retrains."""
    set_epochs(study, EPOCHS)
    study.run(*RETRAIN)
    study.run(*ROLLBACK)
    yaml = YAML()
    file = study.folder / "params.yaml"
    content = yaml.load(file.read_text(encoding="utf-8"))
    content["retraining"]["max_class_drop"] = round(chance.uniform(0.5, 0.9), 3)
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    return 0


def rollback_killed(study: Study, chance: random.Random) -> int:
    """Kill a rollback at a random moment."""
    set_epochs(study, EPOCHS)
    study.run(*RETRAIN)
    process = study.start(*ROLLBACK)
    time.sleep(chance.uniform(0.5, 8.0))
    end(process)
    return 0


def store_restored(study: Study, chance: random.Random) -> int:
    """Lose store and artifacts, and restore them from a backup, before a better challenger comes."""
    del chance
    kept = study.folder.with_suffix(".backup")
    study.run(*LOSSBENCH, "backup", str(kept))
    for file in study.folder.glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(study.folder / "mlartifacts")
    study.run(*LOSSBENCH, "restore", str(kept))
    set_epochs(study, EPOCHS)
    return 0


def first_again(study: Study) -> int:
    """Count what is wrong: the first version is champion again, the second the former, both are there."""
    aliases, versions = registry(study)
    return (aliases != [("champion", "1"), ("previous_champion", "2")]) + (versions != ["1", "2"])


def one_of_both(study: Study) -> int:
    """Count what is wrong after a killed rollback: one is champion, the other the former."""
    aliases = dict(registry(study)[0])
    return sorted(aliases.values()) != ["1", "2"]


def kinds() -> list[Kind]:
    """List the kinds of fault of registry, store and record."""
    return [
        Kind("MLflow's tables half made", "untracked", tables_half_made, TRACK),
        Kind("registry answers with HTML", "served", spoiled_answer, RETRAIN, first_stays),
        Kind("champion's weights cut short", "served", weights_cut, RETRAIN, first_stays),
        Kind("champion's alias deleted", "served", no_alias, RETRAIN, first_stays),
        Kind("the record holds no text", "weak", record_of_bytes, RETRAIN, second_takes_over),
        Kind("rolled back by hand, then retrained", "weak", rolled_back, RETRAIN, first_again),
        Kind("rollback killed", "weak", rollback_killed, RETRAIN, one_of_both),
        Kind("store lost, restored from a backup", "weak", store_restored, RETRAIN, second_takes_over),
    ]
