"""MLflow runs that look alive though their process is dead, and a database that is none."""

import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.doctor.finding import Finding
from lossbench.params import Params
from lossbench.tracking.names import experiment_name, open_shelf
from lossbench.tracking.server import connect, local_file, tracking_uri
from lossbench.tracking.ship import OWNER, close_stale, dead_owner

if TYPE_CHECKING:
    from mlflow import MlflowClient


def examine_database(root: Path) -> list[Finding]:
    """Look whether the study's own mlflow.db is a database at all."""
    path = root / "mlflow.db"
    if not tracking_uri(root).startswith("sqlite") or os.environ.get("MLFLOW_TRACKING_URI"):
        return []
    if not path.is_file() or _is_database(path):
        return []
    aside = path.with_name(f"mlflow.db.broken-{int(path.stat().st_mtime)}")
    cure = f"moved to {aside.name}; `make track` writes all runs anew (registered models were in it, too)"
    return [Finding(f"{path}: no readable database", cure, lambda: _set_aside(path, aside))]


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
    uri = tracking_uri(root)
    file = local_file(uri)
    if file is not None and not file.exists():
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
    close_stale(open_shelf(client, params, root, experiment))


def _stale(client: "MlflowClient", name: str) -> int:
    known = client.get_experiment_by_name(name)
    if known is None or known.lifecycle_stage == "deleted":
        return 0
    wanted = f"attributes.status = 'RUNNING' and tags.`{OWNER}` != ''"
    runs = client.search_runs([known.experiment_id], wanted, max_results=1000)
    return sum(dead_owner(run) for run in runs)
