"""Runs as people leave them in MLflow: going on, failed, killed, repeated, nested, half named."""

import math
from types import SimpleNamespace

import pytest

from lossbench.errors import UserError
from lossbench.tracking import store as environment
from lossbench.verdicts import mlflow_runs
from lossbench.verdicts.judging import Question, judge_rows
from lossbench.verdicts.table import Row

SCORES = {"ce": 0.70, "dice": 0.78}
ASKED = ("x", "tags.loss", "params.seed", "test/dice")


def run(loss="ce", seed=0, score=0.7, status="FINISHED", number=0):
    return SimpleNamespace(
        info=SimpleNamespace(run_id=f"r{number}-{loss}-{seed}-{status}", status=status),
        data=SimpleNamespace(
            tags={"mlflow.user": "me"} | ({} if loss is None else {"loss": loss}),
            params={} if seed is None else {"seed": str(seed)},
            metrics={} if score is None else {"test/dice": score},
        ),
    )


def runs():
    return [
        run(loss, seed, score + 0.01 * (seed % 3) + 0.001 * seed * len(loss))
        for loss, score in SCORES.items()
        for seed in range(8)
    ]


@pytest.fixture
def read(monkeypatch):
    def reading(*further, there=None, asked=ASKED):
        monkeypatch.setattr(
            mlflow_runs, "_runs", lambda *_: [*(runs() if there is None else there), *further]
        )
        return mlflow_runs.read_runs("http://x", *asked)

    return reading


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (run("dice", 8, 0.1, "RUNNING"), "not over yet"),
        (run("dice", 8, 0.1, "SCHEDULED"), "not over yet"),
        (run("dice", 8, None, "KILLED"), "without test/dice, though not failed"),
        (run("dice", 8, None, "FINISHED"), "without test/dice, though not failed"),
        (run("dice", 3, None, "FAILED"), "without test/dice, but run again"),
        (run(None, 8, 0.1), "without tags.loss or params.seed"),
        (run("dice", None, 0.1), "without tags.loss or params.seed"),
        (run(" ", 8, 0.1), "without tags.loss or params.seed"),
    ],
)
def test_a_run_that_is_left_out_changes_no_verdict_and_is_named(read, further, said):
    rows, notes = read(further)
    assert rows == read()[0]
    assert notes == [f"left out: 1 run ({further.info.run_id}) {said}"]
    found = judge_rows(rows, "x", Question("ce", 0.01, "test/dice"), notes)
    assert notes[0] in found.text()


def test_a_failed_run_that_was_not_repeated_diverged(read):
    rows, notes = read(run("dice", 8, None, "FAILED"))
    assert not notes
    with pytest.raises(UserError, match="loss 'dice' on seed 8 is no number"):
        judge_rows(rows, "x", Question("ce", 0.01, "test/dice"))
    assert judge_rows(rows, "x", Question("ce", 0.01, "test/dice", floor=0.1)).scores[""]["dice"]["8"] == 0.1


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_the_score_of_a_run_that_did_not_finish_counts_and_is_told(read, status):
    rows, notes = read(run("dice", 8, 0.3, status))
    assert rows[-1].score == 0.3
    assert "counted with its last value" in notes[0]


@pytest.mark.parametrize("score", [1.7976931348623157e308, float("inf")])
def test_an_infinite_score_is_what_mlflows_database_makes_of_it(read, score):
    rows, _ = read(run("dice", 8, score))
    assert rows[-1].score == float("inf")


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        ([], ASKED, "it has no runs"),
        (
            None,
            ("x", "tags.los", *ASKED[2:]),
            "none of 16 runs has --loss tags.los; tags: did you mean 'loss'",
        ),
        (None, (*ASKED[:2], "tags.seed", ASKED[3]), "none of 16 runs has --seed tags.seed"),
        (None, (*ASKED[:3], "dice"), "has the metric 'dice'; metrics: did you mean 'test/dice'"),
        ([run(None), run("ce", None)], ASKED, "none of 2 runs has both tags.loss and params.seed"),
        ([run(status="RUNNING")], ASKED, "of 1 run with a score none is over"),
    ],
)
def test_what_no_run_has_is_named_with_what_is_there(read, there, asked, said):
    with pytest.raises(UserError) as caught:
        read(there=there, asked=asked)
    assert said in str(caught.value)


def test_a_database_that_is_not_there_is_refused_and_not_made(tmp_path):
    file = tmp_path / "typo.db"
    with pytest.raises(UserError, match="no such file"):
        mlflow_runs.read_runs(f"sqlite:///{file}", *ASKED)
    assert not file.exists()


class Client:
    """A server with 2 500 runs, which gives them by the thousand."""

    stage = "active"

    def __init__(self, tracking_uri):
        pass

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="7", lifecycle_stage=self.stage)

    def search_runs(self, _, max_results, page_token):
        start = int(page_token or 0)
        page = [run("ce", seed) for seed in range(start, min(2500, start + max_results))]
        after = start + max_results

        class Page(list):
            token = str(after) if after < 2500 else None

        return Page(page)


def test_runs_beyond_the_first_thousand_are_read(monkeypatch):
    monkeypatch.setattr("mlflow.MlflowClient", Client)
    rows, _ = mlflow_runs.read_runs("http://x", *ASKED)
    assert [int(row.seed) for row in rows] == list(range(2500))


def test_a_deleted_experiment_is_said_to_be_deleted(monkeypatch):
    monkeypatch.setattr("mlflow.MlflowClient", type("Gone", (Client,), {"stage": "deleted"}))
    with pytest.raises(UserError, match="experiment 'x' is deleted"):
        mlflow_runs.read_runs("http://x", *ASKED)


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    """MLflow's own patience is four minutes."""
    for name in environment.PATIENCE:
        monkeypatch.delenv(name, raising=False)
    environment.prepare_environment()
    from mlflow import environment_variables as theirs

    assert theirs.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 1


def test_a_training_loss_is_refused_before_a_diverged_replicate_is_asked_about():
    rows = [Row("run a", "ce", "0", math.nan, "loss", "", ""), Row("run b", "dice", "0", 0.5, "loss", "", "")]
    with pytest.raises(UserError, match="is the value of the training loss"):
        judge_rows(rows, "x", Question("ce", 0.01, "loss", False))
