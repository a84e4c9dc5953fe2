"""Tables and questions as Python holds them: missing cells of pandas, indices, numbers that are text."""

import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from law_cases import each

import lossbench
from lossbench.errors import UserError

RNG = np.random.default_rng(19)
CE = 0.70 + 0.01 * RNG.normal(size=8)
DICE = CE + 0.03 + 0.01 * RNG.normal(size=8)
WIDE = pd.DataFrame({"seed": range(8), "ce": CE, "dice": DICE})
LONG = WIDE.melt("seed", var_name="loss", value_name="score")
ASKED = {"baseline": "ce", "margin": 0.01, "metric": "accuracy"}


@pytest.mark.parametrize("dtype", ["string", "object", "Int64", "datetime64[ns]"])
def test_a_column_of_missing_labels_names_nothing(dtype):
    missing = pd.Series([None] * len(LONG), dtype=dtype)
    found = lossbench.verdict(LONG.assign(experiment=missing, group=missing), **ASKED)
    assert [one.experiment for one in found.found] == [""]
    assert repr(found.found) == repr(lossbench.verdict(LONG, **ASKED).found)  # NaN is no other NaN


@pytest.mark.parametrize("dtype", ["Int64", "float64", "object"])
def test_a_score_without_its_seed_is_refused(dtype):
    seeds = LONG["seed"].astype(dtype)
    seeds[3] = None
    with pytest.raises(UserError, match="row 3, 'seed' is empty"):
        lossbench.verdict(LONG.assign(seed=seeds), **ASKED)


@pytest.mark.parametrize("dtype", ["Float64", "float64", "object"])
def test_a_missing_score_is_one_that_diverged_whatever_pandas_calls_it(dtype):
    scores = LONG["score"].astype(dtype)
    scores[9] = None
    table = LONG.assign(score=scores)
    with pytest.raises(UserError, match=r"row 9: the score of loss 'dice' on seed 1 is no number \(NaN\)"):
        lossbench.verdict(table, **ASKED)
    assert lossbench.verdict(table, **ASKED, floor=0.1)[0].diverged == 1
    wide = WIDE.convert_dtypes()
    wide.loc[1, "dice"] = pd.NA
    with pytest.raises(UserError, match="in pandas: melt, then dropna"):
        lossbench.verdict(wide, **ASKED)


def test_seeds_and_losses_may_stand_in_the_index():
    expected = lossbench.verdict(WIDE, **ASKED)
    for indexed in (WIDE.set_index("seed"), LONG.set_index(["loss", "seed"]), LONG.set_index("loss")):
        assert repr(lossbench.verdict(indexed, **ASKED).found) == repr(expected.found)


def test_a_loss_called_by_a_number_is_found():
    table = {"seed": range(8), 1: CE, 2: DICE}
    assert lossbench.verdict(table, 1, 0.01, "accuracy")[0].verdict == "better"


@each(
    ("asked", "said"),
    [
        ({"margin": "0.01"}, "margin must be a number, found '0.01'"),
        ({"level": "0.05"}, "level must be a number"),
        ({"level": True}, "level must be a number, found True"),
        ({"power": [0.8]}, "power must be a number"),
        ({"floor": "0.1"}, "floor must be a number"),
        ({"step": None}, "step must be a number, found None"),
        ({"margin": Decimal("0.01")}, "margin must be a number"),
        ({"bounds": "01"}, "bounds must be the least score and a larger one"),
        ({"bounds": (0, 1, 2)}, "bounds must be the least score and a larger one"),
        ({"bounds": ("0", 1)}, r"bounds\[0\] must be a number"),
        ({"metric": 3}, "metric must be a name, found 3"),
        ({"higher_is_better": "yes"}, "higher_is_better must be True or False, found 'yes'"),
        ({"unpaired": "no"}, "unpaired must be True or False, found 'no'"),
    ],
)
def test_a_question_of_the_wrong_type_is_refused_in_a_sentence(asked, said):
    with pytest.raises(UserError, match=said):
        lossbench.verdict(WIDE, **{**ASKED, **asked})


@pytest.mark.parametrize("table", [{"seed": 3, "ce": 4}, {"seed": "abc", "ce": CE}])
def test_a_column_that_holds_one_value_is_refused(table):
    with pytest.raises(UserError, match=r"column 'seed' is .* expected its values"):
        lossbench.verdict(table, **ASKED)


def test_a_truth_value_is_no_score():
    with pytest.raises(UserError, match="a score is a number"):
        lossbench.verdict({"seed": range(8), "ce": [np.bool_(True)] * 8, "dice": DICE}, **ASKED)


def test_per_cent_beside_a_floor_and_a_step_of_shares_are_told():
    table = {"seed": range(8), "ce": 100 * CE, "dice": 100 * DICE}
    asked = {**ASKED, "margin": 1.0}
    notes = lossbench.verdict(table, **asked, floor=0.1, step=1 / 360).notes
    assert [next(word for word in ("floor", "step") if f"is the {word}" in note) for note in notes] == [
        "floor",
        "step",
    ]
    assert not lossbench.verdict(table, **asked, floor=10.0, step=100 / 360).notes


def test_one_seed_in_common_promises_no_number_for_the_difference_seen():
    table = [*LONG.to_dict("records")[:8], {"loss": "dice", "seed": 0, "score": 0.9}]
    said = str(lossbench.verdict(table, **ASKED))
    assert "higher on 1 of 1 seed)" in said
    assert "one seed shows no spread: it takes 6 seeds at least" in said
    assert math.isnan(lossbench.verdict(table, **ASKED)[0].ci_low)


def test_numpys_numbers_are_numbers_in_every_form():
    floats = {
        "margin": np.float32(0.01),
        "level": np.float64(0.05),
        "power": np.float32(0.8),
        "floor": np.int64(0),
    }
    found = lossbench.verdict(
        WIDE, "ce", metric="accuracy", **floats, step=np.float32(0), bounds=(np.int64(0), np.int64(1)),
        higher_is_better=np.bool_(True), unpaired=np.bool_(False),
    )  # fmt: skip
    assert json.loads(found.json())["verdicts"][0]["verdict"] == "better"


def test_blanks_around_a_columns_name_are_no_part_of_it():
    renamed = WIDE.rename(columns={"ce": " ce", "seed": "Seed "})
    assert lossbench.verdict(renamed, **ASKED).records == lossbench.verdict(WIDE, **ASKED).records
