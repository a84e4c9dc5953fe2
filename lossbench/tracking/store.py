"""The address of MLflow's store: read once, shown without its password, refused in a sentence.

Where a study was recorded before stands here too, and what MLflow reads of the environment. Nothing here
imports MLflow, so that whoever only asks where the store is does not pay for it.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from lossbench.errors import UserError, brief, nearest
from lossbench.system import write_atomically
from lossbench.telling import HOSTED, shown
from lossbench.written import home

VARIABLE = "MLFLOW_TRACKING_URI"
STORE = "mlflow.db"
"""In the study's folder, where the variable names no other."""
SERVERS = ("http", "https")
DATABASES = ("mssql", "mysql", "postgresql", "sqlite")
"""What MLflow keeps its record in; ``+driver`` may follow."""
PACKAGES = {
    "psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient",
    "mysql": "mysql-connector-python",
}  # fmt: skip
"""Module of a driver → package to install, where the names differ."""


@dataclass(frozen=True)
class Store:
    """An address of MLflow's store.

    Attributes:
        uri: as MLflow takes it.
        kind: http, https, file, a database without its driver, or one of :data:`HOSTED`.
        host: of a server; None for all else.
        port: likewise.
        file: of a local store: the SQLite file or the folder; None for all else.

    """

    uri: str
    kind: str
    host: str | None = None
    port: int | None = None
    file: Path | None = None

    @property
    def served(self) -> bool:
        """Whether a server of MLflow's answers there."""
        return self.kind in SERVERS

    @property
    def sqlite(self) -> bool:
        """Whether it is a SQLite file."""
        return self.kind == "sqlite"

    @property
    def shown(self) -> str:
        """The address without credentials and query."""
        return shown(self.uri)


def store_of(study: Path) -> Store:
    """Find the store: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the study's folder.

    Explicit always: a leftover ``mlruns`` folder would otherwise change MLflow's default.

    Raises:
        UserError: if the variable holds no address of a store.

    """
    return parse(_at_home(os.environ.get(VARIABLE, "").strip()) or local_uri(study / STORE))


HOME = re.compile(r"(sqlite(?:\+\w+)?:///|file:(?://)?|)(~[^/]*)", re.IGNORECASE)
"""Where a home folder stands in an address: (what comes before it, ``~`` or ``~name``)."""


def _at_home(uri: str) -> str:
    """Write ``~`` out where an address holds a path: neither SQLAlchemy nor MLflow knows it.

    Raises:
        UserError: where nobody has such a home.

    """
    found = HOME.match(uri)
    if found is None:
        return uri
    try:
        return f"{found[1]}{Path(found[2]).expanduser()}{uri[found.end() :]}"
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{VARIABLE} is {shown(uri)}: {error}") from None


def local_uri(file: Path) -> str:
    """Write the address of an SQLite file, whatever its path is made of.

    ``%``, ``?`` and ``#`` have to be escaped. MLflow makes the folder that an escaped path would name, but
    only for addresses that begin with ``sqlite:///``: such a path's names the driver, too.
    """
    path = str(file.resolve())
    escaped = quote(path, safe="/") if set(path) & set("%?#") else path
    return f"sqlite{'+pysqlite' if escaped != path else ''}:///{escaped}"


def parse(uri: str) -> Store:
    """Read an address.

    Raises:
        UserError: on what is none; the sentence holds no password.

    """
    scheme, colon, rest = uri.partition(":")
    kind = scheme.lower().partition("+")[0]
    if kind in HOSTED:
        return Store(uri, kind)
    if not colon or "/" in scheme:
        return Store(uri, "file", file=Path(uri).expanduser())
    if kind == "file":
        return Store(uri, kind, file=Path(url2pathname(urlsplit(uri).path)))
    if kind in SERVERS:
        return _server(uri, kind)
    if kind == "sqlite":
        return _sqlite(uri, scheme, rest)
    if kind in DATABASES and rest.startswith("//"):
        return Store(uri, kind)
    if kind in DATABASES:  # what follows may be a password, and nobody can tell where it begins
        raise UserError(f"{VARIABLE} is '{scheme}:…'; expected '//' after '{scheme}:'")
    if rest.partition("/")[0].isdecimal():
        raise UserError(f"{VARIABLE} is {shown(uri)}, a host and a port; expected http://{shown(uri)}")
    allowed = nearest(kind, [*SERVERS, *DATABASES, "file", "databricks"])
    raise UserError(f"{VARIABLE} is {shown(uri)}: no kind of store is called '{kind}'; {allowed}")


