"""Tables as spreadsheets, MLflow, Optuna and W&B export them: rows that sum up, columns with other names."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lossbench
from lossbench.cli import main
from lossbench.errors import UserError
from lossbench.statistics.equivalence import tie_interval, tost_p
from lossbench.statistics.metrics import is_training_loss
from lossbench.statistics.paired import sign_flip_p
from lossbench.statistics.samples import Unpaired, welch_permutation_p

CE = (0.701, 0.712, 0.694, 0.718, 0.703, 0.709, 0.715, 0.698)
DICE = (0.780, 0.788, 0.771, 0.789, 0.781, 0.777, 0.793, 0.779)
WIDE = "seed,ce,dice\n" + "".join(
    f"{seed},{ce},{dice}\n" for seed, (ce, dice) in enumerate(zip(CE, DICE, strict=True))
)
SUMS_UP = ["mean", "Mean", "std", "avg.", "SD:", "median", "count", "min", "25%", "max", "Average", "All"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    def run(content, *asked):
        file = tmp_path / "scores.csv"
        file.write_text(content)
        command = ["lossbench", "verdict", str(file), "--baseline", "ce", "--margin", "0.01", *asked]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return ended.value.code, said.out, said.err

    return run


@pytest.mark.parametrize("name", SUMS_UP)
def test_a_row_that_sums_up_the_others_is_no_seed(name, call):
    code, out, err = call(f"{WIDE}{name},0.706,0.782\n", "--metric", "dice")
    assert (code, out) == (2, "")
    assert f"line 10: seed '{name}' would be one more seed" in err


@pytest.mark.parametrize("name", ["mean", "std", "diff", "Delta", "lr", "rank", "runtime"])
def test_a_column_that_sums_up_the_others_is_no_loss(name, call):
    head, *rows = WIDE.splitlines()
    content = "\n".join([f"{head},{name}", *(f"{row},0.7{number}" for number, row in enumerate(rows))])
    code, _, err = call(content, "--metric", "dice")
    assert code == 2
    assert f"column '{name}' would be a loss" in err


@pytest.mark.parametrize("name", ["sum", "total", "all", "min", "max", "count"])
def test_losses_may_have_names_that_no_seed_may(name, call):
    assert call(WIDE.replace("dice", name), "--metric", "accuracy")[0] == 0


def test_a_column_of_the_metrics_name_comes_before_one_called_score(call):
    rows = [
        f"{loss},{seed},{0.5 + seed / 100},{score}"
        for loss, scores in (("ce", CE), ("dice", DICE))
        for seed, score in enumerate(scores)
    ]
    content = "\n".join(["loss,seed,score,dice", *rows])
    code, out, _ = call(content, "--metric", "dice")
    assert (code, out) == (0, call(WIDE, "--metric", "dice")[1])
    assert "beats" in out
    assert "dice and ce have the same score" in call(content, "--metric", "f1")[1]


@pytest.mark.parametrize(
    ("head", "asked"),
    [
        ("params.loss,params.seed,metrics.test/dice", ("params.loss", "params.seed", "metrics.test/dice")),
        ("loss_fn,config.seed,test/dice", ("loss_fn", "config.seed", "test/dice")),
        ("params_loss,user_attrs_seed,value", ("params_loss", "user_attrs_seed", "dice")),
        ("arm,seed,score", ("arm", "seed", "dice")),
    ],
    ids=["mlflow.search_runs", "W&B", "Optuna", "seed as ours"],
)
def test_columns_may_have_the_names_that_trackers_export(head, asked, call):
    """The last column is the value of a training loss, which many logs call ``loss``."""
    rows = [
        f"{loss},{seed},{score},0.123"
        for loss, scores in (("ce", CE), ("dice", DICE))
        for seed, score in enumerate(scores)
    ]
    loss, seed, metric = asked
    code, out, err = call(
        "\n".join([f"{head},loss", *rows]), "--loss", loss, "--seed", seed, "--metric", metric,
        "--higher-is-better",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.startswith("dice beats ce by 0.076")
    assert "higher on 8 of 8 seeds" in out


def test_a_column_that_is_not_there_is_refused_with_the_nearest(call):
    code, _, err = call(WIDE, "--metric", "dice", "--seed", "sed")
    assert code == 2
    assert "no column 'sed' (--seed); did you mean 'seed'" in err


def test_a_page_does_not_take_the_scores_place(call, tmp_path):
    file = tmp_path / "scores.csv"
    code, _, err = call(WIDE, "--metric", "dice", "--html", str(tmp_path / "." / "scores.csv"))
    assert (code, file.read_text()) == (2, WIDE)
    assert "these are the scores" in err


@pytest.mark.parametrize("page", ["x" * 300 + ".html", "no/such/folder/page.html", "scores.csv/page.html"])
def test_a_page_that_cannot_be_written_is_said(page, call, tmp_path):
    code, _, err = call(WIDE, "--metric", "dice", "--html", str(tmp_path / page))
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.parametrize("metric", ["metrics.val_loss", "metrics.loss", "summary/train_loss"])
def test_the_training_loss_is_none_by_its_exported_name(metric):
    assert is_training_loss(metric)
    assert not is_training_loss(metric.replace("loss", "dice_loss"))


@settings(max_examples=5, deadline=None)
@given(st.integers(33, 60), st.integers(0, 2**32 - 1))
def test_drawn_p_values_do_not_depend_on_order_or_sign(n, seed):
    """Beyond what is counted, draws are made; they may not hang on which row came first."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(0.3, 1, n)
    turned = -rng.permutation(differences)
    assert sign_flip_p(differences) == sign_flip_p(turned)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(11, 15), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_drawn_p_values_of_unpaired_arms_do_not_depend_on_order_arm_or_sign(n, more, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0.7, 1, n), rng.normal(0, 1, n + more)
    expected = welch_permutation_p(first, second)
    assert welch_permutation_p(rng.permutation(first), rng.permutation(second)) == expected
    assert welch_permutation_p(second, first) == expected
    assert welch_permutation_p(-first, -second) == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 20), st.sampled_from([0.3, 1.0, 3.0]), st.integers(0, 2**32 - 1))
