"""MLflow runs that look alive though their process is dead, and a database that is none."""

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.doctor.finding import Finding
from lossbench.params import Params
from lossbench.tracking.experiment import OWNER, close_stale, dead_owner, experiment_name, open_experiment
from lossbench.tracking.server import connect
from lossbench.tracking.store import STORE, store_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNREADABLE = "no readable database"


def examine_database(root: Path) -> list[Finding]:
    """Look whether the study's own mlflow.db is a database at all."""
    path = root / STORE
    if store_of(root).file != path.resolve():  # a server's or another's
        return []
    if not path.is_file():
        return []
    aside = path.with_name(f"mlflow.db.broken-{int(path.stat().st_mtime)}")
    cure = f"moved to {aside.name}; `lossbench track` writes all runs anew"
    if not _is_database(path):
        cure += " (registered models were in it, too)"
        return [Finding(f"{path}: {UNREADABLE}", cure, lambda: _set_aside(path, aside))]
    if half_made(path):
        what = f"{path}: half made, and without a run ({UNREADABLE} to MLflow)"
        return [Finding(what, cure, lambda: _set_aside(path, aside))]
    return []


def half_made(path: Path) -> bool:
    """Say whether the making of a store's tables was broken off: MLflow refuses it for ever.

    An older MLflow's store, which `mlflow db upgrade` brings up to date, is not meant: what has runs or
    registered models stays.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            found = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in found}
            if any(_rows(database, name) for name in ("runs", "registered_models") if name in tables):
                return False
            versions = _rows(database, "alembic_version") if "alembic_version" in tables else []
        except sqlite3.OperationalError:
            return False  # locked: that says nothing about what is in it
    return [version for (version,) in versions] != [_newest_schema()]


def _rows(database: sqlite3.Connection, table: str) -> list[tuple[str]]:
    return database.execute(f"SELECT * FROM {table} LIMIT 2").fetchall()  # noqa: S608  # names of our own


def _newest_schema() -> str:
    """Ask MLflow for its schema's version, as its own check does."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def _is_database(path: Path) -> bool:
    try:
        found = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            (answer,) = found.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            found.close()
    except sqlite3.OperationalError:
        return True  # locked or not to be opened: that says nothing about what is in it
    except sqlite3.DatabaseError:
        return False
    return bool(answer == "ok")


def _set_aside(path: Path, aside: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        one = path.with_name(path.name + suffix)
        if one.exists():
            one.replace(aside.with_name(aside.name + suffix))


def examine_runs(params: Params, root: Path) -> list[Finding]:
    """Look for stale runs in the study's experiments.

    Raises:
        ServerGoneError: the tracking server does not answer.

    """
    store = store_of(root)
    if store.sqlite and store.file is not None and not (root / store.file).exists():
        return []
    client = connect(root)
    found = []
    for experiment in params.experiments:
        name = experiment_name(params, root, experiment)
        stale = _stale(client, name)
        if stale:
            found.append(
                Finding(
                    f"MLflow experiment '{name}': {stale} runs look alive though their process is dead",
                    "closed as KILLED",
                    partial(_close, client, params, root, experiment),
                )
            )
    return found


def _close(client: "MlflowClient", params: Params, root: Path, experiment: str) -> None:
    close_stale(open_experiment(client, params, root, experiment))


def _stale(client: "MlflowClient", name: str) -> int:
    known = client.get_experiment_by_name(name)
    if known is None or known.lifecycle_stage == "deleted":
        return 0
    wanted = f"attributes.status = 'RUNNING' and tags.`{OWNER}` != ''"
    runs = client.search_runs([known.experiment_id], wanted, max_results=1000)
    return sum(dead_owner(run) for run in runs)
