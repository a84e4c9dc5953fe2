"""The MLflow store of a study: where it is, how it is made once, and how it fails fast.

MLflow's defaults make a client of a dead server wait for a quarter of an hour (7 retries of 120 s); here
a call gives up after seconds, because the journal and the outs hold everything and can be shipped later.
"""

import atexit
import logging
import os
import re
import socket
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache, wraps
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lossbench.lock import lock
from lossbench.telling import first_line, scrubbed
from lossbench.tracking import artifacts
from lossbench.tracking.store import Store, check_driver, local_uri, prepare_environment, store_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONNECT_TIMEOUT = 2.0
FILE = "lossbench.file"
"""Where a pooled connection keeps which file it has open."""
BUSY = 60_000
"""Milliseconds to wait while others write to the same SQLite file."""
SCHEMA = re.compile(r"found version (\w+), but expected (\w+)")
NO_ALIAS = re.compile(r"Registered model alias .* not found")
RACED = re.compile(r"\(\w+\.(\w+\.)?(IntegrityError|UniqueViolation)\)")
"""How SQLAlchemy begins to say, of any database, that another wrote the same row first."""
RACES = 5
"""How often a write is made again that another was before; it wrote nothing, as MLflow rolls it back."""


class ServerGoneError(Exception):
    """The tracking server does not answer; nothing is lost by trying again later."""


def tracking_uri(root: Path) -> str:
    """Find the address of a study's store."""
    return store_of(root).uri


def get_ready() -> None:
    """Import MLflow, which takes seconds, after what has to come before it."""
    prepare_environment()
    _write_ahead()
    import mlflow  # noqa: F401  # what is imported now need not be later


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
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_scrub)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    with server_errors():
        file = artifacts.database(uri)
        if file is None:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        else:
            _expect_file(file)
            with lock(file.parent / ".lossbench" / "mlflow-init.lock", wait=120):
                make_store(file)
                client = MlflowClient(uri)
                client.search_experiments(max_results=1)
                artifacts.follow(file)
        with _own_environment():
            mlflow.set_tracking_uri(uri)
    return cast("MlflowClient", _Guarded(client))


def make_store(file: Path) -> None:
    """Make a fresh SQLite store's tables in a file beside it, and give it its name when they are all there.

    Killed or out of room in between, there is no store yet, instead of one that MLflow refuses for ever.
    The caller holds the lock.
    """
    if file.exists() and file.stat().st_size:
        return
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    part = file.with_name(f".{file.name}.part")
    remove_store(part)
    opened = set(_OPENED)
    engine = create_sqlalchemy_engine(local_uri(part))
    try:
        _initialize_tables(engine)
        engine.dispose()
        for left in _OPENED - opened:  # by MLflow's own engine, which migrates
            left.close()
        with closing(sqlite3.connect(part)) as database:  # all into one file, for only one is renamed
            database.execute("PRAGMA journal_mode=DELETE")
        remove_store(file)  # an empty file, or the log of a store that is gone
        part.replace(file)
    finally:
        engine.dispose()
        remove_store(part)


def remove_store(file: Path) -> None:
    """Remove a SQLite file, and the logs beside it, which belong to it alone."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _scrub(record: logging.LogRecord) -> bool:
    """Take names and passwords of addresses out of what MLflow logs by itself."""
    record.msg, record.args = scrubbed(record.getMessage()), ()
    return True


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

    A store that was lost, and made anew or restored at its place, is opened anew: who holds on to the file
    that is gone (a server that follows an alias) would read, and write, what nobody else sees.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.exc import DisconnectionError

    def set_pragmas(connection: Any, record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            _OPENED.add(connection)
            record.info[FILE] = _file_of(connection)
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={BUSY}")
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=NORMAL")
            cursor.close()

    def expect_same_file(_connection: Any, record: Any, _proxy: Any) -> None:
        known = record.info.get(FILE)
        if known is not None and _identity(known[0]) != known[1]:
            raise DisconnectionError(f"{known[0]} is another file than it was")

    event.listen(Engine, "connect", set_pragmas)
    event.listen(Engine, "checkout", expect_same_file)
    event.listen(Engine, "close", lambda connection, _record: _OPENED.discard(connection))
    atexit.register(close_store)


def _file_of(connection: sqlite3.Connection) -> tuple[str, tuple[int, int]] | None:
    """Find the file behind a connection, and what tells it from another at its place; None for memory."""
    path = next((row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main"), "")
    return (path, _identity(path)) if path else None


def _identity(path: str) -> tuple[int, int]:
    """What tells a file from another at its place.

    Raises:
        FileNotFoundError: it is gone; to connect would make an empty one.

    """
    found = os.stat(path)  # noqa: PTH116  # asked at every statement of MLflow's
    return found.st_dev, found.st_ino


def close_store() -> None:
    """Close MLflow's connections to SQLite files: the last to close writes the log back and removes it.

    Left to itself Python does so at the very end, after it has looked through all that was ever imported; or,
    where somebody still holds one, never.
    """
    while _OPENED:
        with suppress(sqlite3.ProgrammingError):  # another thread's, which alone may close it
            _OPENED.pop().close()


def files_at(address: str) -> Any:
    """Open where MLflow keeps files; calls raise the errors that a client's do.

    Args:
        address: a location of an experiment or a logged model, or ``models:/…``.

    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with server_errors():
        return _Guarded(get_artifact_repository(address))