def test_an_arm_that_does_not_vary_leaves_the_one_sample_test_of_a_tie(n, margin, seed):
    """Hall's correction of two samples is that of one where the other has no spread."""
    rng = np.random.default_rng(seed)
    scores = rng.exponential(1, n) - 1
    sample = Unpaired(scores + 5, np.full(4, 5.0))
    assert sample.p_tie(margin) == pytest.approx(tost_p(scores, margin), rel=1e-9)
    found, expected = sample.tie_interval(0.05), tie_interval(scores, 0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 15), st.integers(2, 15), st.sampled_from([0.3, 1.0, 3.0]), st.integers(0, 2**32 - 1))
def test_an_unpaired_tie_is_shown_exactly_where_its_interval_lies_inside_the_margin(n, other, margin, seed):
    rng = np.random.default_rng(seed)
    sample = Unpaired(rng.exponential(1, n), rng.normal(1, 0.2, other))
    turned = Unpaired(sample.second, sample.first)
    assert sample.tie_interval(0.05).inside(-margin, margin) == (sample.p_tie(margin) <= 0.05)
    assert turned.p_tie(margin) == pytest.approx(sample.p_tie(margin), rel=1e-9)


@pytest.mark.slow
def test_wrong_ties_of_unpaired_arms_of_unequal_shapes_are_fewer_by_halls_correction():
    """Exponential against narrow scores, 8 a side: Welch's TOST alone .138 of a nominal .05, with Hall's .093."""
    rng = np.random.default_rng(0)
    wrong = [
        Unpaired(rng.exponential(1, 8) - 1 + 1.6, rng.normal(0, 0.05, 8)).p_tie(1.6) <= 0.05
        for _ in range(1500)
    ]
    assert np.mean(wrong) < 0.11


def test_a_frame_is_told_how_to_name_its_column_of_scores():
    frame = {
        "loss": ["ce", "dice"] * 8,
        "seed": np.repeat(range(8), 2),
        "test/dice": np.ravel([CE, DICE], "F"),
    }
    with pytest.raises(UserError, match="metric='NAME'"):
        lossbench.verdict(frame, "ce", 0.01, higher_is_better=True)
    assert lossbench.verdict(frame, "ce", 0.01, "test/dice")[0].verdict == "better"
