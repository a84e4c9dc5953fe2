"""Verdicts: the rules of the specification, laws, and how claims are answered."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from losses_cases import Late
from scipy import stats

from lossbench.statistics.equivalence import tost_p
from lossbench.statistics.hypotheses import Claim, answer
from lossbench.statistics.paired import hall_p
from lossbench.statistics.record import Verdict
from lossbench.statistics.trained import Training
from lossbench.statistics.verdict import Rules, compare

multitest = Late("statsmodels.stats.multitest")
RULES = Rules(level=0.05, margin=0.01)
arm_scores = st.lists(st.integers(0, 360).map(lambda hits: hits / 360), min_size=8, max_size=8).map(np.array)
families = st.lists(arm_scores, min_size=2, max_size=5).map(
    lambda arms: {f"arm{index}": scores for index, scores in enumerate(arms)}
)


def noisy(mean, n=8, spread=0.002, seed=0):
    return mean + np.random.default_rng(seed).normal(0, spread, n)


def one(arm, baseline, rules=RULES):
    return compare({"arm": arm, "baseline": baseline}, "baseline", "accuracy", rules)[0]


def test_every_number_of_a_contrast_is_scipys():
    scores = {name: noisy(0.9 + 0.004 * seed, 9, 0.01, seed) for seed, name in enumerate("abcd")}
    found = compare(scores, "a", "accuracy", RULES)
    p_values = []
    for contrast in found:
        arm, baseline = scores[contrast.arm], scores["a"]
        interval = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
        flips = stats.permutation_test(
            (arm - baseline,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        p_values.append(contrast.p)
        assert contrast.difference == pytest.approx(np.mean(arm - baseline))
        assert contrast.median == pytest.approx(np.median(arm - baseline))
        assert (contrast.ci_low, contrast.ci_high) == pytest.approx(tuple(interval))
        assert contrast.p == pytest.approx(max(flips.pvalue, float(hall_p(arm - baseline))))
        assert contrast.p_tie == tost_p(arm - baseline, 0.01)
        assert contrast.correlation == pytest.approx(stats.pearsonr(arm, baseline).statistic)
    assert [contrast.p_holm for contrast in found] == pytest.approx(
        list(multitest.multipletests(p_values, method="holm")[1])
    )


def test_a_clear_gain_is_better_and_a_clear_loss_worse():
    assert one(noisy(0.95), noisy(0.90, seed=1)).verdict == Verdict.BETTER
    assert one(noisy(0.85), noisy(0.90, seed=1)).verdict == Verdict.WORSE


def test_where_lower_is_better_less_is_better():
    rules = Rules(margin=0.01, higher_is_better=False)
    assert one(noisy(0.3), noisy(0.9, seed=1), rules).verdict == Verdict.BETTER


def test_equal_arms_tie_within_the_margin_and_are_undecided_without_power():
    assert one(noisy(0.9), noisy(0.9, seed=1)).verdict == Verdict.TIE
    assert one(noisy(0.9, spread=0.05), noisy(0.9, spread=0.05, seed=1)).verdict == Verdict.UNDECIDED


def test_a_tie_wins_over_a_difference_too_small_to_matter():
    contrast = one(noisy(0.902, spread=0.0002), noisy(0.9, spread=0.0002, seed=1))
    assert contrast.p_holm <= 0.05
    assert contrast.ci_low > 0
    assert contrast.verdict == Verdict.TIE


def test_below_the_floor_the_largest_effect_stays_undecided_and_the_seeds_needed_are_named():
    scores = {"baseline": noisy(0.5, 6)} | {f"arm{i}": noisy(0.9, 6, seed=i) for i in range(1, 4)}
    found = compare(scores, "baseline", "accuracy", RULES)
    assert {contrast.verdict for contrast in found} == {Verdict.UNDECIDED}
    assert {contrast.seeds_needed for contrast in found} == {7}


def test_seeds_without_a_difference_do_not_count_towards_the_floor():
    baseline = noisy(0.5, 8)
    arm = baseline + np.array([0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0.1])
    contrast = one(arm, baseline)  # 5 signs: smallest p 0.0625
    assert contrast.verdict == Verdict.UNDECIDED
    assert contrast.seeds_needed == 10  # as many as give 6 signs if 5 of 8 do
    assert (contrast.ahead, contrast.equal) == (5, 3)


def test_an_interval_that_holds_0_overrules_a_small_p():
    """One outlier in the direction of all: every sign agrees, yet the t interval is wide."""
    differences = np.array([0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 1.0])
    contrast = one(differences, np.zeros(8))
    assert contrast.p_holm >= 2 / 256
    assert contrast.ci_low < 0
    assert contrast.verdict == Verdict.UNDECIDED


def test_two_seeds_show_no_tie_however_equal():
    contrast = one(np.array([0.9, 0.91]), np.array([0.9, 0.91]))
    assert contrast.verdict == Verdict.UNDECIDED
    assert contrast.seeds_for_tie == 5


def test_arms_that_never_differ_tie():
    contrast = one(np.full(8, 0.9), np.full(8, 0.9))
    assert contrast.verdict == Verdict.TIE
    assert (contrast.p, contrast.p_tie, contrast.seeds_needed) == (1.0, 0.0, None)
    assert math.isnan(contrast.correlation)


def test_a_small_effect_asks_for_more_seeds_than_there_are():
    contrast = one(noisy(0.9, 8, 0.05, 3), noisy(0.89, 8, 0.05, 4))
    assert contrast.verdict == Verdict.UNDECIDED
    assert contrast.seeds_needed > 8


def test_diverged_replicates_of_both_arms_are_counted():
    scores = {"a": noisy(0.9), "b": noisy(0.8, seed=1)}
    assert compare(scores, "a", "accuracy", RULES, {"a": 1, "b": 2})[0].diverged == 3


def test_all_pairs_are_compared_once_each():
    scores = {name: noisy(0.9, seed=seed) for seed, name in enumerate("abcd")}
    found = compare(scores, None, "accuracy", RULES)
    assert len({frozenset((contrast.arm, contrast.baseline)) for contrast in found}) == len(found) == 6


def test_a_larger_family_makes_no_p_smaller():
    scores = {name: noisy(0.9 + seed / 300, spread=0.01, seed=seed) for seed, name in enumerate("abcde")}
    small = compare({name: scores[name] for name in "ab"}, "a", "accuracy", RULES)[0]
    large = compare(scores, "a", "accuracy", RULES)[0]
    assert large.p == small.p
    assert large.p_holm >= small.p_holm


def test_a_difference_of_a_twelfth_of_its_spread_needs_a_thousand_seeds():
    contrast = one(np.array([0.001, -0.002, 0.0015]), np.zeros(3))
    assert contrast.seeds_needed > 1000
    assert contrast.seeds_needed_low < contrast.seeds_needed
    assert contrast.seeds_needed_high is None


def test_an_effect_of_half_a_spread_with_three_contrasts_needs_some_fifty_seeds():
    """The first report's Dice on digits, by its mean and spread: it said 9."""
    pattern = np.array([-2, -1, -1, -0.5, 0.5, 1, 1, 2.0])
    differences = -0.02119 + 0.04417 * pattern / pattern.std(ddof=1)
    scores = {"ce": np.zeros(8), "dice": differences, "focal": noisy(0.1), "hinge": noisy(0.2)}
    contrast = compare(scores, "ce", "accuracy", RULES)[0]
    assert contrast.verdict == Verdict.UNDECIDED
    assert contrast.seeds_needed in (48, 49)
    assert contrast.seeds_needed_low < 48 < (contrast.seeds_needed_high or math.inf)