class _Guarded:
    """An MlflowClient, or files, whose calls raise the two errors below, and nothing else raises them."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def once(*arguments: Any, **options: Any) -> Any:
            with server_errors():
                try:
                    return call(*arguments, **options)
                except (AttributeError, KeyError, TypeError) as error:  # MLflow reads an answer unseen
                    said = f"its answer makes no sense ({type(error).__name__}: {first_line(error)})"
                    raise ServerGoneError(said) from error

        @wraps(call)
        def guarded(*arguments: Any, **options: Any) -> Any:
            for _ in range(RACES):
                with suppress(RacedError):
                    return once(*arguments, **options)
            return once(*arguments, **options)

        return guarded


class NoFileError(ServerGoneError):
    """A file of a store on this machine is not there."""


class RefusedError(Exception):
    """The server understood a request and refused it."""


class RacedError(RefusedError):
    """Another client wrote the same row between MLflow's look and its own write, which it took back."""


class AbsentError(RefusedError):
    """MLflow itself says that what was asked for does not exist; nothing else means that."""


class PresentError(RefusedError):
    """MLflow itself says that what was to be made is there already."""


REFUSALS: dict[str, type[RefusedError]] = {
    "INVALID_PARAMETER_VALUE": RefusedError,
    "BAD_REQUEST": RefusedError,
    "RESOURCE_DOES_NOT_EXIST": AbsentError,
    "RESOURCE_ALREADY_EXISTS": PresentError,
}


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn what a dying server or a full disk makes MLflow raise into one exception.

    What the server understood and refused (say, to write into a run that someone deleted) is another.
    """
    import requests
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        kind = _refusal(error)
        # Its text, and its cause's, may hold a password.
        raise kind(_schema(str(error)) or first_line(error)) from None
    except FileNotFoundError as error:
        raise NoFileError(first_line(error)) from None
    except (
        requests.RequestException,
        SQLAlchemyError,
        sqlite3.Error,
        OSError,
        ParseError,
        JSONDecodeError,
    ) as error:
        raise ServerGoneError(first_line(error)) from None


def _refusal(error: Any) -> type[Exception]:
    """Tell what MLflow refused from what somebody on the way to it did.

    Of an answer that is no JSON MLflow's client makes an error with a code that follows from the HTTP status
    alone: a load balancer's page with status 400 would pass for MLflow's own refusal. Only a JSON answer
    whose ``error_code`` is a name that MLflow gives counts; or, without HTTP, what the store itself raises.
    """
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        code, message = error.json.get("error_code"), error.json.get("message")
        if not isinstance(message, str):
            return ServerGoneError
    else:
        code, message = error.error_code, str(error.message)
        if message.startswith("API request to"):
            return ServerGoneError
    if code == "INVALID_PARAMETER_VALUE" and NO_ALIAS.match(message.removeprefix(f"{code}: ")):
        return AbsentError  # MLflow's code for a missing alias
    if code == "BAD_REQUEST" and RACED.match(message.removeprefix(f"{code}: ")):
        return RacedError
    return REFUSALS.get(code, ServerGoneError) if isinstance(code, str) else ServerGoneError


def _schema(text: str) -> str | None:
    """Say what a store of another MLflow needs; MLflow's own words are long, and fit older ones alone."""
    found = SCHEMA.search(text)
    return found and (
        f"the store's schema, {found[1]}, is not that of the installed MLflow, {found[2]}: back it up and "
        "run `mlflow db upgrade` on it where an older MLflow wrote it, or install the newer one that did"
    )


def _expect_file(file: Path) -> None:
    """Look before MLflow does, which tries ten times, for minutes."""
    if file.exists() and not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
        what = "no file" if not file.is_file() else "not ours to read and write"
        raise ServerGoneError(f"{file} cannot be opened: it is {what}")


def _expect_listener(store: Store) -> None:
    """Knock at the door first: a closed port is known in milliseconds, without importing MLflow."""
    if store.host is None or store.port is None:
        return
    try:
        socket.create_connection((store.host, store.port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise ServerGoneError(f"{store.host}:{store.port} does not answer ({error})") from error
