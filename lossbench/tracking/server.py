"""The MLflow store of a study: where it is, how it is made once, and how it fails fast.

MLflow's defaults make a client of a dead server wait for a quarter of an hour (7 retries of 120 s); here
a call gives up after seconds, because the journal and the outs hold everything and can be shipped later.
"""

import atexit
import logging
import os
import socket
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lossbench.lock import lock
from lossbench.tracking import artifacts
from lossbench.tracking.store import Store, check_driver, store_of, without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""How long one call may take; what the user sets in the environment wins."""
SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
HIJACKERS = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Variables (`mlflow run` sets them) that would make MLflow write into a run that is not ours."""
CONNECT_TIMEOUT = 2.0
BUSY = 60_000
"""Milliseconds to wait while others write to the same SQLite file."""


class ServerGoneError(Exception):
    """The tracking server does not answer; nothing is lost by trying again later."""


def tracking_uri(root: Path) -> str:
    """Find the address of a study's store."""
    return store_of(root).uri


def prepare_environment() -> None:
    """Set MLflow's environment; must come before its import."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.update(SILENT)
    for name in HIJACKERS:
        os.environ.pop(name, None)


def connect(root: Path) -> "MlflowClient":
    """Open the store; a fresh SQLite file gets its tables here, under a lock, once.

    Raises:
        ServerGoneError: nothing answers at the address.

    """
    prepare_environment()
    store = store_of(root)
    check_driver(store)
    uri = store.uri
    _expect_listener(store)
    _write_ahead()  # before MLflow: what it still has to do when the process ends comes before the closing
    import mlflow
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    with server_errors():
        file = artifacts.database(uri)
        if file is None:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        else:
            with lock(file.parent / ".lossbench" / "mlflow-init.lock", wait=120):
                client = MlflowClient(uri)
                client.search_experiments(max_results=1)
                artifacts.follow(file)
        with _own_environment():
            mlflow.set_tracking_uri(uri)
    return cast("MlflowClient", _Guarded(client))


@contextmanager
def _own_environment() -> Iterator[None]:
    """Leave ``MLFLOW_TRACKING_URI`` as the user set it: MLflow writes there what it is told in code.

    Left standing, it would send every later study of this process, and all that the process starts, to
    this study's store.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


_OPENED: set[sqlite3.Connection] = set()


@cache
def _write_ahead() -> None:
    """Have SQLite write ahead: readers (the UI) and writers stop blocking each other, and commits cost less.

    A killed process loses nothing; a power cut may take the last moments but leaves the file whole, and
    the outs still hold what it took.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def set_pragmas(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            _OPENED.add(connection)
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={BUSY}")
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
            cursor.close()

    event.listen(Engine, "connect", set_pragmas)
    event.listen(Engine, "close", lambda connection, _record: _OPENED.discard(connection))
    atexit.register(_close_store)


def _close_store() -> None:
    """Close MLflow's connections to SQLite files: the last to close writes the log back and removes it.

    Left to itself Python does so at the very end, after it has looked through all that was ever imported; or,
    where somebody still holds one, never.
    """
    while _OPENED:
        with suppress(sqlite3.ProgrammingError):  # another thread's, which alone may close it
            _OPENED.pop().close()


class _Guarded:
    """An MlflowClient whose calls raise the two errors below, and nothing else raises them."""

    def __init__(self, client: "MlflowClient") -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        @wraps(call)
        def guarded(*arguments: Any, **options: Any) -> Any:
            with server_errors():
                return call(*arguments, **options)

        return guarded


class RefusedError(Exception):
    """The server understood a request and refused it."""


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn what a dying server or a full disk makes MLflow raise into one exception.

    What the server understood and refused (say, to write into a run that someone deleted) is another.
    """
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST"):
            raise RefusedError(_first_line(error)) from error
        raise ServerGoneError(_first_line(error)) from error
    except (requests.RequestException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise ServerGoneError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return without_secrets((str(error).splitlines() or [type(error).__name__])[0])[:200]


def _expect_listener(store: Store) -> None:
    """Knock at the door first: a closed port is known in milliseconds, without importing MLflow."""
    if store.host is None or store.port is None:
        return
    try:
        socket.create_connection((store.host, store.port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise ServerGoneError(f"{store.host}:{store.port} does not answer ({error})") from error