def test_a_tie_row_whose_arm_collapsed_once_is_no_tie():
    arm, baseline = noisy(0.111, spread=0.001), noisy(0.110, spread=0.001, seed=1)
    arm[3] = 0.087
    loose = Rules(margin=0.02)
    scores = {"arm": arm, "baseline": baseline}
    found = compare(scores, "baseline", "mean_iou", loose, floors={"always background": 0.067})[0]
    assert found.arm_condition.collapsed == 1
    assert found.verdict == Verdict.UNDECIDED


def test_one_wild_replicate_denies_a_tie_by_its_skewness_alone():
    differences = np.array([0, 0.001, -0.001, 0.0005, 0, -0.0005, 0.001, -0.07])
    plain = stats.ttest_1samp(differences, -0.03, alternative="greater").pvalue
    assert plain < 0.05
    assert one(differences, np.zeros(8), Rules(margin=0.03)).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize("untrained", ["arm", "baseline"])
def test_no_verdict_where_either_side_was_not_trained(untrained):
    """The first headline: cross-entropy at .108 where always-background has .087, Dice at .42."""
    scores = {"arm": noisy(0.42), "baseline": noisy(0.43, seed=1)}
    scores[untrained] = noisy(0.108)
    found = compare(scores, "baseline", "mean_iou", Rules(margin=0.03), floors={"background": 0.087})[0]
    assert found.verdict == Verdict.NOT_TRAINED
    by_loss = compare(
        {"arm": noisy(0.42), "baseline": noisy(0.5, seed=1)}, "baseline", "mean_iou", RULES,
        training={untrained: Training(last_losses=(0.8, 0.82, 0.817), constant_loss=0.261)},
    )[0]  # fmt: skip
    assert by_loss.verdict == Verdict.NOT_TRAINED
    trained = compare(
        {"arm": noisy(0.42), "baseline": noisy(0.5, seed=1)}, "baseline", "mean_iou", RULES,
        floors={"background": 0.087}, training={untrained: Training((0.1, 0.1, 9.0), 0.261)},
    )[0]  # fmt: skip
    assert trained.verdict == Verdict.WORSE  # one replicate in three that diverged is no untrained arm


