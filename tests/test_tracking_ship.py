"""MLflow mirrors the outs: every arm once, whole, whatever was there before."""

import json
import math
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from conftest import stage, tiny_params
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lossbench.params import load_params, parse_params
from lossbench.reporting import markdown
from lossbench.telling import shown
from lossbench.tracking import server
from lossbench.tracking.experiment import BEAT, COMPLETE, CURRENT, KEY, OWNER, ROLE, experiment_name
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.record import flatten
from lossbench.tracking.server import ServerGoneError, connect
from lossbench.tracking.store import store_of
from lossbench.tracking.summary import Reports, _plain, summarise
from lossbench.tracking.track import SUMMARY, Drawn, track
from lossbench.tracking.ui import VIEW, addresses
from tests.law_cases import examples
from tests.tracking_study import (
    EPOCHS,
    described,
    replicate,
    train,
    value_of,
    write_outs,
    write_report,
    write_scores,
    write_study,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def study(tmp_path, empty_store, monkeypatch):
    """A study with two trained arms and an empty store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = write_study(tmp_path)
    for arm in params.arms:
        train(tmp_path, params, arm)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def runs_of(root, only="1"):
    client = connect(root)
    found = []
    for experiment in client.search_experiments(filter_string="name != 'Default'"):
        found += client.search_runs([experiment.experiment_id], max_results=1000)
    return found


def role(runs, name):
    return [run for run in runs if run.data.tags["lossbench.role"] == name]


def history_of(root, run, key):
    return [(point.step, point.value) for point in connect(root).get_metric_history(run.info.run_id, key)]


def assert_mirrors(root, arms=2, seeds=2, shift=0.0):
    """Every arm once, whole, its children once, every epoch once, every run closed, nothing beside."""
    runs = runs_of(root)
    assert all(COMPLETE in run.data.tags for run in role(runs, "arm")), "a half-written copy was left"
    known = {run.info.run_id for run in role(runs, "arm")}
    assert {run.data.tags["mlflow.parentRunId"] for run in role(runs, "replicate")} <= known, (
        "an orphan was left"
    )
    current = [run for run in runs if run.data.tags[CURRENT] == "true"]
    parents, children = role(current, "arm"), role(current, "replicate")
    assert len({run.data.tags["arm"] for run in parents}) == len(parents)
    assert len(parents) == arms
    assert len({(run.data.tags["arm"], run.data.tags["seed"]) for run in children}) == len(children)
    assert len(children) == arms * seeds
    assert {run.info.status for run in current} == {"FINISHED"}
    by_id = {run.info.run_id: run for run in parents}
    for child in children:
        arm, seed = child.data.tags["arm"], int(child.data.tags["seed"])
        assert by_id[child.data.tags["mlflow.parentRunId"]].data.tags["arm"] == arm
        expected = [(epoch, value_of(arm, seed, epoch, shift)) for epoch in range(1, EPOCHS + 1)]
        assert history_of(root, child, "train/loss") == expected
        assert child.data.metrics["test/accuracy"] == value_of(arm, seed, 5, shift)
    return runs


def test_every_arm_stands_in_mlflow_with_its_children(study):
    tracked = track(load_params(study / "params.yaml"), study)
    assert tracked.written == ("toy-cross_entropy", "toy-focal")
    runs = assert_mirrors(study)
    assert all(COMPLETE in run.data.tags for run in role(runs, "arm")), "a whole copy says so"
    parent = next(run for run in role(runs, "arm") if run.data.tags["loss"] == "focal")
    assert parent.data.params["recipe.epochs"] == str(EPOCHS)
    mean = sum(value_of("toy-focal", seed, 5) for seed in (0, 1)) / 2
    assert parent.data.metrics["test/accuracy"] == pytest.approx(mean)
    assert parent.data.metrics["seconds_per_replicate"] == 1.5
    assert {"arm", "experiment", "loss", "stage", "device", "data_hash", "params_hash"} <= set(
        parent.data.tags
    )
    assert parent.data.tags["version.torch"]
    assert parent.inputs.dataset_inputs[0].dataset.name == "toy"


def test_a_second_pass_writes_nothing(study):
    params = load_params(study / "params.yaml")
    track(params, study)
    before = {run.info.run_id: (run.data.tags, run.data.metrics) for run in runs_of(study)}
    assert track(params, study).written == ()
    assert {run.info.run_id: (run.data.tags, run.data.metrics) for run in runs_of(study)} == before


@pytest.mark.slow
def test_the_report_is_waited_for_and_read_last(study):
    params = load_params(study / "params.yaml")

    def reported():
        runs = assert_mirrors(study)  # all but what the report says
        assert not any(SUMMARY in run.data.tags for run in runs)
        write_report(study, params)
        return True

    assert track(params, study, reported=reported).written == ("toy-cross_entropy", "toy-focal")
    parents = role(runs_of(study), "arm")
    assert {run.data.tags.get("verdict") for run in parents} == {"better", "baseline"}
    assert track(params, study).written == ()


def test_without_a_report_to_come_the_runs_stand_alone(study):
    tracked = track(load_params(study / "params.yaml"), study, reported=lambda: False)
    assert tracked.written == ("toy-cross_entropy", "toy-focal")
    assert not any(SUMMARY in run.data.tags for run in assert_mirrors(study))


@pytest.mark.slow
def test_an_arm_trained_anew_while_the_report_was_awaited_is_recorded_anew(study):
    params = load_params(study / "params.yaml")

    def reported():
        write_outs(study, params, "toy-focal", shift=0.5)
        write_report(study, params)
        return True

    track(params, study, reported=reported)
    arms, children = role(runs_of(study), "arm"), role(runs_of(study), "replicate")
    flags = Counter((run.data.tags["arm"], run.data.tags[CURRENT], SUMMARY in run.data.tags) for run in arms)
    fresh, old = ("toy-focal", "true", True), ("toy-focal", "false", False)
    assert flags == {("toy-cross_entropy", "true", True): 1, fresh: 1, old: 1}
    focal = [
        run for run in children if run.data.tags["arm"] == "toy-focal" and run.data.tags[CURRENT] == "true"
    ]
    scores = sorted(run.data.metrics["test/accuracy"] for run in focal)
    assert scores == sorted(value_of("toy-focal", seed, 5, 0.5) for seed in (0, 1))


@pytest.mark.slow
def test_outs_without_a_journal_get_their_runs(study):
    """A fresh clone after `dvc pull`."""
    shutil.rmtree(study / ".lossbench")
    track(load_params(study / "params.yaml"), study)
    runs = assert_mirrors(study)
    assert {run.data.tags["origin"] for run in runs} == {"restored from outs"}


def test_a_clone_on_the_same_server_adds_nothing(study):
    """Runs are known by the content of the outs, not by who wrote them where."""
    params = load_params(study / "params.yaml")
    track(params, study)
    shutil.rmtree(study / ".lossbench")
    assert track(params, study).written == ()
    assert_mirrors(study)


@pytest.mark.slow
def test_epochs_carry_the_journal_s_times(study):
    track(load_params(study / "params.yaml"), study)
    client = connect(study)
    child = role(runs_of(study), "replicate")[0]
    times = [point.timestamp for point in client.get_metric_history(child.info.run_id, "train/loss")]
    assert times == sorted(times)
    assert child.info.start_time <= times[0]
    assert times[-1] <= child.info.end_time


class DyingServer:
    """A client whose server dies at the n-th call, before or after doing what was asked."""

    def __init__(self, client, deaths, after):
        self._client, self._left, self._after = client, deaths, after

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def maybe(*arguments, **options):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise ServerGoneError("died before")
            answer = call(*arguments, **options)
            if self._left == 0:
                raise ServerGoneError("died after")
            return answer

        return maybe


@pytest.mark.slow
@settings(max_examples=examples(8), deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=st.integers(1, 45), after=st.booleans())
def test_a_server_that_dies_at_any_call_leaves_nothing_doubled(tmp_path_factory, empty_store, calls, after):
    root = tmp_path_factory.mktemp("study")
    params = write_study(root)
    for arm in params.arms:
        train(root, params, arm)
    shutil.copy(empty_store, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        dying = DyingServer(connect(root), calls, after)
        patch.setattr("lossbench.tracking.track.connect", lambda _: dying)
        try:
            track(params, root)
        except ServerGoneError:
            patch.undo()
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            track(params, root)
        assert_mirrors(root)


@pytest.mark.slow
def test_runs_of_earlier_params_stay_apart(study):
    params = load_params(study / "params.yaml")
    track(params, study)
    write_outs(study, params, "toy-focal", shift=0.5)
    write_scores(study, params, "toy")
    assert track(params, study).written == ("toy-focal",)
    parents = role(runs_of(study), "arm")
    flags = Counter((run.data.tags["arm"], run.data.tags[CURRENT]) for run in parents)
    assert flags == {("toy-cross_entropy", "true"): 1, ("toy-focal", "true"): 1, ("toy-focal", "false"): 1}
    children = role(runs_of(study), "replicate")
    assert Counter(run.data.tags[CURRENT] for run in children) == {"true": 4, "false": 2}


@pytest.mark.slow
def test_going_back_to_earlier_params_brings_their_runs_back(study):
    params = load_params(study / "params.yaml")
    track(params, study)
    write_outs(study, params, "toy-focal", shift=0.5)
    write_scores(study, params, "toy")
    track(params, study)
    write_outs(study, params, "toy-focal")
    assert track(params, study).written == ()
    assert_mirrors(study)


@pytest.mark.slow
def test_an_arm_taken_out_of_params_is_no_longer_current(study):
    params = load_params(study / "params.yaml")
    track(params, study)
    fewer = params.model_copy(update={"arms": {"toy-focal": params.arms["toy-focal"]}})
    track(fewer, study)
    assert_mirrors(study, arms=1)


def test_parents_carry_score_interval_rank_and_verdict(study):
    params = load_params(study / "params.yaml")
    write_report(study, params, verdict="undecided")
    track(params, study)
    parents = {run.data.tags["loss"]: run for run in role(runs_of(study), "arm")}
    focal = parents["focal"].data
    assert focal.tags["verdict"] == "undecided"
    assert parents["cross_entropy"].data.tags["verdict"] == "baseline"
    expected = {
        "test/accuracy": 0.8,
        "test/accuracy_ci_low": 0.78,
        "rank": 2,
        "difference": -0.1,
        "p_holm": 0.02,
    }
    assert {key: focal.metrics[key] for key in expected} == pytest.approx(expected)
    assert "**undecided**" in focal.tags["mlflow.note.content"]
    assert f"{focal.tags['versus']} | **undecided**" in focal.tags["mlflow.note.content"]
    assert (
        "seeds would be needed" not in focal.tags["mlflow.note.content"]
    )  # the sentence has it, with its range


def test_a_score_reads_as_in_the_report(study):
    write_report(study, load_params(study / "params.yaml"))
    for row in pd.read_csv(study / "reports/leaderboard.csv").to_dict("records"):
        found = summarise(ArmOuts(study, "toy", row["arm"]), Reports(study), "accuracy")
        assert found.tags["score"] == markdown.score(row)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("label_smoothing", "label_smoothing"),
        ("__init__", r"\_\_init\_\_"),
        ("_a_", r"\_a\_"),
        ("a*b|c", r"a\*b\|c"),
    ],
)
def test_a_name_is_no_markdown_and_an_underscore_within_it_stays_as_it_is(name, written):
    assert _plain(name) == written


def test_where_nothing_was_compared_nobody_is_the_baseline(study):
    write_report(study, load_params(study / "params.yaml"))
    table = study / "reports/verdicts.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")  # as of a single seed
    for arm in ("toy-cross_entropy", "toy-focal"):
        assert "verdict" not in summarise(ArmOuts(study, "toy", arm), Reports(study), "accuracy").tags


@pytest.mark.slow
def test_a_new_verdict_changes_the_parent_and_rewrites_no_run(study):
    params = load_params(study / "params.yaml")
    write_report(study, params, verdict="undecided")
    track(params, study)
    ids = {run.info.run_id for run in runs_of(study)}
    write_report(study, params, verdict="worse")
    track(params, study)
    runs = runs_of(study)
    assert {run.info.run_id for run in runs} == ids
    focal = next(run for run in role(runs, "arm") if run.data.tags["loss"] == "focal")
    assert focal.data.tags["verdict"] == "worse"


@pytest.mark.slow
def test_trials_of_the_search_are_children_too(study):
    folder = study / "reports" / "tuning"
    folder.mkdir()
    trials = [
        {"learning_rate": 10.0**-n, "loss": {"gamma": n}, "scores": [0.1 * n], "mean": 0.1 * n}
        for n in range(3)
    ]
    content = {
        "arm": "toy-focal",
        "points": 3,
        "seeds": [1000],
        "trials": trials,
        "best": {"learning_rate": 0.01, "loss": {"gamma": 2}},
        "edge": ["learning_rate"],
    }
    (folder / "toy-focal.json").write_text(json.dumps(content))
    track(load_params(study / "params.yaml"), study)
    runs = runs_of(study)
    found = sorted(role(runs, "trial"), key=lambda run: run.data.tags["trial"])
    assert [run.data.metrics["tuning/mean"] for run in found] == pytest.approx([0.0, 0.1, 0.2])
    assert [run.data.tags["best"] for run in found] == ["false", "false", "true"]
    assert found[1].data.params["loss.gamma"] == "1"
    parent = next(run for run in role(runs, "arm") if run.data.tags["loss"] == "focal")
    assert parent.data.tags["tuning_edge"] == "learning_rate"


@pytest.mark.slow
def test_nan_is_recorded_as_nan(study):
    path = study / "models" / "toy" / "toy-focal" / "history.csv"
    path.write_text(
        path.read_text().replace(f"0,3,train,loss,{value_of('toy-focal', 0, 3)}", "0,3,train,loss,nan")
    )
    track(load_params(study / "params.yaml"), study)
    child = next(
        r
        for r in role(runs_of(study), "replicate")
        if r.data.tags["arm"] == "toy-focal" and r.data.tags["seed"] == "0"
    )
    assert math.isnan(history_of(study, child, "train/loss")[-1][1])


def test_a_foreign_run_id_in_the_environment_hijacks_nothing(study, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    track(load_params(study / "params.yaml"), study)
    assert_mirrors(study)


def test_nothing_of_the_environment_reaches_the_record(study, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-secret")
    monkeypatch.setenv("LOSSBENCH_TOKEN", "hunter2-secret")
    track(load_params(study / "params.yaml"), study)
    store = b"".join(path.read_bytes() for path in study.glob("mlflow.db*"))
    assert b"toy-focal" in store
    assert b"hunter2-secret" not in store
    journal = b"".join(path.read_bytes() for path in study.glob(".lossbench/**/*") if path.is_file())
    assert b"hunter2-secret" not in journal


def test_credentials_in_the_address_are_not_shown():
    assert shown("https://me:secret@mlflow.example:8443/x") == "https://mlflow.example:8443/x"
    assert shown("sqlite:////study/mlflow.db") == "sqlite:////study/mlflow.db"


def test_the_store_is_the_study_s_own_and_absolute(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()  # MLflow's own default would change because of it
    assert store_of(tmp_path).uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert store_of(tmp_path).uri == "http://mlflow.example"


def test_using_a_store_leaves_the_environment_as_it_was(tmp_path, empty_store, monkeypatch):
    # MLflow's set_tracking_uri writes into it: the next study of this process would report to this one.
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_store, tmp_path / name / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connect(tmp_path / "one").create_experiment("of one")
    assert "MLFLOW_TRACKING_URI" not in os.environ
    names = {found.name for found in connect(tmp_path / "other").search_experiments()}
    assert names == {"Default"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'one/mlflow.db'}")
    connect(tmp_path / "other")
    assert os.environ["MLFLOW_TRACKING_URI"].endswith("one/mlflow.db")


def test_a_closed_port_is_known_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServerGoneError, match="does not answer"):
        connect(tmp_path)


def test_runs_of_a_dead_process_are_closed(study):
    params = load_params(study / "params.yaml")
    client = connect(study)
    experiment = client.create_experiment("toy")
    gone = json.dumps({"host": server.socket.gethostname(), "boot": "another", "pid": 1, "started": 0.0})
    tags = {OWNER: gone, "lossbench.role": "arm", "arm": "toy-other", CURRENT: "true"}
    run = client.create_run(experiment, tags=tags)
    track(params, study)
    closed = connect(study).get_run(run.info.run_id)
    assert (closed.info.status, closed.data.tags[CURRENT]) == ("KILLED", "false")


@pytest.mark.slow
def test_runs_of_another_machine_are_closed_once_nothing_was_heard_of_them_for_long(study):
    client = connect(study)
    experiment = client.create_experiment("toy")
    owner = {"host": "elsewhere", "boot": "another", "pid": 1, "started": 0.0}
    tags = {OWNER: json.dumps(owner), "lossbench.role": "arm", "arm": "toy-other", CURRENT: "true"}
    now, old = int(time.time()), int(time.time()) - 7200
    silent = client.create_run(experiment, start_time=old * 1000, tags=tags).info.run_id
    beating = client.create_run(experiment, start_time=old * 1000, tags={**tags, BEAT: str(now)}).info.run_id
    training = client.create_run(experiment, start_time=old * 1000, tags=tags).info.run_id
    client.log_metric(training, "train/loss", 0.5, timestamp=now * 1000)
    track(load_params(study / "params.yaml"), study)
    found = {run: connect(study).get_run(run).info.status for run in (silent, beating, training)}
    assert found == {silent: "KILLED", beating: "RUNNING", training: "RUNNING"}


@pytest.mark.slow
def test_a_killed_attempt_disappears_once_the_arm_is_whole(study):
    from lossbench.tracking.record import arm_record

    params = load_params(study / "params.yaml")
    settings_hash = arm_record(params, ArmOuts(study, "toy", "toy-focal")).parent.tags["params_hash"]
    client = connect(study)
    experiment = client.create_experiment("toy")
    gone = json.dumps({"host": server.socket.gethostname(), "boot": "another", "pid": 1, "started": 0.0})
    tags = {OWNER: gone, "lossbench.role": "arm", "arm": "toy-focal", CURRENT: "true"}
    same = client.create_run(experiment, tags={**tags, "params_hash": settings_hash})
    other = client.create_run(experiment, tags={**tags, "params_hash": "other params"})
    track(params, study)
    assert connect(study).get_run(same.info.run_id).info.lifecycle_stage == "deleted"
    assert connect(study).get_run(other.info.run_id).info.lifecycle_stage == "active"


def test_a_study_of_its_own_name_has_experiments_of_its_own(study):
    params = load_params(study / "params.yaml").model_copy(update={"root": "../.."})
    track(params, study)
    assert connect(study).get_experiment_by_name(f"{study.name}/toy") is not None


@pytest.mark.slow
def test_a_deleted_experiment_is_restored(study):
    params = load_params(study / "params.yaml")
    track(params, study)
    client = connect(study)
    client.delete_experiment(client.get_experiment_by_name("toy").experiment_id)
    track(params, study)
    assert_mirrors(study)


@pytest.mark.slow
def test_the_stage_says_what_it_did_and_where_the_server_is_missing(study):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lossbench", "track"]
    for extra, code, text in (
        ([], 1, "refused: MLflow at http"),
        (["--lenient"], 0, "warning: MLflow at http"),
    ):
        dead = {**environment, "MLFLOW_TRACKING_URI": "http://user:hunter2@127.0.0.1:9"}
        done = subprocess.run(
            [*command, *extra], cwd=study, env=dead, capture_output=True, text=True, check=False
        )
        assert (done.returncode, text in done.stderr) == (code, True)
        assert "nothing is lost" in done.stderr
        assert "hunter2" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def _first_use(root):
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return connect(Path(root)).search_experiments()[0].name


@pytest.mark.slow
def test_many_processes_may_use_a_fresh_store_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(_first_use, [str(tmp_path)] * 4) == ["Default"] * 4


def test_settings_become_dotted_params():
    content = {
        "model": {"name": "unet", "width": 16},
        "seeds": None,
        "recipe": {"optimizer": {"betas": (0.9, 0.99)}},
    }
    assert flatten(content) == {
        "model.name": "unet",
        "model.width": "16",
        "recipe.optimizer.betas": "(0.9, 0.99)",
    }


@pytest.mark.slow
def test_the_report_s_charts_hang_on_every_parent_and_are_drawn_anew_with_the_report(study):
    params = load_params(study / "params.yaml")
    drawn = []

    def charts(experiment):
        drawn.append(experiment)
        return Drawn({"scores.svg": f"<svg>{len(drawn)}</svg>"}, {"toy-focal": "#d55e00"})

    track(params, study, charts=charts)
    assert drawn == []  # no report yet
    for verdict, count in (("worse", 1), ("worse", 1), ("tie", 2)):
        write_report(study, params, verdict=verdict)
        track(params, study, charts=charts)
        assert drawn == ["toy"] * count
    for parent in role(runs_of(study), "arm"):
        path = connect(study).download_artifacts(parent.info.run_id, "charts/scores.svg")
        assert Path(path).read_text() == "<svg>2</svg>"
        coloured = parent.info.run_name == "toy-focal"
        assert parent.data.tags.get("mlflow.runColor") == ("#d55e00" if coloured else None)


@pytest.mark.slow
def test_when_tracking_has_ended_the_store_is_one_file_that_can_be_copied(study, tmp_path_factory):
    ended = stage(study, "track")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(file.name for file in study.glob("mlflow.db*")) == ["mlflow.db"]
    copy = tmp_path_factory.mktemp("copy") / "mlflow.db"
    shutil.copy(study / "mlflow.db", copy)
    with closing(sqlite3.connect(copy)) as store:
        count = store.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0]
    assert count == len(runs_of(study)) > 0


@pytest.mark.slow
def test_the_load_of_the_machine_stands_on_the_parent(study, monkeypatch):
    from lossbench.tracking import journal

    monkeypatch.setattr(journal, "FIRST", 0.0)
    params = load_params(study / "params.yaml")
    train(study, params, "toy-focal")
    track(params, study)
    parent = next(run for run in role(runs_of(study), "arm") if run.data.tags["loss"] == "focal")
    assert 0 <= parent.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert parent.data.metrics["system/system_memory_usage_megabytes"] > 0


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_sentence(study):
    (study / ".lossbench" / "track.lock").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lossbench", "track"]
    done = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("refused: ")
    assert "track.lock" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_track_without_outs(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    params = write_study(tmp_path)
    assert track(params, tmp_path).missing == tuple(params.arms)
    assert described(params, "toy-focal")["seeds"] == [replicate("toy-focal", seed).seed for seed in (0, 1)]


def test_the_best_arm_stands_first_where_less_is_better(tmp_path, empty_store):
    """By the metric downwards, a perplexity of 9 stood above one of 3."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    params = parse_params(tiny_params())
    experiment = client.create_experiment(experiment_name(params, tmp_path, "digits"))
    made = {}
    for rank, score in ((2, 9.0), (1, 3.0)):
        made[rank] = client.create_run(
            experiment, tags={ROLE: "arm", CURRENT: "true", KEY: str(rank)}
        ).info.run_id
        client.log_metric(made[rank], "rank", rank)
        client.log_metric(made[rank], "test/accuracy", score)
    (pages,) = addresses(client, params, tmp_path, "http://127.0.0.1:1")
    assert pages.compare.index(made[1]) < pages.compare.index(made[2])
    tags = client.get_experiment(experiment).tags
    (state,) = (json.loads(value) for key, value in tags.items() if key.startswith(VIEW))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`rank`", True)
