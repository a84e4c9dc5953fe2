"""The address of MLflow's store: whatever is in it, one sentence, and never its password."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, in_process, tiny_params, write_params
from hypothesis import example, given, settings
from hypothesis import strategies as st
from law_cases import each

from lossbench.checking import check
from lossbench.errors import UserError
from lossbench.params import parse_params
from lossbench.telling import scrubbed, shown
from lossbench.tracking.server import connect
from lossbench.tracking.store import check_driver, local_store, parse, store_of

SECRET = "hunter2-secret"  # noqa: S105 (the one that must not be printed)


@each(
    ("uri", "kind", "host", "port"),
    [
        ("http://127.0.0.1:5000", "http", "127.0.0.1", 5000),
        ("https://me:pw@mlflow.example/base", "https", "mlflow.example", 443),
        ("http://[::1]:5000", "http", "::1", 5000),
        ("HTTP://host", "http", "host", 80),
        ("postgresql+psycopg2://me:pw@db:5432/x", "postgresql", None, None),
        ("databricks", "databricks", None, None),
        ("databricks://profile", "databricks", None, None),
    ],
)
def test_an_address_is_read(uri: str, kind: str, host: str | None, port: int | None) -> None:
    store = parse(uri)
    assert (store.uri, store.kind, store.host, store.port, store.file) == (uri, kind, host, port, None)


@each(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////srv/a@b/m.db?timeout=5", "/srv/a@b/m.db"),
        ("file:///srv/runs", "/srv/runs"),
        ("file:/srv/my%20runs", "/srv/my runs"),
        ("./mlruns", "mlruns"),
        ("/srv/runs", "/srv/runs"),
    ],
)
def test_a_local_store_is_found_where_it_is(uri: str, file: str, tmp_path: Path, monkeypatch: Any) -> None:
    assert parse(uri).file == Path(file)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tmp_path / file in local_store(tmp_path)


@pytest.mark.parametrize("uri", ["sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite:///:memory:?x=1"])
def test_a_store_in_memory_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="names no file: what is recorded would be lost with the process"):
        parse(uri)


@pytest.mark.parametrize(
    "uri", ["sqlite:///{}/m.db", "sqlite+pysqlite:///{}/m.db", "file://{}/m.db", "file:{}/m.db", "{}/m.db"]
)
def test_the_home_folder_is_written_out(uri: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format("~"))
    store = store_of(tmp_path)
    assert store.file == tmp_path / "m.db"
    assert store.uri == uri.format(tmp_path)


def test_a_home_that_nobody_has_is_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///~no-such-user/m.db")
    with pytest.raises(UserError, match=r"is sqlite:///~no-such-user/m\.db: "):
        store_of(tmp_path)


def test_a_driver_that_lacks_a_library_or_is_asynchronous_is_one_sentence(monkeypatch: Any) -> None:
    from sqlalchemy.engine import make_url

    def broken(_self: Any) -> None:
        raise ImportError("no pq wrapper available.")

    uri = "postgresql+psycopg://db/mlflow"
    monkeypatch.setattr(make_url(uri).get_dialect(), "import_dbapi", classmethod(broken))
    with pytest.raises(UserError, match=r"whose driver cannot be loaded: .no pq wrapper available\."):
        check_driver(parse(uri))
    for uri in ("postgresql+asyncpg://db/x", "mysql+aiomysql://db/x", "mssql+aioodbc://db/x"):
        with pytest.raises(UserError, match="whose driver is asynchronous"):
            check_driver(parse(uri))


PASSWORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\""), min_size=1, max_size=12
).map(lambda text: f"{SECRET}{text}{SECRET}")
SCHEMES = st.sampled_from(
    [
        "http",
        "https",
        "postgresql",
        "postgresql+psycopg",
        "mysql+pymysql",
        "mssql",
        "postgres",
        "httpx",
        "ftp",
        "POSTGRESQL",
    ]
)
SLASHES = st.sampled_from(["://", ":", ":/"])


@settings(deadline=None)
@example(scheme="http", slashes="://", password=f"{SECRET}://{SECRET}", port="")
@example(scheme="http", slashes="://", password=f"{SECRET}'://{SECRET}", port="")
@given(
    scheme=SCHEMES,
    slashes=SLASHES,
    password=PASSWORDS,
    port=st.sampled_from(["", ":5000", ":", ":port", ":99999"]),
)
def test_no_password_is_ever_shown(scheme: str, slashes: str, password: str, port: str) -> None:
    uri = f"{scheme}{slashes}me:{password}@db.example{port}/mlflow"
    said = [shown(uri)]
    try:
        store = parse(uri)
        said += [store.shown]
        check_driver(store)
    except UserError as error:
        said.append(str(error))
    assert not [one for one in said if SECRET in one]
    assert SECRET not in scrubbed(f"cannot connect to {scheme}://me:{password}@db.example, sorry")


@pytest.mark.parametrize("query", ["password", "sslpassword", "access_token", "api_key", "pwd"])
def test_no_secret_of_a_query_is_shown(query: str) -> None:
    uri = f"postgresql://db/mlflow?{query}={SECRET}&x=1"
    assert SECRET not in shown(uri)
    assert SECRET not in scrubbed(f"invalid dsn: {uri}")


MISSING = {
    "postgresql://db/mlflow": "psycopg2-binary",
    "postgresql+psycopg://db/mlflow": "psycopg[binary]",
    "postgresql+pg8000://db/mlflow": "pg8000",
    "mysql://db/mlflow": "mysqlclient",
    "mysql+pymysql://db/mlflow": "pymysql",
    "mssql+pyodbc://db/mlflow": "pyodbc",
    "mssql+pymssql://db/mlflow": "pymssql",
}


@each("uri", list(MISSING))
def test_a_driver_that_is_not_installed_is_named(uri: str, monkeypatch: Any) -> None:
    from sqlalchemy.engine import make_url

    def absent(_self: Any) -> None:
        names = {"psycopg2-binary": "psycopg2", "psycopg[binary]": "psycopg", "mysqlclient": "MySQLdb"}
        package = MISSING[uri]
        raise ModuleNotFoundError(f"No module named '{package}'", name=names.get(package, package))

    monkeypatch.setattr(make_url(uri).get_dialect(), "import_dbapi", classmethod(absent))
    with pytest.raises(UserError, match=r"needs the package '") as refused:
        check_driver(parse(uri))
    assert f"'{MISSING[uri]}'" in str(refused.value)


@each(
    ("uri", "sentence"),
    [
        ("postgres://db/mlflow", "no kind of store is called 'postgres'; did you mean 'postgresql'?"),
        ("postgresql+nothing://db/mlflow", "knows no driver 'postgresql+nothing'"),
        ("htp://host", "did you mean 'http'?"),
        ("http://", "names no host"),
        ("http://host:port", "whose port cannot be read"),
        ("http://[::1", "whose host cannot be read"),
        ("sqlite:mlflow.db", "expected three slashes before the file's path: sqlite:///FILE"),
        ("sqlite://mlflow.db", "expected three slashes before the file's path: sqlite:///FILE"),
        ("sqlite+aiosqlite:///mlflow.db", "of a driver that MLflow does not use; write 'sqlite:'"),
        ("mysql:me:pw", "expected '//' after 'mysql:'"),
        ("localhost:5000", "a host and a port; expected http://localhost:5000"),
        ("postgresql://db:port/x", "is no address of a database"),
    ],
)
def test_what_is_no_address_is_refused_by_check_in_a_sentence(
    uri: str, sentence: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI is ") as refused:
        check(parse_params(tiny_params()), study=tmp_path)
    assert sentence in str(refused.value)
    with pytest.raises(UserError):
        connect(tmp_path)


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    assert store_of(tmp_path).file == tmp_path / "mlflow.db"


@pytest.mark.parametrize("entry", ["track", "ui", "doctor", "rollback"])
def test_every_entry_point_says_it_in_one_sentence(entry: str, tmp_path: Path) -> None:
    made = tiny_params()
    made["retraining"] = {"experiment": "digits"}
    write_params(tmp_path, made)
    uri = f"postgres://me:{SECRET}@db/mlflow"
    ran = in_process(tmp_path, entry, MLFLOW_TRACKING_URI=uri)
    said = ran.stdout + ran.stderr
    assert ran.returncode in (1, 2), said
    assert "no kind of store is called 'postgres'" in said
    assert "Traceback" not in said
    assert SECRET not in said


def test_reading_an_address_imports_neither_mlflow_nor_sqlalchemy() -> None:
    code = (
        "import sys; from pathlib import Path; from lossbench.tracking.store import store_of; store_of(Path());"
        "assert not {'mlflow', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
