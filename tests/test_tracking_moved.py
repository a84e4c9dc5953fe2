"""Files of runs and models are where the store is, also when it was copied, moved, renamed or shared."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.tracking._tracking_service import utils

from lossbench.params import load_params
from lossbench.tracking import artifacts
from lossbench.tracking.experiment import open_experiment
from lossbench.tracking.server import RefusedError, connect
from lossbench.tracking.track import Drawn, track
from tests.law_cases import examples
from tests.test_tracking_ship import role, runs_of
from tests.tracking_study import train, write_outs, write_report, write_study


def chart(text):
    return lambda _: Drawn({"scores.svg": f"<svg>{text}</svg>"})


def recorded(root, empty_store):
    """A checkout that was recorded, with a registered model beside."""
    params = write_study(root)
    for arm in params.arms:
        train(root, params, arm)
    write_report(root, params)
    shutil.copy(empty_store, root / "mlflow.db")
    track(params, root, charts=chart("old"))
    client = connect(root)
    parent = role(runs_of(root), "arm")[0]
    logged = client.create_logged_model(parent.info.experiment_id, name="m", source_run_id=parent.info.run_id)
    (root / "model").mkdir()
    (root / "model" / "weights").write_text("of the old place")
    client.log_model_artifacts(logged.model_id, str(root / "model"))
    client.create_registered_model("service")
    where = client.get_logged_model(logged.model_id).artifact_location
    client.create_model_version("service", where, model_id=logged.model_id)
    return params


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def everywhere(store):
    """All absolute places in a database."""
    with closing(sqlite3.connect(store)) as database:
        return [
            row[0]
            for table, column in artifacts.COLUMNS
            for row in database.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")  # noqa: S608 (names of ours)
            if row[0].startswith(("file:", "/"))
        ]


def copied(old, new):
    shutil.copytree(old, new, symlinks=True)


def renamed(old, new):
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)


def database_alone(old, new):
    shutil.copytree(old, new, ignore=shutil.ignore_patterns("mlartifacts"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "name"),
    [(way, name) for way in (copied, renamed, database_alone) for name in ("new", "a b/ä#ü%20")],
)
def test_what_a_moved_checkout_records_is_in_the_new_place(tmp_path, empty_store, monkeypatch, way, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old, new = tmp_path / "old", tmp_path / name
    params = recorded(old, empty_store)
    way(old, new)
    utils._artifact_repos_cache.clear()  # of one process, which would not open both
    before = files(old / "mlartifacts")
    write_report(new, params, verdict="worse")
    track(load_params(new / "params.yaml"), new, charts=chart("new"))
    parent = role(runs_of(new), "arm")[0]
    drawn = new / "mlartifacts/toy" / parent.info.run_id / "artifacts/charts/scores.svg"
    assert drawn.read_text() == "<svg>new</svg>"
    assert files(old / "mlartifacts") == before
    shown = connect(new).download_artifacts(parent.info.run_id, "charts/scores.svg")
    assert Path(shown).read_text() == "<svg>new</svg>"
    model = Path(mlflow.artifacts.download_artifacts("models:/service/1"))
    assert (model / "weights").read_text() == "of the old place"
    assert everywhere(new / "mlflow.db")
    for place in everywhere(new / "mlflow.db"):
        if "mlartifacts" in place:
            assert artifacts.local(place).is_relative_to(new), place


def test_the_files_of_a_shared_database_are_beside_it(tmp_path, empty_store, monkeypatch):
    (tmp_path / "shared").mkdir()
    shutil.copy(empty_store, tmp_path / "shared" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared' / 'mlflow.db'}")
    for name in ("one", "two"):
        params = write_study(tmp_path / name, losses=("focal",))
        write_outs(tmp_path / name, params, "toy-focal")
        write_report(tmp_path / name, params)
        track(params, tmp_path / name, charts=chart(name))
    assert len(list(tmp_path.glob("shared/mlartifacts/toy/*/artifacts/charts/scores.svg"))) == 1
    assert not list(tmp_path.glob("one/mlartifacts")) + list(tmp_path.glob("two/mlartifacts"))


@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.text("ab %#é'_?", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=1, max_size=3
    ),
    st.sampled_from(["toy", "study/toy", "s t/ä"]),
)
def test_every_place_under_the_old_folder_and_no_other_is_rewritten(tmp_path_factory, parts, name):
    home = tmp_path_factory.mktemp("moved")
    old, new = home.joinpath("old", *parts), home / "new"
    new.mkdir()
    inside, beside = old / "mlartifacts" / name, Path(f"{old}2") / "mlartifacts"
    with closing(sqlite3.connect(new / "mlflow.db")) as store:
        store.execute("CREATE TABLE experiments (name, artifact_location)")
        for table in dict.fromkeys(table for table, _ in artifacts.COLUMNS[1:]):
            columns = [column for one, column in artifacts.COLUMNS if one == table]
            store.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        store.execute("INSERT INTO experiments VALUES (?, ?)", (name, inside.as_uri()))
        store.execute("INSERT INTO experiments VALUES ('other', ?)", (beside.as_uri(),))
        said = [(inside / "r/artifacts").as_uri(), str(inside / "m"), (beside / "x").as_uri(), "models:/m-1"]
        for table, column in artifacts.COLUMNS[1:]:
            store.executemany(f"INSERT INTO {table} ({column}) VALUES (?)", [(one,) for one in said])  # noqa: S608 (names of ours)
        store.commit()
        for _ in range(2):  # twice is as once
            artifacts.follow(new / "mlflow.db")
            here = new / "mlartifacts" / name
            places = [row[0] for row in store.execute("SELECT artifact_location FROM experiments")]
            assert places == [here.as_uri(), beside.as_uri()]
            found = store.execute("SELECT artifact_uri FROM runs").fetchall()
            assert [one for (one,) in found] == [(here / "r/artifacts").as_uri(), str(here / "m"), *said[2:]]


@pytest.mark.parametrize(
    ("location", "uri", "helps"),
    [
        ("mlflow-artifacts:/1", "sqlite:////x/mlflow.db", "set MLFLOW_TRACKING_URI to its address"),
        ("/nowhere/at/all/1", "http://mlflow.example", "--artifacts-destination"),
        ("file:///proc/nothing/here", "sqlite:////x/mlflow.db", "the right to write there"),
    ],
)
def test_an_experiment_that_cannot_be_used_says_what_helps(location, uri, helps):
    assert helps in artifacts.unusable("toy", location, uri)


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1", "s3://bucket/1", "gs://bucket/x"])
def test_what_a_server_or_a_bucket_keeps_is_left_to_it(location):
    assert artifacts.unusable("toy", location, "https://mlflow.example") is None


def test_an_experiment_that_was_recorded_through_a_server_is_one_sentence(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = write_study(tmp_path, losses=("focal",))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    connect(tmp_path).create_experiment("toy", "mlflow-artifacts:/1")
    with pytest.raises(RefusedError, match="keeps its files with the MLflow server"):
        open_experiment(connect(tmp_path), params, tmp_path, "toy")
