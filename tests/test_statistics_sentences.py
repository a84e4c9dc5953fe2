"""Verdicts in words."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each

from lossbench.statistics.record import Verdict
from lossbench.statistics.sentences import sentence
from lossbench.statistics.trained import Condition, Edge
from lossbench.statistics.verdict import Contrast, Rules, compare
from lossbench.statistics.writing import digits, metric_name, p_value


def contrast(verdict, difference=0.41, low=0.36, high=0.46, **changes):
    columns = {
        "arm": "scenes-dice", "baseline": "scenes-cross_entropy", "metric": "mean_iou", "median": difference,
        "p": 0.0078, "p_holm": 0.0234, "margin": 0.02, "p_tie": 0.01, "n": 8, "seeds_needed": 7,
        "correlation": 0.3, "diverged": 0, "differences": (),
    }  # fmt: skip
    columns |= {"verdict": verdict, "difference": difference, "ci_low": low, "ci_high": high} | changes
    return Contrast(**columns)


def say(one, tuned=0):
    return sentence(one, "digit_scenes", "Dice", "cross-entropy", 0.05, tuned)


def test_better_reads_as_the_specification_has_it():
    assert say(contrast(Verdict.BETTER), tuned=3) == (
        "On digit_scenes Dice beats cross-entropy by 0.41 mean IoU (95 % 0.36 to 0.46, p = 0.023 after Holm, "
        "8 seeds, tuned over 3 trials)."
    )


def test_worse_counts_in_the_direction_of_its_word():
    assert say(contrast(Verdict.WORSE, -0.41, -0.46, -0.35)) == (
        "On digit_scenes Dice is worse than cross-entropy by 0.41 mean IoU (95 % 0.35 to 0.46, "
        "p = 0.023 after Holm, 8 seeds)."
    )


def test_better_where_lower_is_better_counts_upwards_too():
    said = say(contrast(Verdict.BETTER, -5.2, -6.1, -4.3, metric="perplexity"))
    assert "beats cross-entropy by 5.2 perplexity (95 % 4.3 to 6.1" in said


def test_a_tie_names_the_margin_and_shows_the_interval_that_shows_it():
    tie = contrast(
        Verdict.TIE, -0.0012, -0.008, 0.0056, tie_low=-0.006, tie_high=0.0036, tie_level=0.05 / 3, p_tie_holm=0.03,
        ahead=3, equal=1,
    )  # fmt: skip
    assert say(tie) == (
        "On digit_scenes Dice ties with cross-entropy: −0.001 mean IoU (96.7 % −0.006 to 0.004), within the "
        "margin of 0.02 (p = 0.030 for a tie after Holm, higher on 3 of 8 seeds, equal on 1)."
    )


def test_a_bound_within_the_margin_is_not_rounded_to_it():
    tie = contrast(
        Verdict.TIE, 0.015, 0, 0.03, tie_low=0.0102, tie_high=0.01996, tie_level=0.05, p_tie_holm=0.04
    )
    assert "to 0.01996)" in say(tie)


def test_undecided_says_how_many_seeds_it_would_take():
    said = say(
        contrast(Verdict.UNDECIDED, 0.01, -0.04, 0.06, seeds_needed=49, seeds_needed_low=25, p_holm=0.4)
    )
    assert said.endswith(
        "p = 0.400 after Holm, 8 seeds); about 49 seeds (likely 25 or many more) would be needed to show a difference "
        "of the size seen."
    )
    ranged = contrast(
        Verdict.UNDECIDED, 0.01, -0.04, 0.06, seeds_needed=49, seeds_needed_low=25, seeds_needed_high=160,
        seeds_for_tie=36,
    )  # fmt: skip
    assert "(likely 25 to 160)" in say(ranged)
    assert "and about 36 seeds would show a tie if there is no difference" in say(ranged)
    none = say(contrast(Verdict.UNDECIDED, 0.0, -0.04, 0.04, seeds_needed=None))
    assert "no number of seeds would show a difference this small" in none
    enough = say(contrast(Verdict.UNDECIDED, 0.04, -0.01, 0.09, seeds_needed=8))
    assert "would usually show at this many seeds" in enough
    heavy = say(contrast(Verdict.UNDECIDED, 0.04, -0.01, 0.09, seeds_needed=49, step=0.05))
    assert "one test sample weighs 0.05, more than the margin" in heavy


def test_the_effect_size_counts_seeds_in_the_metrics_direction():
    assert "higher on 7 of 8 seeds" in say(contrast(Verdict.BETTER, ahead=7, equal=0))
    lower = contrast(Verdict.BETTER, -5.2, -6.1, -4.3, ahead=7, equal=0, higher_is_better=False)
    assert "lower on 7 of 8 seeds" in say(lower)


def test_an_untrained_arm_is_named_with_its_reason_and_what_to_change():
    state = Condition(
        untrained=("its training loss ended at 0.817, where the best constant output has 0.261",)
    )
    said = say(contrast(Verdict.NOT_TRAINED, baseline_condition=state))
    assert "cannot be judged against cross-entropy" in said
    assert "cross-entropy was not trained: its training loss ended at 0.817" in said
    assert "train longer" in said


def test_edges_budgets_and_collapses_stand_in_the_sentence():
    state = Condition(collapsed=1, edges=(Edge("learning_rate", 0.001, "lowest"),))
    said = sentence(
        contrast(Verdict.BETTER, arm_condition=state), "digits", "Dice", "CE", 0.05,
        budget="from 50 % to 100 % of the epochs the verdict goes from better to tie",
    )  # fmt: skip
    assert "1 of 8 replicates (its own) collapsed to a floor's score (95 % 0 to 53 of 100 would)" in said
    assert "Dice's learning rate of 0.001 is the lowest that was tried" in said
    assert said.endswith(
        "Budget-sensitive: from 50 % to 100 % of the epochs the verdict goes from better to tie."
    )


def test_an_edge_of_some_seeds_says_of_how_many():
    state = Condition(edges=(Edge("learning_rate", 0.1, "highest", 3, 8),))
    said = sentence(contrast(Verdict.TIE, baseline_condition=state), "digits", "Dice", "CE", 0.05)
    assert "CE's learning rate of 0.1 is the highest that was tried (for 3 of 8 seeds)" in said


@each(("count", "words"), [(1, "1 diverged replicate counted."), (2, "2 diverged replicates counted.")])
@each("verdict", list(Verdict))
def test_diverged_replicates_are_named(verdict, count, words):
    assert say(contrast(verdict, diverged=count)).endswith(words)
    assert "diverged" not in say(contrast(verdict))


@given(st.floats(1e-5, 1), st.floats(0.01, 0.999))
def test_a_decided_sentence_shows_no_interval_that_touches_0(difference, share):
    low, high = difference * (1 - share), difference * (1 + share)
    if low >= 1e-6:
        said = say(contrast(Verdict.BETTER, difference, low, high))
        assert float(re.search(r"95 % ([\d.]+(e−\d+)?) to", said).group(1).replace("−", "-")) > 0


@each(
    ("value", "spread", "written"),
    [
        (0.41302, 0.05, "0.41"), (0.41302, 0.012, "0.413"), (0.98765, 0.0004, "0.9877"), (12.34, 3, "12"),
        (-0.5, 0.1, "−0.50"), (-0.0001, 0.1, "0.00"), (0.5, 0, "0.500"), (float("nan"), 0.1, "–"),
        (0.5, float("nan"), "0.500"),
        (0.0002, float("nan"), "0.00020"), (-0.00025, 0, "−0.00025"), (0.0, 0, "0.000"),
    ],
)  # fmt: skip
def test_digits_end_where_the_interval_begins(value, spread, written):
    assert digits(value, spread) == written


@pytest.mark.parametrize(
    ("name", "written"),
    [("mean_iou", "mean IoU"), ("macro_f1", "macro F1"), ("accuracy", "accuracy"), ("auroc", "AUROC")],
)
def test_metrics_are_named_as_people_do(name, written):
    assert metric_name(name) == written


def test_tiny_p_values_are_bounds():
    assert "p < 0.001 after Holm" in say(contrast(Verdict.BETTER, p_holm=0.0002))


@pytest.mark.parametrize(
    ("scope", "seeds", "told"),
    [("arm", 1, True), ("arm", 2, True), ("arm", 3, False), ("replicate", 1, False)],
)
def test_a_search_with_too_few_seeds_is_told(scope, seeds, told):
    said = sentence(contrast(Verdict.BETTER), "x", "a", "b", 0.05, tuned=5, scope=scope, tuning_seeds=seeds)
    assert (f"Tuned with {seeds} seed" in said) == told
    assert "Tuned with" not in sentence(
        contrast(Verdict.BETTER), "x", "a", "b", 0.05, scope=scope, tuning_seeds=seeds
    )


@each(("p", "level", "said"), [
    (0.0504, 0.05, "p = 0.0504"), (0.05, 0.05, "p = 0.050"), (0.0496, 0.05, "p = 0.050"),
    (0.05000004, 0.05, "p = 0.05000004"), (0.0504, 0.1, "p = 0.050"), (0.0103, 0.01, "p = 0.0103"),
])  # fmt: skip
def test_a_p_above_the_level_is_not_rounded_to_it(p, level, said):
    """Else "undecided, p = 0.050" stands where 0.050 decides."""
    assert p_value(p, level) == said
    undecided = contrast(Verdict.UNDECIDED, 0.03, 0.001, 0.06, p_holm=p)
    assert f"{said} after Holm" in sentence(undecided, "", "Dice", "cross-entropy", level)


def test_no_tie_is_promised_where_a_replicate_collapsed():
    """It rules a tie out at any number of seeds, also where both arms collapse on the same one."""
    score = np.array([0.70, 0.71, 0.69, 0.1, 0.72, 0.70, 0.71, 0.69])
    other = score + np.array([1, -1, 1, 0, -1, 1, -1, 1]) / 10_000
    (found,) = compare({"ce": score, "dice": other}, "ce", "dice", Rules(), floors={"floor": 0.1})
    said = sentence(found, "", "dice", "ce", 0.05)
    assert (found.verdict, found.seeds_for_tie) == (Verdict.UNDECIDED, None)
    assert "no tie can be: a replicate collapsed" in said
    assert "would show a tie" not in said


def test_no_tie_is_promised_where_the_interval_lies_beyond_the_margin():
    """Five seeds cannot show a difference yet, and "a tie if there is no difference" is idle at this one."""
    differences = np.array([0.051, 0.049, 0.050, 0.052, 0.0495])
    (found,) = compare({"ce": np.full(5, 0.7), "dice": 0.7 + differences}, "ce", "dice", Rules())
    assert found.verdict == Verdict.UNDECIDED
    assert "tie" not in sentence(found, "", "dice", "ce", 0.05)


@given(st.floats(0.001, 0.4), st.sampled_from([1, -1]))
def test_an_undecided_interval_that_leaves_0_out_is_not_written_with_a_0(low, sign):
    """ "4 (0 to 8); the interval leaves 0 out" says two things at once."""
    bounds = sorted((sign * low, sign * 8))
    said = say(contrast(Verdict.UNDECIDED, sign * 4.0, *bounds, p_holm=0.09))
    assert "leaves 0 out" in said
    shown = re.search(r"95 % (\S+) to ([^,]+),", said).groups()
    assert all(float(one.replace("−", "-")) for one in shown)
