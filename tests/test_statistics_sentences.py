"""Verdicts in words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossbench.statistics import Contrast, Verdict, digits, metric_name, sentence


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


def test_a_tie_names_the_margin():
    assert say(contrast(Verdict.TIE, -0.0012, -0.006, 0.0036)) == (
        "On digit_scenes Dice ties with cross-entropy: −0.001 mean IoU (95 % −0.006 to 0.004), within the "
        "margin of 0.02 (p = 0.010 for a tie, 8 seeds)."
    )


def test_undecided_says_how_many_seeds_it_would_take():
    said = say(contrast(Verdict.UNDECIDED, 0.01, -0.04, 0.06, seeds_needed=11, p_holm=0.4))
    assert said.endswith(
        "p = 0.400 after Holm, 8 seeds); 11 seeds would be needed to show a difference of the size seen."
    )
    none = say(contrast(Verdict.UNDECIDED, 0.0, -0.04, 0.04, seeds_needed=None))
    assert "no number of seeds would show a difference this small" in none
    enough = say(contrast(Verdict.UNDECIDED, 0.04, -0.01, 0.09, seeds_needed=8))
    assert "would usually show at this many seeds" in enough


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 diverged replicate counted."), (2, "2 diverged replicates counted.")]
)
@pytest.mark.parametrize("verdict", list(Verdict))
def test_diverged_replicates_are_named(verdict, count, words):
    assert say(contrast(verdict, diverged=count)).endswith(words)
    assert "diverged" not in say(contrast(verdict))


@given(st.floats(1e-5, 1), st.floats(0.01, 0.999))
def test_a_decided_sentence_shows_no_interval_that_touches_0(difference, share):
    low, high = difference * (1 - share), difference * (1 + share)
    if low >= 1e-6:
        said = say(contrast(Verdict.BETTER, difference, low, high))
        assert float(re.search(r"95 % ([\d.]+) to", said).group(1)) > 0


@pytest.mark.parametrize(
    ("value", "spread", "written"),
    [
        (0.41302, 0.05, "0.41"), (0.41302, 0.012, "0.413"), (0.98765, 0.0004, "0.9877"), (12.34, 3, "12"),
        (-0.5, 0.1, "−0.50"), (-0.0001, 0.1, "0.00"), (0.5, 0, "0.500"), (float("nan"), 0.1, "–"),
        (0.5, float("nan"), "0.500"),
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