@pytest.mark.parametrize(("n", "step"), [(4, 0.0), (8, 0.02)])
def test_few_seeds_or_a_heavy_test_sample_show_no_tie(n, step):
    found = one(noisy(0.9, n), noisy(0.9, n, seed=1), Rules(margin=0.01, step=step))
    assert found.verdict == Verdict.UNDECIDED


def test_differences_of_a_bounded_metric_have_bounded_intervals():
    found = one(np.array([1.0, 0, 1, 0, 1]), np.array([0.0, 1, 0, 0, 0]), Rules(bounds=(0, 1)))
    assert -1 <= found.ci_low <= found.ci_high <= 1


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(40))
@given(families, st.permutations(["arm0", "arm1", "arm2", "arm3", "arm4"]))
def test_the_order_of_the_arms_changes_nothing(scores, order):
    reordered = {arm: scores[arm] for arm in order if arm in scores}
    plain = {one.arm: one for one in compare(scores, "arm0", "m", RULES)}
    for found in compare(reordered, "arm0", "m", RULES):
        before = plain[found.arm]
        assert (found.verdict, found.p_holm, found.p_tie_holm) == (
            before.verdict,
            before.p_holm,
            before.p_tie_holm,
        )


@settings(deadline=None, max_examples=examples(40))
@given(families)
def test_no_claim_contradicts_a_verdict(scores):
    """With the margin for ``by``: supported nowhere but where the arm is better by more, never beside a tie."""
    contrasts = compare(scores, "arm0", "m", RULES)
    claims = [claim(scores[one.arm] - scores["arm0"], by=0.01, name=one.arm) for one in contrasts]
    for contrast, found in zip(contrasts, answer(claims, 0.05), strict=True):
        if found.answer == "supported":
            assert contrast.verdict == Verdict.BETTER


@settings(deadline=None, max_examples=examples(40))
@given(families)
def test_better_and_worse_rest_on_p_and_interval_and_ties_on_the_margin(scores):
    for contrast in compare(scores, "arm0", "accuracy", RULES):
        significant = contrast.p_holm <= 0.05 and not contrast.ci_low <= 0 <= contrast.ci_high
        tied = contrast.p_tie_holm <= 0.05
        match contrast.verdict:
            case Verdict.BETTER:
                assert significant
                assert contrast.difference > 0
                assert not tied
            case Verdict.WORSE:
                assert significant
                assert contrast.difference < 0
                assert not tied
            case Verdict.TIE:
                assert tied
                assert abs(contrast.difference) < 0.01
                assert -0.01 < contrast.tie_low <= contrast.tie_high < 0.01
            case Verdict.UNDECIDED:
                assert not significant
                assert not tied


@settings(deadline=None)
@given(arm_scores, arm_scores)
def test_swapping_the_arms_flips_sign_and_verdict(first, second):
    there, back = one(first, second), one(second, first)
    opposite = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    assert back.verdict == opposite.get(there.verdict, there.verdict)
    assert back.difference == -there.difference
    assert back.median == -there.median
    assert (back.ci_low, back.ci_high) == pytest.approx((-there.ci_high, -there.ci_low), abs=1e-15)
    assert (back.p, back.p_holm) == pytest.approx((there.p, there.p_holm), rel=1e-9)
    assert back.seeds_needed == there.seeds_needed
    assert there.ahead + back.ahead + there.equal == 8
    assert back.p_tie == pytest.approx(there.p_tie, abs=1e-12)


@settings(deadline=None)
@given(families, st.permutations(range(8)))
def test_the_order_of_the_seeds_changes_nothing(scores, order):
    shuffled = {arm: values[list(order)] for arm, values in scores.items()}
    for before, after in zip(
        compare(scores, "arm0", "m", RULES), compare(shuffled, "arm0", "m", RULES), strict=True
    ):
        assert after.verdict == before.verdict
        assert after.p_holm == pytest.approx(before.p_holm, rel=1e-9)
        assert after.difference == pytest.approx(before.difference, abs=1e-12)
        assert (after.ci_low, after.ci_high) == pytest.approx((before.ci_low, before.ci_high), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(-90, 90).map(lambda k: k / 256), min_size=8, max_size=8).map(np.array))