def _sqlite(uri: str, scheme: str, rest: str) -> Store:
    if scheme.lower() not in ("sqlite", "sqlite+pysqlite"):
        raise UserError(f"{VARIABLE} is '{scheme}:…', of a driver that MLflow does not use; write 'sqlite:'")
    if not rest.startswith("///"):
        raise UserError(
            f"{VARIABLE} is {shown(uri)}; expected three slashes before the file's path: {scheme}:///FILE"
        )
    path = unquote(rest.partition("?")[0].removeprefix("///"))
    if path in ("", ":memory:"):
        raise UserError(
            f"{VARIABLE} is {shown(uri)}, which names no file: what is recorded would be lost with the "
            f"process; write {scheme}:///FILE"
        )
    return Store(uri, "sqlite", file=Path(path))


def _server(uri: str, kind: str) -> Store:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:  # its own text may quote what stands before the port: a password
        what = "port" if "port" in str(error).lower() else "host"
        raise UserError(f"{VARIABLE} is {shown(uri)}, whose {what} cannot be read") from None
    if not host:
        raise UserError(f"{VARIABLE} is {shown(uri)}, which names no host")
    return Store(uri, kind, host, port or (443 if kind == "https" else 80))


def check_driver(store: Store) -> None:
    """Refuse a database whose driver is not installed.

    Raises:
        UserError: naming the package to install.

    """
    if store.kind not in DATABASES or store.sqlite:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        dialect = make_url(store.uri).get_dialect()
        if getattr(dialect, "is_async", False):
            raise UserError(f"{VARIABLE} is {store.shown}, whose driver is asynchronous, and MLflow is not")
        dialect.import_dbapi()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = PACKAGES.get(module, module)
        raise UserError(
            f"{VARIABLE} is {store.shown}, which needs the package '{package}', and it is not installed; "
            f"run `.venv/bin/uv pip install '{package}'`, or name another store"
        ) from None
    except ImportError as error:  # it is there, and what it needs is not: libpq, ODBC
        raise UserError(
            f"{VARIABLE} is {store.shown}, whose driver cannot be loaded: {brief(str(error))}"
        ) from None
    except NoSuchModuleError:
        driver = store.uri.partition(":")[0]
        raise UserError(f"{VARIABLE} is {store.shown}: SQLAlchemy knows no driver '{driver}'") from None
    except (ArgumentError, ValueError):  # their own text may quote the password
        raise UserError(f"{VARIABLE} is {store.shown}, which is no address of a database") from None


def local_store(study: Path) -> list[Path]:
    """List where MLflow writes on this machine for a study: its database, its artifacts."""
    found = [study / STORE, study / "mlartifacts", study / "mlruns"]
    with suppress(UserError):  # said by whoever wants to write there
        if (file := store_of(study).file) is not None:
            found.append(study / file)
    return found


REMEMBERED = "store.json"


def remember(root: Path, moved: bool = False) -> None:
    """Write down the store that ``MLFLOW_TRACKING_URI`` names, without credentials.

    The study's own is none, named or not (``mlflow run`` names it): a study may be moved, its store with it.

    Args:
        root: the study's folder.
        moved: somebody says that the study's record goes on here: in the default one, too.

    """
    store, file = store_of(root), home(root) / REMEMBERED
    if store.file is not None and store.file.resolve() == (root / STORE).resolve():
        if moved or (os.environ.get(VARIABLE) and remembered(root) is not None):
            file.unlink(missing_ok=True)
    elif moved or remembered(root) != store.shown:
        write_atomically(file, json.dumps({"store": store.shown}) + "\n", durable=True)


def remembered(root: Path) -> str | None:
    """Read where the study was last recorded; None where nobody named a store.

    Raises:
        UserError: the file is damaged: a call without the store's name would go to the study's own.

    """
    file = home(root) / REMEMBERED
    try:
        return str(json.loads(file.read_bytes())["store"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{file}: not what a record wrote, so it is not known where this study is recorded; set "
            f"{VARIABLE} to that store and say `lossbench retrain --move-store` once"
        ) from None


def expect_remembered(root: Path) -> None:
    """Refuse another store than the study was last recorded in.

    Raises:
        UserError: naming both; or that it is not known where that was.

    """
    before, now = remembered(root), store_of(root).shown
    if before is not None and before != now:
        raise UserError(
            f"{VARIABLE}: this study is recorded in {before}, and {now} is asked for; set it to the "
            "former, or say `lossbench retrain --move-store` once"
        )


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


def prepare_environment() -> None:
    """Set MLflow's environment; must come before its import."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.update(SILENT)
    for name in HIJACKERS:
        os.environ.pop(name, None)
