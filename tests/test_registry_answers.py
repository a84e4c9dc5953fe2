"""Only MLflow's own "does not exist", as JSON, means that there is no champion."""

import itertools
import json
import shutil
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from law_cases import shared, some
from losses_cases import grouped

from benchmarks.registry import answers
from lossbench.retraining.registry import Registry
from lossbench.tracking.server import RACES, RefusedError, ServerGoneError, _Guarded, connect

NAME = "digits"
ABSENT = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"Registered Model with name={NAME} not found"}
NO_ALIAS = {"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias champion not found."}
MODEL = {"registered_model": {"name": NAME, "aliases": [{"alias": "champion", "version": "3"}]}}
BARE = {"registered_model": {"name": NAME}}
VERSION = {"model_version": {"name": NAME, "version": "3"}}


class Handler(BaseHTTPRequestHandler):
    """Answers each call with (status, body) by ``answer(path)``."""

    answer = staticmethod(lambda _: (500, b""))

    def do_GET(self):
        status, body = Handler.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # http.server's names

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """Of a server on 127.0.0.1."""
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_address[1]}"
    listener.shutdown()
    listener.server_close()


@pytest.fixture
def champion(address):
    """What the registry says of the champion where calls are answered by ``answer(path)``."""
    from mlflow import MlflowClient

    def ask(answer):
        Handler.answer = staticmethod(answer)
        return Registry(_Guarded(MlflowClient(address)), NAME).champion()

    return ask


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


def said(content, status=200):
    return status, json.dumps(content).encode()


SPOILED = [one for one in answers() if one.how == "answer" and not one.forward]
PLACES = ["everywhere", "registered-models/get", "registered-models/alias", "registered-models/search"]


@shared
@grouped("case", itertools.product(some(SPOILED), PLACES, (True, False)), lambda case: case[1])
def test_a_spoiled_answer_never_means_that_there_is_none(case, champion):
    spoiled, where, there = case

    def answer(path):
        if where == "everywhere" or where in path:
            return spoiled.status, spoiled.body
        if "alias" in path:
            return said(VERSION) if there else said(NO_ALIAS, 400)
        if "search" in path:
            return said({"registered_models": [BARE["registered_model"]]})
        return said(MODEL) if there else said(BARE)

    try:
        found = champion(answer)
    except (ServerGoneError, RefusedError):
        return
    assert found == ("3" if there else None)
    assert where not in ("everywhere", "registered-models/get")
    assert there or where != "registered-models/alias"


def test_mlflow_s_own_words_mean_that_there_is_none(champion):
    assert champion(lambda path: said({}) if "search" in path else said(ABSENT, 404)) is None
    assert champion(lambda path: said(NO_ALIAS, 400) if "alias" in path else said(BARE)) is None


@pytest.mark.parametrize(
    "contradiction",
    [
        lambda path: (
            said({"registered_models": [BARE["registered_model"]]}) if "search" in path else said(ABSENT, 404)
        ),
        lambda path: said(VERSION) if "alias" in path else said(BARE),
        lambda _: said({"registered_model": {"name": "another"}}),
        lambda _: said({**ABSENT, "message": "Registered Model with name=other not found"}, 404),
    ],
)
def test_answers_that_contradict_one_another_are_nobody_s_word(contradiction, champion):
    with pytest.raises(ServerGoneError):
        champion(contradiction)


def test_a_write_that_another_client_was_before_is_made_again(tmp_path, empty_store, monkeypatch):
    """MLflow looks, then inserts: two clients that both found no alias insert both, and one is refused."""
    import sqlalchemy
    from sqlalchemy import event

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = connect(tmp_path)
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, str(tmp_path))
    lost = []

    def another_is_first(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO registered_model_aliases") and not lost:
            lost.append(statement)
            with sqlite3.connect(tmp_path / "mlflow.db") as other:
                other.execute(
                    "INSERT INTO registered_model_aliases (workspace, name, alias, version) VALUES (?, ?, ?, ?)",
                    ("default", NAME, "champion", 1),
                )

    event.listen(sqlalchemy.Engine, "before_cursor_execute", another_is_first)
    try:
        client.set_registered_model_alias(NAME, "champion", "2")
    finally:
        event.remove(sqlalchemy.Engine, "before_cursor_execute", another_is_first)
    assert lost
    assert client.get_model_version_by_alias(NAME, "champion").version == 2


@pytest.mark.parametrize(
    "database",
    [
        "(sqlite3.IntegrityError) UNIQUE constraint failed: tags.key",
        "(psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint",
        '(pymysql.err.IntegrityError) (1062, "Duplicate entry")',
    ],
)
def test_a_write_refused_each_time_is_a_refusal(champion, database):
    asked = []

    def answer(path):
        asked.append(path)
        return said({"error_code": "BAD_REQUEST", "message": database}, 400)

    with pytest.raises(RefusedError, match=r"UNIQUE|[Dd]uplicate"):
        champion(answer)
    assert len(asked) == RACES + 1