def test_shifting_both_arms_changes_nothing_and_a_unit_only_the_unit(differences):
    """In steps of 1/256, which sum without rounding."""
    baseline = np.full(8, 0.5)
    plain = _numbers(one(baseline + differences, baseline))
    assert _numbers(one(baseline + differences + 0.25, baseline + 0.25)) == pytest.approx(plain, nan_ok=True)
    percent = _numbers(one(128 * (baseline + differences), 128 * baseline, Rules(margin=1.28)))
    for column in ("verdict", "p", "p_holm", "seeds_needed", "seeds_for_tie", "ahead", "p_tie"):
        assert (
            percent[column] == pytest.approx(plain[column], rel=1e-9, nan_ok=True)
            if column[0] == "p"
            else True
        )
        assert column[0] == "p" or percent[column] == plain[column]
    assert percent["difference"] == 128 * plain["difference"]


def _numbers(contrast):
    columns = {name: value for name, value in asdict(contrast).items() if "condition" not in name}
    return columns | {f"difference {seed}": value for seed, value in enumerate(columns.pop("differences"))}


@pytest.mark.slow
def test_under_the_null_a_family_is_rarely_wrong():
    rng = np.random.default_rng(0)
    rules = Rules(margin=1e-9)
    wrong = 0
    for _ in range(200):
        scores = {str(arm): rng.normal(size=8) for arm in range(4)}
        wrong += any(
            contrast.verdict != Verdict.UNDECIDED for contrast in compare(scores, "0", "metric", rules)
        )
    assert stats.binomtest(wrong, 200, 0.05, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ({"a": np.ones(8), "b": np.ones(7)}, "the same seeds; found replicates per arm: {'a': 8, 'b': 7}"),
        ({"a": np.ones(1), "b": np.ones(1)}, "at least 2 seeds"),
        ({"a": np.ones(3), "b": np.array([1, math.nan, 1])}, "scores of arm 'b' must be finite"),
        ({"b": np.ones(3), "c": np.ones(3)}, "baseline 'a' has no scores"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(scores, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare(scores, "a", "accuracy", RULES)


@pytest.mark.parametrize(
    "wrong", [{"level": 0}, {"level": math.nan}, {"margin": 0}, {"margin": math.nan}, {"power": 1}]
)
def test_rules_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rules(**wrong)


def claim(differences, by=0.0, higher=True, name="claim"):
    return Claim(name, "dice", "cross_entropy", "mean_iou", by, higher, np.asarray(differences))


def test_a_claim_is_supported_only_beyond_the_difference_it_names():
    gain = noisy(0.05)
    assert answer([claim(gain, by=0.02)], 0.05)[0].answer == "supported"
    assert answer([claim(gain, by=0.08)], 0.05)[0].answer == "refuted"
    assert answer([claim(gain, by=0.0502)], 0.05)[0].answer == "undecided"


def test_a_claim_is_refuted_by_the_opposite():
    assert answer([claim(-noisy(0.05))], 0.05)[0].answer == "refuted"


def test_a_claim_on_a_metric_where_lower_is_better_counts_downwards():
    found = answer([claim(-noisy(0.05), by=0.02, higher=False)], 0.05)[0]
    assert found.answer == "supported"
    assert found.difference == pytest.approx(noisy(0.05).mean())
    assert 0.02 < found.ci_low < found.difference < found.ci_high


def test_a_claims_numbers_are_scipys_one_sample_test_against_by():
    gain = noisy(0.022, 9, 0.02)
    found = answer([claim(gain, by=0.02)], 0.05)[0]
    interval = stats.ttest_1samp(gain, 0.02).confidence_interval(0.95)
    flips = stats.permutation_test((gain - 0.02,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(interval))
    assert found.p == pytest.approx(max(flips.pvalue, float(hall_p(gain - 0.02))))
    assert found.seeds_needed > 9


def test_claims_are_a_holm_family_of_their_own():
    claims = [claim(noisy(0.004, 8, 0.004, seed), name=str(seed)) for seed in range(5)]
    found = answer(claims, 0.05)
    expected = multitest.multipletests([one.p for one in found], method="holm")[1]
    assert [one.p_holm for one in found] == pytest.approx(list(expected))


def test_one_replicate_answers_nothing():
    found = answer([claim([0.4])], 0.05)[0]
    assert (found.answer, found.seeds_needed, found.n) == ("undecided", 6, 1)


def test_claims_without_sense_are_refused():
    with pytest.raises(ValueError, match="claim 'claim' has no replicates"):
        answer([claim([])], 0.05)
    with pytest.raises(ValueError, match="differences of claim 'claim' must be finite"):
        answer([claim([0.1, math.nan])], 0.05)
    with pytest.raises(ValueError, match="by must be 0 or more"):
        answer([claim([0.1, 0.2], by=-1)], 0.05)
