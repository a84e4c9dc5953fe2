"""`lossbench verdict` and `lossbench.verdict`: what foreign data bring along gets a sentence, never a guess."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples

import lossbench
from lossbench.cli import main
from lossbench.commands.seeds import plan
from lossbench.errors import UserError
from lossbench.statistics.metrics import is_training_loss, known
from lossbench.statistics.record import Verdict
from lossbench.tasks import TASKS
from lossbench.verdicts.mlflow_runs import read_runs

RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.01, (3, 8))
TABLE = {
    "seed": list(range(8)),
    "ce": list(0.70 + NOISE[0]),
    "dice": list(0.80 + NOISE[1]),
    "focal": list(0.70 + NOISE[0] + NOISE[2] / 20),
}


def judged(table=TABLE, **asked):
    return lossbench.verdict(table, **({"baseline": "ce", "margin": 0.01, "metric": "accuracy"} | asked))


def words(table=TABLE, **asked):
    return {one.arm: str(one.verdict) for one in judged(table, **asked)}


def refusal(table=TABLE, **asked):
    with pytest.raises(UserError) as caught:
        judged(table, **asked)
    return str(caught.value)


def long(table=TABLE):
    return [
        {"loss": loss, "seed": seed, "score": table[loss][row]}
        for loss in table if loss != "seed"
        for row, seed in enumerate(table["seed"])
    ]  # fmt: skip


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    def run(*arguments, table=TABLE):
        file = tmp_path / "scores.csv"
        pd.DataFrame(table).to_csv(file, index=False)
        monkeypatch.setattr(sys, "argv", ["lossbench", "verdict", str(file), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


OTHERS = (
    "torch",
    "pandas",
    "mlflow",
    "dvc",
    "sklearn",
    "pydantic",
    "ruamel",
    "jinja2",
    "altair",
    "yaml",
    "tqdm",
)
ASKED = ("--baseline", "ce", "--metric", "accuracy", "--margin", "0.01")


@pytest.mark.parametrize("form", [dict, pd.DataFrame, lambda table: pd.DataFrame(long(table)), long])
def test_all_forms_of_a_table_give_the_same_verdicts(form):
    assert words(form(TABLE)) == {"dice": "better", "focal": "tie"}


def test_our_own_scores_file_is_read_as_it_is(tmp_path):
    rows = [
        {"arm": f"x-{row['loss']}", "loss": row["loss"], "seed": row["seed"], "metric": metric, "value": value,
         "diverged": False}
        for row in long() for metric, value in (("accuracy", row["score"]), ("nll", 1 - row["score"]))
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "scores.csv", index=False)
    assert words(tmp_path / "scores.csv") == {"dice": "better", "focal": "tie"}
    assert words(tmp_path / "scores.csv", metric="nll") == {"dice": "better", "focal": "tie"}
    assert "several metrics" in refusal(tmp_path / "scores.csv", metric=None)


def test_a_seed_missing_in_one_arm_leaves_the_pairs_that_are_there():
    rows = [row for row in long() if (row["loss"], row["seed"]) != ("dice", 3)]
    found = judged(rows)
    assert {one.arm: one.n for one in found} == {"dice": 7, "focal": 8}
    assert any("dice has no score on seed 3" in note and "7 seeds" in note for note in found.notes)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None, ""])
def test_a_score_that_is_no_number_is_refused_and_the_row_named(score):
    rows = long()
    rows[9]["score"] = score
    assert "row 9" in refusal(rows)
    assert "'dice' on seed 1" in refusal(rows)


def test_a_floor_stands_for_the_replicates_without_a_score():
    rows = long()
    rows[9]["score"] = math.nan
    found = judged(rows, floor=0.1)
    assert found[0].diverged == 1
    assert found[0].arm_condition.collapsed == 1
    assert any("counted with the floor's" in note for note in found.notes)


def test_two_rows_for_one_loss_and_seed_are_refused_and_both_named():
    said = refusal([*long(), {"loss": "ce", "seed": 2, "score": 0.5}])
    assert "row 24" in said
    assert "row 2;" in said


@each("constant", ["ce", "dice"])
@each("value", [0.9, 1.0, 0.0])
def test_one_value_on_all_seeds_is_one_score(constant, value):
    found = judged(TABLE | {constant: [value] * 8})
    dice = next(one for one in found if one.arm == "dice")
    assert dice.verdict == Verdict.UNDECIDED
    assert dice.p == 1
    assert any(f"{constant} has one value, {value:g}, on all 8 seeds" in note for note in found.notes)


def test_a_column_computed_from_the_other_is_one_difference():
    found = judged(TABLE | {"dice": [value + 0.05 for value in TABLE["ce"]]})
    assert found[0].verdict == Verdict.UNDECIDED
    assert any("on all 8 seeds" in note for note in found.notes)


@each(
    "metric",
    [
        "loss",
        "train_loss",
        "val/loss",
        "validation-loss",
        "trainLoss",
        "Loss",
        "eval_loss",
        "epoch_loss",
        "cost",
    ],
)
def test_the_training_loss_is_no_metric(metric):
    assert is_training_loss(metric)
    assert "training loss" in refusal(metric=metric, higher_is_better=False)


@each("metric", ["log_loss", "hamming_loss", "zero_one_loss", "accuracy", "nll", "lossless"])
def test_metrics_that_are_called_loss_are_metrics(metric):
    assert not is_training_loss(metric)


@pytest.mark.parametrize("metric", [None, "my_score", "error_rate", "iou_error", "accuracy_loss_ratio"])
def test_an_unknown_direction_is_asked_for(metric):
    assert "--higher-is-better or --lower-is-better" in refusal(metric=metric)
    assert words(metric=metric, higher_is_better=False)["dice"] == "worse"


@each("task", list(TASKS))
def test_the_names_known_are_the_tasks_metrics(task):
    for metric in TASKS[task].metrics:
        there = known(metric.name)
        assert there is not None, metric.name
        assert there.higher_is_better == metric.higher_is_better


@pytest.mark.parametrize("n", [2, 4, 5])
def test_too_few_seeds_are_said(n):
    found = judged({name: values[:n] for name, values in TABLE.items()})
    assert {str(one.verdict) for one in found} <= {"undecided", "tie"}
    assert any(f"{n} seeds cannot show a difference" in note and "at least 7" in note for note in found.notes)


def test_one_seed_is_refused():
    assert "needs at least 2" in refusal({name: values[:1] for name, values in TABLE.items()})


def test_unpaired_seeds_are_compared_by_welchs_permutation_and_it_is_said():
    rows = [row | {"seed": row["seed"] + 100 * (row["loss"] == "dice")} for row in long()]
    found = judged(rows)
    assert found[0].verdict == Verdict.BETTER
    assert found[0].ahead is None
    assert any("unpaired" in note and "Welch" in note for note in found.notes)
    assert words(unpaired=True)["dice"] == "better"


def test_groups_share_their_seed_and_give_a_second_interval():
    rows = [
        row | {"group": group, "score": row["score"] + shift}
        for row in long()
        for group, shift in (("a", 0), ("b", 0.1))
    ]
    found = judged(rows)
    assert {one.n for one in found} == {8}
    assert found.found[0].groups_low <= found[0].ci_low
    assert "in group 'b'" in refusal(rows[:-1])


def test_experiments_are_families_of_their_own():
    rows = [row | {"experiment": name} for row in long() for name in ("x", "y")]
    assert [one.experiment for one in judged(rows).found] == ["x", "x", "y", "y"]
    assert "4 families" in judged(rows).statement


@each(
    ("table", "asked", "said"),
    [
        ([], {}, "no scores"),
        ({"seed": [1], "ce": [0.5]}, {}, "one loss alone"),
        (TABLE, {"baseline": "cee"}, "did you mean 'ce'"),
        (TABLE, {"margin": 0}, "margin must be"),
        (TABLE, {"margin": math.nan}, "margin must be"),
        (TABLE, {"margin": None}, "margin is missing"),
        (TABLE, {"level": 0.7}, "level must"),
        ({"loss": ["a"], "score": [1]}, {}, "no column 'seed'"),
        ({"loss": ["a"], "seed": [1]}, {}, "no column 'score'"),
        ({"x": [1], "y": [2]}, {}, "neither a column"),
        ({"seed": [1, 2], "ce": [1]}, {}, "one length"),
        ({"seed": [1, 2], "ce": [1, "0,5"], "b": [1, 2]}, {}, "write 0.5"),
        (7, {}, "found int"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_sentence(table, asked, said):
    assert said in refusal(table, **asked)


def test_per_cent_are_not_cut_to_shares_unless_bounds_are_given():
    percent = {
        name: values if name == "seed" else [100 * value for value in values]
        for name, values in TABLE.items()
    }
    assert judged(percent, margin=1.0)[0].ci_low > 1
    assert "outside --bounds" in refusal(percent, margin=1.0, bounds=(0, 1))


def test_a_saved_index_is_no_loss_and_our_columns_are_known_in_any_case():
    table = {"Unnamed: 0": list(range(8))} | {
        name.capitalize() if name == "seed" else name: values for name, values in TABLE.items()
    }
    assert words(table) == words()


@pytest.mark.parametrize("form", ["text", "md", "json", "latex"])
def test_every_format_holds_every_verdict(call, form):
    code, out, _ = call(*ASKED, "--format", form)
    assert code == 0
    assert "dice" in out
    assert "focal" in out
    if form == "json":
        content = json.loads(out)
        wanted = {
            "arm",
            "baseline",
            "verdict",
            "difference",
            "ci_low",
            "ci_high",
            "p",
            "p_holm",
            "n",
            "seeds_needed",
        }
        assert all(wanted <= set(one) for one in content["verdicts"])


def test_exit_codes(call):
    assert call(*ASKED)[0] == 0
    code, _, err = call("--baseline", "dice", *ASKED[2:], "--fail-on", "worse")
    assert (code, err.startswith("refused: ce is worse than dice")) == (1, True)
    assert call(*ASKED, "--fail-on", "worse")[0] == 0
    code, _, err = call("--baseline", "nix", *ASKED[2:])
    assert (code, err.count("\n")) == (2, 1)
    assert "Traceback" not in err


def test_the_page_is_one_file_that_asks_for_nothing_and_escapes(tmp_path):
    hostile = "<script>alert(1)</script>"
    found = judged({hostile if name == "dice" else name: values for name, values in TABLE.items()})
    page = found.html()
    HTMLParser().feed(page)
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    ET.fromstring(found.plot().svg)  # noqa: S314  # our own drawing
    found.plot().save(tmp_path / "forest.svg")
    assert found.frame["verdict"].tolist() == ["better", "tie"]


def test_it_needs_numpy_and_scipy_alone():
    code = (
        "import sys\n"
        "class Refused:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {OTHERS}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Refused())\n"
        "import lossbench\n"
        f"found = lossbench.verdict({ {name: [float(one) for one in values] for name, values in TABLE.items()} }, "
        "'ce', 0.01, 'accuracy')\n"
        "print(found.json(), found.html(), found.latex(), found.markdown())\n"
        "sys.argv = ['lossbench', 'seeds', '--sd', '0.02', '--margin', '0.01']\n"
        "from lossbench.cli import main\n"
        "main()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@settings(deadline=None, max_examples=examples(25))
@given(st.permutations(range(8)), st.permutations(["ce", "dice", "focal"]))
def test_the_order_of_rows_and_columns_changes_no_verdict(rows, columns):
    table = {name: [TABLE[name][row] for row in rows] for name in ("seed", *columns)}
    assert words(table) == words()


@settings(deadline=None, max_examples=examples(25))
@given(st.integers(-64, 64).map(lambda k: k / 32), st.sampled_from([2.0**k for k in range(-6, 7)]))
def test_shift_and_unit_change_no_verdict(shift, unit):
    moved = {
        name: values if name == "seed" else [unit * (value + shift) for value in values]
        for name, values in TABLE.items()
    }
    assert words(moved, margin=0.01 * unit, bounds=(-1e9, 1e9)) == words()


@pytest.mark.slow
def test_mlflows_runs_are_read(tmp_path, monkeypatch):
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("x")
    for row in long():
        run = client.create_run(experiment, tags={"loss": row["loss"]}).info.run_id
        client.log_param(run, "seed", row["seed"])
        client.log_metric(run, "test/dice", row["score"])
        client.set_terminated(run)
    rows, said = read_runs(uri, "x", "tags.loss", "params.seed", "test/dice")
    assert (len(rows), said) == (24, [])
    with pytest.raises(UserError, match="no experiment 'y'"):
        read_runs(uri, "y", "tags.loss", "params.seed", "test/dice")
    with pytest.raises(UserError, match="none of 24 runs"):
        read_runs(uri, "x", "tags.nix", "params.seed", "test/dice")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="needs the package mlflow"):
        read_runs(uri, "x", "tags.loss", "params.seed", "test/dice")


def test_seeds_before_any_training():
    found = plan(sd=0.02, margin=0.01, arms=4)
    assert (found["contrasts"], found["seeds_at_least"], found["seeds_for_difference"]) == (3, 7, 45)
    assert plan(0.02, 0.01, 4, all_pairs=True)["contrasts"] == 6
    for wrong in ({"sd": 0}, {"sd": math.nan}, {"margin": -1}, {"arms": 1}, {"level": 1}, {"power": 0}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
            plan(**({"sd": 0.02, "margin": 0.01, "arms": 4} | wrong))


@pytest.mark.parametrize(
    ("arm", "baseline"), [("dice", "ce"), ("d" * 40, "ce"), ("d", "c" * 40), ("d" * 40, "c" * 40)]
)
def test_a_plots_label_has_room_and_holds_both_names(arm, baseline):
    found = lossbench.verdict(
        {"seed": [0, 1], baseline: [0.1, 0.2], arm: [0.3, 0.5]}, baseline, 0.01, "accuracy"
    )
    label = re.search(r'text-anchor="end">(.*?)<title>(.*?)</title>', found.plot().svg)
    assert label is not None
    assert label[2] == f"{arm} − {baseline}"
    assert len(label[1]) <= 26
    assert label[1] == label[2] or "…" in label[1]
    first, _, second = label[1].partition(" − ")
    assert first[0] == arm[0]
    assert second[-1] == baseline[-1]
