"""A store survives its making, its moving, and its loss."""

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import tiny_params, write_params
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples

from lossbench.cli import main
from lossbench.doctor.runs import examine_database
from lossbench.errors import UserError
from lossbench.retraining.backup import backup, restore
from lossbench.tracking.artifacts import database
from lossbench.tracking.server import ServerGoneError, connect, tracking_uri
from lossbench.tracking.store import local_uri


@pytest.fixture(autouse=True)
def own_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("LOSSBENCH_HOME", raising=False)


@settings(max_examples=examples(100), deadline=None)
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_the_address_of_a_store_leads_back_to_its_file_whatever_its_path_holds(name):
    file = Path("/somewhere").resolve() / f"x{name}" / "mlflow.db"
    uri = local_uri(file)
    assert database(uri) == file
    from sqlalchemy.dialects.sqlite.pysqlite import dialect
    from sqlalchemy.engine import make_url

    (opened,), _ = dialect().create_connect_args(make_url(uri))
    assert opened == str(file)


def study(folder: Path, empty_store: Path) -> Path:
    """A study with a store: a run with a file, and a registered version with an alias."""
    folder.mkdir(parents=True)
    write_params(folder, tiny_params())
    shutil.copy(empty_store, folder / "mlflow.db")
    client = connect(folder)
    experiment = client.create_experiment("digits", (folder / "mlartifacts/digits").resolve().as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "what was said", "said.txt")
    client.create_registered_model("tiny")
    version = client.create_model_version("tiny", f"{client.get_run(run).info.artifact_uri}/model", run)
    client.set_registered_model_alias("tiny", "champion", version.version)
    (folder / "reports").mkdir()
    (folder / "reports/retraining.csv").write_text("time,outcome,reason\n1,promoted,better\n")
    return folder


def whole(folder: Path) -> bool:
    client = connect(folder)
    version = client.get_model_version_by_alias("tiny", "champion")
    here = folder.resolve().as_uri()
    run = client.get_run(version.run_id).info
    from mlflow.artifacts import load_text

    return (
        load_text(f"{run.artifact_uri}/said.txt") == "what was said"
        and run.artifact_uri.startswith(here)
        and version.source.startswith(here)
        and (folder / "reports/retraining.csv").is_file()
    )


