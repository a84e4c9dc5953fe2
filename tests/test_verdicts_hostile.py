"""Scores that invite a false verdict: units mistaken, runs copied, sides that do not pair, ugly shapes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from scipy import stats

import lossbench
from lossbench.errors import UserError
from lossbench.statistics import paired
from lossbench.statistics.family import floor_unpaired, seeds_unpaired, smallest_unpaired_p
from lossbench.statistics.hypotheses import Claim, answer
from lossbench.statistics.verdict import Rules, compare
from lossbench.statistics.writing import digits

RNG = np.random.default_rng(14)
CE = 0.70 + 0.01 * RNG.normal(size=8)
DICE = 0.76 + 0.01 * RNG.normal(size=8)


def judged(columns, metric="accuracy", margin=0.01, baseline="ce", **asked):
    seeds = len(next(iter(columns.values())))
    table = {"seed": list(range(seeds)), **{name: list(values) for name, values in columns.items()}}
    return lossbench.verdict(table, baseline, margin, metric, **asked)


def test_a_margin_that_spans_the_metric_is_refused_for_everything_would_tie():
    with pytest.raises(UserError, match="everything would tie"):
        judged({"ce": CE, "dice": DICE}, margin=1)
    with pytest.raises(UserError, match="everything would tie"):
        judged({"ce": CE, "dice": DICE}, metric="mcc", margin=2)


def test_a_margin_meant_for_shares_beside_per_cent_is_told():
    found = judged({"ce": 100 * CE, "dice": 100 * DICE})
    assert any("say --margin 1 if you mean 1 per cent" in note for note in found.notes)
    assert not judged({"ce": 100 * CE, "dice": 100 * DICE}, margin=1).notes


def test_a_direction_that_the_metrics_name_denies_is_refused():
    with pytest.raises(UserError, match="better the higher it is"):
        judged({"ce": CE, "dice": DICE}, higher_is_better=False)
    assert judged({"ce": CE, "dice": DICE}, metric="nll")[0].verdict == "worse"


@pytest.mark.parametrize("distinct", [2, 4])
def test_copied_seeds_are_told(distinct):
    copied = {
        name: np.tile(values[:distinct], 8 // distinct) for name, values in (("ce", CE), ("dice", DICE))
    }
    assert any(f"8 seeds have only {distinct} different rows" in note for note in judged(copied).notes)
    assert not judged({"ce": CE, "dice": DICE}).notes


def test_a_loss_under_two_names_is_told():
    assert any("one run under two names" in note for note in judged({"ce": CE, "same": CE}).notes)


@pytest.mark.parametrize("step", [0.0, 0.02], ids=["tie", "a sample outweighs the margin"])
def test_scores_that_differ_by_rounding_alone_do_not_differ(step):
    """Tables went through per cent, 32 bits or another sum: that is no evidence, however alike its signs."""
    found = judged({"ce": CE, "same": CE + np.spacing(CE)}, step=step)
    assert found[0].differences == (0.0,) * 8
    assert (found[0].ahead, found[0].equal, found[0].p) == (0, 8, 1.0)
    assert found[0].verdict == ("undecided" if step else "tie")


def test_an_advantage_of_exactly_what_was_claimed_exceeds_it_by_no_rounding():
    """0.73 − 0.72 and 0.72 − 0.71 differ in their last bits, and neither is more than 0.01."""
    better, than = np.arange(20, 90, 2) / 100, np.arange(19, 89, 2) / 100
    claim = Claim("c", "a", "b", "accuracy", 0.01, higher_is_better=True, differences=better - than)
    found = answer([claim], 0.05)[0]
    assert (found.answer, found.p) == ("undecided", 1.0)


def test_scores_whose_squares_overflow_are_refused_by_their_row():
    """A diverged language model's perplexity is one."""
    with pytest.raises(UserError, match=r"row 3: a score of 1e\+300 is too large"):
        judged({"ce": CE, "dice": [*DICE[:3], 1e300, *DICE[4:]]}, metric="perplexity")


def test_tiny_scores_are_not_rounded_to_nothing():
    said = str(judged({"ce": 1e-7 * CE, "dice": 1e-7 * DICE}, metric="mse", margin=1e-10))
    assert "0.000000" not in said
    assert "e−9" in said
    assert digits(2.3456e-7, 3e-9) == "2.35e−7"


@pytest.mark.parametrize("sizes", [(2, 2), (3, 3), (3, 5), (4, 4), (5, 5)])
def test_arms_that_do_not_pair_have_the_floor_of_their_own_test(sizes):
    """No split of the pooled scores is as extreme as the one seen, but for its mirror where sides are equal."""
    first, second = 1.0 + 0.01 * RNG.normal(size=sizes[0]), 0.01 * RNG.normal(size=sizes[1])
    pooled = np.concatenate([first, second])
    splits = list(itertools.combinations(range(sum(sizes)), sizes[0]))
    least = abs(stats.ttest_ind(first, second, equal_var=False).statistic) * (1 - 1e-9)
    extreme = 0
    for chosen in splits:
        rest = [index for index in range(sum(sizes)) if index not in chosen]
        extreme += (
            abs(stats.ttest_ind(pooled[list(chosen)], pooled[rest], equal_var=False).statistic) >= least
        )
    assert smallest_unpaired_p(*sizes) == pytest.approx(extreme / len(splits))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_no_note_denies_an_unpaired_verdict(n):
    found = judged({"ce": CE[:n], "dice": DICE[:n]}, unpaired=True)
    told = any("cannot show a difference" in note for note in found.notes)
    assert told == (n < floor_unpaired(1, 0.05))
    assert found[0].verdict == ("undecided" if told else "better")
    assert (found[0].seeds_needed or 0) >= floor_unpaired(1, 0.05)


