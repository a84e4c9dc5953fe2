"""Where runs keep their files: beside the database that knows them, wherever that is moved or copied to.

MLflow writes absolute places into its database, once and for all. A copied checkout would go on writing into
the folder of the one it was copied from, and a renamed one into a folder that is no more. Beside a SQLite
file they therefore follow the database.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lossbench.identity import part_name
from lossbench.tracking.store import parse

FOLDER = "mlartifacts"
"""Beside the database. `mlruns`, MLflow's default, would make a bare `mlflow ui` look there instead."""
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's database holds absolute places."""
SERVED = ("http", "https")


def database(uri: str) -> Path | None:
    """Find the SQLite file of a tracking URI; None for any other store."""
    store = parse(uri)
    return store.file.resolve() if store.sqlite and store.file is not None else None


def folder(uri: str) -> Path | None:
    """Find the folder that a store's files go to; None where a server, or MLflow, decides."""
    file = database(uri)
    return None if file is None else file.parent / FOLDER


def follow(file: Path) -> None:
    """Have the files that a database knows looked up beside it; call it under the store's lock.

    Only what Lossbench recorded is touched: experiments whose files are in ``mlartifacts/<name>`` of whatever
    folder the database was in. Where the database alone was copied, their files are copied after it.
    """
    here = file.parent / FOLDER
    with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as store:
        moved = list(_moved(store, here))
        if not moved:
            return
        store.execute("BEGIN IMMEDIATE")
        for name, there in moved:
            _bring(there / name, here / name)
        for there in {place for _, place in moved}:
            for table, column in COLUMNS:
                _replace(store, table, column, there.as_uri(), here.as_uri())
                _replace(store, table, column, str(there), str(here))
        store.execute("COMMIT")


def unusable(name: str, location: str, uri: str) -> str | None:
    """Say why files of an experiment cannot be written, and what helps; None if they can.

    Args:
        name: of the experiment.
        location: where it keeps files.
        uri: of the store.

    """
    served = urlsplit(uri).scheme in SERVED
    if urlsplit(location).scheme == "mlflow-artifacts":
        return None if served else (
            f"experiment '{name}' keeps its files with the MLflow server that it was recorded through "
            f"({location}); start that server (`lossbench ui` is one) and set MLFLOW_TRACKING_URI to its "
            "address"
        )  # fmt: skip
    path = local(location)
    if path is None:
        return None
    try:
        if served and not path.parent.is_dir():
            raise FileNotFoundError(2, "there is no such folder on this machine")
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        cure = (
            "start the server with --artifacts-destination, so that files go through it"
            if served
            else "give yourself the right to write there, or set MLFLOW_TRACKING_URI to another store"
        )
        return (
            f"experiment '{name}' keeps its files in {path}, which cannot be written ({error.strerror}); "
            f"{cure}; an experiment never changes its place, so rename this one in MLflow: it is made anew"
        )
    return None


def local(location: str) -> Path | None:
    """Turn a ``file:`` address or a path into a path; None for what is elsewhere."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(location) if not parts.scheme else None


def _moved(store: sqlite3.Connection, here: Path) -> Iterator[tuple[str, Path]]:
    """List experiments of ours that keep their files elsewhere: their names, and the folder of all files."""
    for name, location in store.execute("SELECT name, artifact_location FROM experiments").fetchall():
        path = local(location or "")
        if path is None or path == here / name:
            continue
        depth = len(Path(name).parts)
        root = path.parents[depth - 1] if len(path.parents) >= depth else None
        if root is not None and root.name == FOLDER and path == root / name:
            yield name, root


def _bring(there: Path, here: Path) -> None:
    """Copy an experiment's files where only the database has come along; they appear whole or not at all."""
    if here.exists() or not there.is_dir():
        return
    here.parent.mkdir(parents=True, exist_ok=True)
    part = here.with_name(part_name(here.name))
    shutil.copytree(there, part, symlinks=True)
    part.replace(here)


def _replace(store: sqlite3.Connection, table: str, column: str, there: str, here: str) -> None:
    """Replace the beginning of all addresses under a folder."""
    store.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 (names of ours)
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (here, len(there) + 1, there, len(there) + 1, f"{there}/"),
    )