def test_a_backup_is_restored_to_any_path(tmp_path, empty_store, monkeypatch, capsys):
    origin = study(tmp_path / "here", empty_store)
    kept, elsewhere = tmp_path / "kept", tmp_path / "50% of it? (#2)" / "there"
    backup(origin, kept)
    shutil.rmtree(origin)
    elsewhere.mkdir(parents=True)
    write_params(elsewhere, tiny_params())
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("sys.argv", ["lossbench", "restore", str(kept)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, capsys.readouterr().err
    assert whole(elsewhere)
    with pytest.raises(UserError, match="is there already"):
        restore(elsewhere, kept)
    with pytest.raises(UserError, match="exists already"):
        backup(elsewhere, kept)


@pytest.mark.parametrize("harm", ["cut", "missing", "no inventory", "climbs out"])
def test_a_damaged_backup_restores_nothing(tmp_path, harm):
    kept, target = tmp_path / "kept", tmp_path / "target"
    origin = tmp_path / "origin"
    (origin / "reports").mkdir(parents=True)
    (origin / "reports/retraining.csv").write_text("time,outcome,reason\n")
    backup(origin, kept)
    file = kept / "reports/retraining.csv"
    if harm == "cut":
        file.write_text("time")
    elif harm == "missing":
        file.unlink()
    elif harm == "no inventory":
        (kept / "backup.json").unlink()
    else:
        text = (kept / "backup.json").read_text()
        (kept / "backup.json").write_text(text.replace("reports/retraining.csv", "../outside.csv"))
    target.mkdir()
    write_params(target, tiny_params())
    before = sorted(one.name for one in target.iterdir())
    with pytest.raises(UserError):
        restore(target, kept)
    assert sorted(one.name for one in target.iterdir()) == before
    assert not (tmp_path / "outside.csv").exists()


@pytest.mark.slow
def test_a_renamed_checkout_is_put_right_when_its_store_is_opened(tmp_path, empty_store):
    folder = study(tmp_path / "before", empty_store)
    from lossbench.tracking.server import close_store

    close_store()
    folder.rename(tmp_path / "after")
    assert examine_database(tmp_path / "after") == []
    assert whole(tmp_path / "after")


@pytest.mark.slow
def test_a_record_that_went_on_since_the_backup_is_kept_aside(tmp_path, empty_store):
    """A store is lost on Friday, and the backup is of Monday: Tuesday's decisions stand in the record alone."""
    folder, said = study(tmp_path / "study", empty_store), []
    backup(folder, tmp_path / "kept", say=said.append)
    record = folder / "reports/retraining.csv"
    then = record.read_text()
    now = then + "2,promoted,better still\n"
    for times in (1, 2):
        record.write_text(now)
        shutil.rmtree(folder / "mlartifacts")
        (folder / "mlflow.db").unlink()
        restore(folder, tmp_path / "kept", say=said.append)
        assert record.read_text() == then
        assert (folder / f"reports/retraining.csv.before-restore-{times}").read_text() == now
    assert sum("kept as retraining.csv.before-restore" in line for line in said) == 2


@pytest.mark.slow
def test_a_store_made_anew_at_its_place_is_read_by_who_had_the_former_open(tmp_path, empty_store):
    """A server that follows an alias runs for months; what it holds open may long be gone."""
    before = study(tmp_path / "study", empty_store)
    after = study(tmp_path / "other", empty_store)
    client, other = connect(before), connect(after)
    client.create_registered_model("former")
    other.create_registered_model("restored")
    (before / "mlflow.db").unlink()
    with pytest.raises(ServerGoneError):
        client.search_registered_models()
    assert not (before / "mlflow.db").exists()  # nobody made an empty one
    assert (before / "mlflow.db-wal").exists()  # the log of the store that is gone would be read into another
    backup(after, tmp_path / "kept")
    shutil.rmtree(before / "mlartifacts")
    restore(before, tmp_path / "kept")
    assert [one.name for one in client.search_registered_models()] == ["restored", "tiny"]
    client.create_registered_model("further")
    assert {one.name for one in connect(before).search_registered_models()} == {
        *("further", "restored", "tiny")
    }


def killed_while_tables_are_made(root: Path, statement: int) -> bool:
    """Make a store in a fork that dies at its n-th statement; whether it died."""
    child = os.fork()
    if not child:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        seen = [0]

        def count(*_):
            seen[0] += 1
            if seen[0] > statement:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "before_cursor_execute", count)
        connect(root)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("statement", [0, 40, 130, 300, 500])
def test_a_store_killed_while_its_tables_are_made_is_made_by_the_next_call(tmp_path, statement):
    import mlflow  # noqa: F401  # once, not in every fork

    assert killed_while_tables_are_made(tmp_path, statement)
    assert not (tmp_path / "mlflow.db").exists()
    assert connect(tmp_path).search_experiments()
    assert not list(tmp_path.glob(".mlflow.db.part*"))


def test_no_room_while_tables_are_made_leaves_no_store(tmp_path, monkeypatch):
    from lossbench.tracking.server import ServerGoneError

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", full)
    with pytest.raises(ServerGoneError, match="No space left"):
        connect(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*mlflow.db*"))


def test_a_store_that_is_no_file_is_told_at_once(tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(ServerGoneError, match=r"mlflow\.db cannot be opened: it is no file"):
        connect(tmp_path)
    (tmp_path / "mlflow.db").rmdir()
    (tmp_path / "mlflow.db").write_bytes(b"x")
    monkeypatch.setattr("lossbench.tracking.server.os.access", lambda *_: False)
    with pytest.raises(ServerGoneError, match="not ours to read and write"):
        connect(tmp_path)


@pytest.mark.slow
def test_a_store_of_another_mlflow_says_what_helps(tmp_path, empty_store):
    folder = study(tmp_path / "study", empty_store)
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(
        ServerGoneError, match=r"ffffffffffff.*`mlflow db upgrade`.*or install the newer one that did$"
    ):
        connect(tmp_path / "other")


def test_a_half_made_store_is_moved_aside_and_one_with_runs_is_not(tmp_path):
    store = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("CREATE TABLE experiments (artifact_location TEXT)")
    (found,) = examine_database(tmp_path)
    assert "half made" in found.what
    found.repair()
    assert not store.exists()
    assert len(list(tmp_path.glob("mlflow.db.broken-*"))) == 1
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.execute("INSERT INTO runs VALUES ('a')")
    assert examine_database(tmp_path) == []


def test_the_default_store_s_address_needs_no_escape_where_its_path_has_none(tmp_path):
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
