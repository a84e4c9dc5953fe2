"""Budgets: every replicate at shares of the epochs too, and whether a verdict hangs on them."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_params, train_study, write_params

from lossbench.errors import UserError
from lossbench.execution.fill import Arm
from lossbench.params import load_params, parse_params
from lossbench.recipe import Recipe
from lossbench.reporting.budgets import budgeted
from lossbench.statistics.record import Verdict
from lossbench.statistics.verdict import Rules, compare
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.record import arm_record

RULES = Rules(margin=0.01)
SEEDS = tuple(range(8))


def with_budgets(budgets, epochs=4):
    made = tiny_params()
    made["experiments"]["digits"]["recipe"] = {
        **made["experiments"]["digits"]["recipe"], "epochs": epochs, "budgets": budgets,
    }  # fmt: skip
    return made


@pytest.mark.parametrize("budgets", [[0.5], [1.0, 0.5], [0.5, 0.5, 1.0], [0.1, 0.2, 1.0]])
def test_budgets_ascend_to_the_whole_with_epochs_of_their_own(budgets):
    with pytest.raises(UserError, match=r"experiments\.digits\.recipe.*budgets must ascend to 1"):
        parse_params(with_budgets(budgets))


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_a_budget_is_a_share(share):
    with pytest.raises(UserError, match="budgets"):
        parse_params(with_budgets([share, 1.0]))


def test_a_budget_has_a_schedule_of_its_own_length():
    recipe = Recipe(epochs=9, batch_size=4, budgets=(0.1, 0.5, 1.0))
    assert [recipe.at(share).epochs for share in recipe.budgets] == [1, 4, 9]
    assert recipe.at(0.5).budgets == ()


def test_declaring_budgets_trains_no_whole_replicate_anew(trained_study, tmp_path):
    plain = load_params(trained_study / "params.yaml")
    more = with_budgets([0.5, 1.0], epochs=2)
    write_params(tmp_path, more)
    params = load_params(tmp_path / "params.yaml")
    found = {"best": {}}
    before, after = (Arm(one, "digits-focal", trained_study) for one in (plain, params))
    assert after.replicates(found).keys == before.replicates(found).keys
    assert before.budgets(found) == {}
    assert {share: one.recipe.epochs for share, one in after.budgets(found).items()} == {0.5: 1}
    assert not set(after.budgets(found)[0.5].keys) & set(after.replicates(found).keys)


@pytest.mark.slow
def test_arms_of_an_experiment_differ_in_their_loss_alone_whatever_came_out(tmp_path):
    """Else MLflow's Compare draws an axis of results, and a record is another one with every training."""
    made = with_budgets([0.5, 1.0], epochs=2)
    made["experiments"] = {"digits": made["experiments"]["digits"]}
    made["datasets"] = {"digits": made["datasets"]["digits"]}
    made["arms"] = {name: arm for name, arm in made["arms"].items() if name.startswith("digits")}
    train_study(tmp_path, made)
    params = load_params(tmp_path / "params.yaml")
    records = [arm_record(params, ArmOuts(tmp_path, "digits", name)).parent for name in params.arms]
    assert len(records) > 1
    keys = set().union(*(one.params for one in records))
    differ = {key for key in keys if len({one.params.get(key) for one in records}) > 1}
    assert differ <= {"arm", "loss", "stated_loss_parameters"}


def evaluated(half):
    """An experiment whose arms scored so at half the epochs."""
    rows = [
        {
            "arm": arm,
            "loss": arm,
            "seed": seed,
            "share": 0.5,
            "metric": "accuracy",
            "value": value,
            "diverged": False,
        }
        for arm, values in half.items()
        for seed, value in zip(SEEDS, values, strict=True)
    ]
    described = {
        "budgets": [{"share": 0.5, "epochs": 1, "diverged": [], "last_losses": [0.1] * 8}],
        "constant_loss": 1.0,
    }
    return SimpleNamespace(
        tables={"budgets": pd.DataFrame(rows)}, metric="accuracy", arms=dict.fromkeys(half, described)
    )


def at_half(gap, whole_gap):
    rng = np.random.default_rng(0)
    ce = 0.9 + rng.normal(0, 0.002, 8)
    noise = rng.normal(0, 0.002, 8)
    contrasts = compare({"dice": ce + whole_gap + noise, "ce": ce}, "ce", "accuracy", RULES)
    study = SimpleNamespace(params=parse_params(tiny_params()))
    one = evaluated({"dice": ce + gap + noise, "ce": ce})
    return budgeted(one, study, [(contrast, SEEDS) for contrast in contrasts], RULES, {"constant": 0.1})[0]


def test_a_verdict_that_goes_with_the_budget_is_budget_sensitive():
    found = at_half(gap=0.1, whole_gap=0.0)
    assert [(share, str(one.verdict)) for share, one in found.contrasts] == [(0.5, "better"), (1.0, "tie")]
    assert found.clause == "from 50 % to 100 % of the epochs the verdict goes from better to tie"
    assert "the difference goes from 0.09" in at_half(gap=0.1, whole_gap=0.05).clause


def test_a_verdict_that_stays_is_not():
    assert at_half(gap=0.05, whole_gap=0.05).clause == ""


def test_an_arm_above_what_constants_reach_was_not_trained_at_that_budget():
    contrasts = compare({"dice": np.full(8, 0.9), "ce": np.full(8, 0.8)}, "ce", "accuracy", RULES)
    study = SimpleNamespace(params=parse_params(tiny_params()))
    one = evaluated({"dice": np.full(8, 0.9), "ce": np.full(8, 0.8)})
    one.arms["ce"] = {**one.arms["ce"], "constant_loss": 0.05}
    found = budgeted(one, study, [(contrasts[0], SEEDS)], RULES, {})[0]
    assert found.contrasts[0][1].verdict == Verdict.NOT_TRAINED


@pytest.mark.slow
def test_a_study_with_budgets_and_a_search_for_each_replicate_is_trained_and_reported(tmp_path):
    from lossbench.reporting.write import write_report

    made = with_budgets([0.5, 1.0], epochs=2)
    made["experiments"].pop("scenes"), made["datasets"].pop("scenes")
    made["arms"] = {name: arm for name, arm in made["arms"].items() if arm["experiment"] == "digits"}
    made["experiments"]["digits"]["metric"] = "balanced_accuracy"
    rates = {"low": 0.001, "high": 0.01, "ratio": 10.0}
    made["experiments"]["digits"]["tuning"] = {"scope": "replicate", "seeds": [1001], "learning_rate": rates}
    root = tmp_path / "study"
    train_study(root, made)
    params = load_params(root / "params.yaml")
    write_report(params, root, tmp_path / "home")
    rows = pd.read_csv(root / "reports/evaluation/digits/budgets.csv")
    assert set(rows["share"]) == {0.5}
    assert len(rows[rows["metric"] == "balanced_accuracy"]) == 2 * 3
    assert sorted(file.name for file in (root / "models/digits/digits-focal/budget-0.5").iterdir()) == [
        f"seed-{seed}.safetensors" for seed in params.seeds
    ]
    told = json.loads((root / "reports/verdicts.json").read_text())["verdicts"][0]
    assert [one["share"] for one in told["budgets"]] == [0.5, 1.0]
    search = json.loads((root / "reports/tuning/digits-focal.json").read_text())
    assert search["monitor"] == "balanced_accuracy"
    assert set(search["best_of"]) == {"0", "1", "2"}
    page = (root / "reports/index.html").read_text()
    for chart in ("Difference against budget", "Learning rates tried", "Best of k points"):
        assert chart in page
