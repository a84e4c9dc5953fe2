"""The fault benchmark sees what is lost, doubled, damaged or wrongly promoted; its table adds up."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT

from benchmarks import faults
from benchmarks.fault_kinds import kinds
from benchmarks.fault_promotion import first_stays, second_takes_over
from benchmarks.fault_services import ON_SERVICES
from benchmarks.fault_study import Kind, Study, Templates, Undisturbed, points, tree
from benchmarks.s3_server import tidy

TABLES = """
CREATE TABLE runs (run_uuid TEXT, status TEXT, lifecycle_stage TEXT);
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);
CREATE TABLE metrics (key TEXT, value REAL, step INTEGER, run_uuid TEXT);
CREATE TABLE registered_model_aliases (alias TEXT, version INTEGER, name TEXT);
CREATE TABLE model_versions (name TEXT, version INTEGER, status TEXT, current_stage TEXT);
INSERT INTO runs VALUES ('r', 'FINISHED', 'active'), ('gone', 'FINISHED', 'deleted');
"""
TAGS = {"lossbench.current": "true", "arm": "a", "lossbench.role": "replicate", "seed": "0"}


@pytest.fixture
def study(tmp_path):
    for name in ("data", "models", "reports"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.executescript(TABLES)
        for run in ("r", "gone"):
            store.executemany("INSERT INTO tags VALUES (?, ?, ?)", [(*tag, run) for tag in TAGS.items()])
            store.executemany("INSERT INTO metrics VALUES ('loss', ?, ?, ?)", [(0.5, 1, run), (0.4, 2, run)])
    return Study(tmp_path)


def change(study: Study, statement: str) -> None:
    with sqlite3.connect(study.folder / "mlflow.db") as store:
        store.execute(statement)


def test_only_present_runs_count(study):
    assert points(study) == Counter(
        [("a", "replicate 0", "loss", 1, 0.5), ("a", "replicate 0", "loss", 2, 0.4)]
    )


def test_harm_that_comes_when_the_run_is_over_is_no_trial(study, tmp_path_factory):
    late = [False, True]  # taken from the end

    def inject(copy, _chance):
        copy.late = late.pop()
        return 0

    kind = Kind("late", "done", inject, recovery=(sys.executable, "-c", ""), judge=lambda _: 0)
    given = (
        kind,
        0,
        Templates(study, study, study),
        Undisturbed.of(study),
        tmp_path_factory.mktemp("trials"),
    )
    row = faults.trial(*given)
    assert (row["kind"], row["trial"], row["unrecovered"], late) == ("late", 0, 0, [])
    late += [True] * faults.ATTEMPTS
    with pytest.raises(RuntimeError, match="late: the run was over before harm came, 3 times"):
        faults.trial(*given)


@pytest.mark.parametrize(
    ("statement", "loss"),
    [
        ("DELETE FROM metrics WHERE step = 2 AND run_uuid = 'r'", {"lost_metrics": 1}),
        ("INSERT INTO metrics VALUES ('loss', 0.4, 2, 'r')", {"doubled_metrics": 1}),
        ("UPDATE metrics SET value = 0.3 WHERE step = 2", {"lost_metrics": 1, "doubled_metrics": 1}),
        ("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = 'r'", {"left_running": 1}),
    ],
)
def test_what_the_store_lacks_or_has_too_much_is_counted(study, statement, loss):
    right = Undisturbed.of(study)
    assert not any(right.losses(study).values())
    change(study, statement)
    assert {key: count for key, count in right.losses(study).items() if count} == loss


def test_a_changed_a_missing_and_an_extra_out_and_a_lost_lock_are_damage(study):
    right = Undisturbed.of(study)
    assert set(tree(study.folder)) == {"data/file", "models/file", "reports/file"}
    (study.folder / "data/file").write_text("other")
    (study.folder / "models/file").unlink()
    (study.folder / "reports/more").write_text("")
    (study.folder / "dvc.lock").write_text("stages: {torn")
    assert right.losses(study)["damaged_outs"] == 4


@pytest.mark.parametrize(
    ("aliases", "versions", "wrong"),
    [
        ([("champion", 1)], [1], 0),
        ([], [1], 1),
        ([("champion", 2)], [1, 2], 2),
        ([("champion", 1)], [1, 2], 1),
    ],
)
def test_any_champion_but_the_first_version_is_a_wrong_promotion(study, aliases, versions, wrong):
    with sqlite3.connect(study.folder / "mlflow.db") as store:
        store.executemany("INSERT INTO registered_model_aliases VALUES (?, ?, 'm')", aliases)
        rows = [(version,) for version in versions]
        store.executemany("INSERT INTO model_versions VALUES ('m', ?, 'READY', 'None')", rows)
    assert first_stays(study) == wrong


def test_a_better_challenger_has_to_take_over_and_the_former_champion_to_be_kept(study):
    with sqlite3.connect(study.folder / "mlflow.db") as store:
        store.executemany("INSERT INTO model_versions VALUES ('m', ?, 'READY', 'None')", [(1,), (2,)])
        store.execute("INSERT INTO registered_model_aliases VALUES ('champion', 2, 'm')")
    assert second_takes_over(study) == 1
    change(study, "INSERT INTO registered_model_aliases VALUES ('previous_champion', 1, 'm')")
    assert second_takes_over(study) == 0
    change(study, "UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")
    assert second_takes_over(study) == 1


def test_there_are_twelve_kinds_or_more_each_with_one_recovery_command():
    found = kinds()
    assert len({kind.name for kind in found}) == len(found) >= 12
    assert {kind.command for kind in found} == {"make repro", "make track", "make doctor", "make retrain"}


def test_the_table_adds_trials_up_and_one_loss_misses_its_goal():
    empty = dict.fromkeys(faults.COUNTED, 0)
    row = {"kind": "k", "recovery": "make repro", "tracebacks": 0, "recovery_seconds": 1.0, **empty}
    (summed,) = faults.table([row, {**row, "lost_metrics": 3, "recovery_seconds": 2.0}])
    assert (summed["trials"], summed["lost_metrics"], summed["recovery_seconds"]) == (2, 3, 2.0)
    met = {goal["name"]: goal["met"] for goal in faults.goals([summed] * 12)}
    assert not met.pop("lost metrics")
    assert all(met.values())


def test_kinds_tried_now_take_the_place_of_what_was_said_of_them_and_the_others_stay(tmp_path, monkeypatch):
    """Two people try different kinds; whoever tried a kind last is believed, whichever file is added."""
    empty = dict.fromkeys(faults.COUNTED, 0)

    def tried(kind: str, time: str, lost: int) -> dict:
        row = {"kind": kind, "recovery": "make repro", "tracebacks": 0, "recovery_seconds": 1.0, **empty}
        trials = [{**row, "trial": 0, "lost_metrics": lost}]
        return {"rows": [{**one, "time": time} for one in faults.table(trials)], "trials": trials}

    first, second = (kind.name for kind in kinds()[:2])
    old = {**tried(first, "2026-01-01", 7), "commit": "old", "machine": "m"}
    old["rows"] += tried("a kind that is no more", "2026-01-01", 9)["rows"]
    both = faults.together(old, tried(second, "2026-01-02", 0))
    assert [(row["kind"], row["lost_metrics"]) for row in both["rows"]] == [(first, 7), (second, 0)]
    assert both["rows"][0]["commit"] == "old"
    monkeypatch.setattr("benchmarks.common.RESULTS", tmp_path)
    (tmp_path / "faults.json").write_text(json.dumps(both))
    (tmp_path / "other.json").write_text(json.dumps(tried(first, "2026-01-03", 0)))
    faults.main(["--add", str(tmp_path / "other.json")])
    (tmp_path / "other.json").write_text(json.dumps(tried(first, "2025-01-01", 5)))
    faults.main(["--add", str(tmp_path / "other.json")])
    added = json.loads((tmp_path / "faults.json").read_text())
    assert [row["lost_metrics"] for row in added["rows"]] == [0, 0]
    assert next(goal for goal in added["goals"] if goal["name"] == "lost metrics")["met"]


def test_of_a_recording_the_whole_requests_that_change_something_are_played_again(tmp_path):
    """A server that was killed may have left half a line, for which nobody was answered."""
    file = tmp_path / "recording"
    assert tidy(file) == 0
    lines = [
        json.dumps({"method": method, "url": "/bucket/a"}) for method in ("PUT", "GET", "DELETE", "HEAD")
    ]
    file.write_text("\n".join([*lines, lines[0][:20]]))
    assert tidy(file) == 2
    assert file.read_text().splitlines() == [lines[0], lines[2]]


def test_kinds_that_need_services_say_what_is_missing(monkeypatch):
    monkeypatch.setattr("benchmarks.services.programs", lambda: None)
    lacking_it = [kind.name for kind in kinds() if "no PostgreSQL" in kind.missing()]
    assert len(lacking_it) == 3
    assert all(ON_SERVICES in name for name in lacking_it)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_benchmark_runs_and_nothing_is_lost(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--trials", "1", "--only", "database deleted"],
        cwd=ROOT, env={**os.environ, "LOSSBENCH_RESULTS": str(tmp_path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = json.loads((tmp_path / "faults.json").read_text())
    assert {"machine", "commit", "time"} <= set(found["rows"][0])
    assert all(trial["metrics"] > 500 for trial in found["trials"])
    assert all(goal["met"] for goal in found["goals"] if goal["name"] != "kinds of fault")