def test_seeds_a_side_are_those_of_the_two_sample_t_test():
    from statsmodels.stats.power import TTestIndPower

    expected = TTestIndPower().solve_power(effect_size=0.5 * math.sqrt(2), alpha=0.05, power=0.8)
    assert seeds_unpaired(0.5, 1, 0.05, 0.8) == math.ceil(expected)


SHAPES = {
    "ties": lambda rng, size: rng.integers(0, 3, size) / 10,
    "bimodal": lambda rng, size: rng.integers(0, 2, size) * 0.3 + 0.01 * rng.normal(size=size),
    "collapses": lambda rng, size: 0.8 + 0.01 * rng.normal(size=size) - 0.7 * (rng.random(size) < 0.1),
    "skewed": lambda rng, size: rng.lognormal(size=size),
}


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_arms_alike_in_truth_are_rarely_told_apart_in_any_shape(shape, n):
    """As `benchmarks.statistics` measures at length; here with every verdict by the product's own rule."""
    rng, families = np.random.default_rng([n, len(shape)]), 40
    wrong = 0
    for _ in range(families):
        scores = {str(arm): SHAPES[shape](rng, n) for arm in range(4)}
        found = [one.verdict for one in compare(scores, "0", "score", Rules(margin=1e-9))]
        wrong += any(verdict in ("better", "worse") for verdict in found)
    assert stats.binomtest(wrong, families, 0.05, alternative="greater").pvalue > 1e-4


@settings(deadline=None, max_examples=examples(30))
@given(st.lists(st.booleans(), min_size=8, max_size=8).filter(lambda kept: sum(kept) >= 2))
def test_seeds_missing_in_one_arm_give_the_verdict_of_the_pairs_that_are_there(kept):
    holes = [value if there else None for value, there in zip(DICE, kept, strict=True)]
    (found,) = judged({"ce": CE, "dice": holes})
    (whole,) = judged({"ce": CE[np.array(kept)], "dice": DICE[np.array(kept)]})
    assert (found.n, found.p, found.verdict) == (whole.n, whole.p, whole.verdict)


@pytest.mark.parametrize("unit", [1e12, 1e60, 1e98])
def test_large_scores_are_written_with_a_power_of_ten(unit):
    said = (
        judged({"ce": unit * CE, "dice": unit * DICE}, metric="perplexity", margin=unit / 100)
        .found[0]
        .sentence
    )
    assert max(map(len, said.split())) < 20
    assert f"e{round(math.log10(unit)) - 2} " in said


def test_scores_whose_squares_are_nothing_are_refused():
    with pytest.raises(UserError, match="too small to compute with"):
        judged({"ce": 1e-300 * CE, "dice": 1e-300 * DICE}, metric="mse", margin=1e-303)


def test_huge_scores_of_another_metric_do_not_matter():
    rows = [
        {"loss": loss, "seed": seed, "metric": metric, "score": score * unit}
        for loss, scores in (("ce", CE), ("dice", DICE)) for seed, score in enumerate(scores)
        for metric, unit in (("accuracy", 1.0), ("perplexity", 1e200))
    ]  # fmt: skip
    assert lossbench.verdict(rows, "ce", 0.01, "accuracy")[0].verdict == "better"


@given(
    st.lists(st.integers(9700, 9900), min_size=6, max_size=10, unique=True),
    st.integers(1, 40),
    st.sampled_from([1, 100]),
)
def test_a_column_plus_a_constant_is_one_difference_wherever_its_scores_lie(counts, more, unit):
    """0.9813 − 0.9812 is not 0.0001 in floats: "better, p = 0.008" came of the last digits."""
    shares = [[count / 10_000 * unit for count in (one, one + more)] for one in counts]
    columns = {"ce": [one for one, _ in shares], "dice": [other for _, other in shares]}
    found = judged(columns, margin=1e-5 * unit)
    assert found[0].verdict == "undecided"
    assert f"on all {len(counts)} seeds: as evidence that is one difference" in found.text()
    assert not found.found[0].sentence.startswith("dice against ce is undecided: 0.000 ")


@pytest.mark.parametrize("higher", [True, False])
def test_a_claim_of_exactly_the_difference_seen_is_no_evidence_of_more(higher):
    """Nor is 0.98132 − 0.98131 more than the 0.00001 that was claimed."""
    counts = np.arange(98_000, 98_010)
    better, than = (counts + 1) / 100_000, counts / 100_000
    if not higher:
        better, than = than, better
    claim = Claim("x", "a", "b", "m", 0.00001, higher, better - than, True, paired.rounding(better, than))
    found = answer([claim], 0.05)[0]
    assert (found.answer, found.p) == ("undecided", 1.0)


def test_one_rounding_for_all_differences_is_that_of_each():
    differences = np.array([1.0, 2.0, 3.0, 4.0, 5.0, -6.0])
    one, each = (
        answer([Claim("x", "a", "b", "m", 0.0, True, differences, True, rounding)], 0.05)[0].p
        for rounding in (0.4, np.full(6, 0.4))
    )
    assert one == each
