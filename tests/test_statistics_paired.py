"""Intervals and sign flips: scipy as oracle, and laws that hold for any differences."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each
from scipy import stats

from lossbench.statistics import paired
from lossbench.statistics.paired import (
    EXACT_UP_TO,
    Interval,
    constant,
    difference_p,
    hall_bounds,
    hall_p,
    less,
    mean_interval,
    pair_correlation,
    sign_flip_p,
)
from lossbench.statistics.samples import Paired, Unpaired

scores = st.lists(st.integers(-500, 500).map(lambda k: k / 1000), min_size=2, max_size=10).map(np.array)
"""Like accuracies: with ties and zeros."""


def flip_by_scipy(differences, resamples=np.inf):
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=resamples, alternative="two-sided"
    )
    return test.pvalue


@each("level", [0.01, 0.05, 0.1, 0.32])
@each("n", [2, 5, 20])
def test_the_interval_is_scipys_paired_t_interval(n, level):
    rng = np.random.default_rng(n)
    arm, baseline = rng.normal(0.9, 0.01, (2, n))
    expected = stats.ttest_rel(arm, baseline).confidence_interval(1 - level)
    found = mean_interval(arm - baseline, level)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)


@each("n", [2, 3, 7, 8, 12])
@each("seed", range(3))
def test_sign_flip_p_is_scipys_exact_permutation_p(n, seed):
    differences = np.random.default_rng(seed).normal(0.4, 1, n)
    assert sign_flip_p(differences) == pytest.approx(flip_by_scipy(differences), rel=1e-12)


@given(scores)
def test_sign_flip_p_counts_sign_vectors_one_by_one(differences):
    nonzero = np.round(1000 * differences[differences != 0]).astype(int)  # in whole numbers: no rounding
    observed = abs(nonzero.sum())
    flips = [abs(np.dot(signs, nonzero)) for signs in itertools.product([1, -1], repeat=len(nonzero))]
    expected = np.mean([flip >= observed for flip in flips]) if len(nonzero) else 1.0
    assert sign_flip_p(differences) == pytest.approx(expected, abs=1e-12)


def test_sign_flip_p_counted_by_halves_is_the_count_of_all():
    differences = np.random.default_rng(1).normal(0.5, 1, 20)
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    left, right = signs @ differences[:10], signs @ differences[10:]
    expected = np.mean(np.abs(left[:, None] + right[None, :]) >= differences.sum() - 1e-9)
    assert sign_flip_p(differences) == pytest.approx(expected, abs=1e-12)


def test_beyond_what_is_counted_monte_carlo_comes_close_and_repeats_itself():
    differences = np.random.default_rng(5).normal(0.3, 1, EXACT_UP_TO + 4)
    p = sign_flip_p(differences)
    normal = 2 * stats.norm.sf(abs(differences.sum()) / math.sqrt((differences**2).sum()))
    assert p == pytest.approx(normal, rel=0.15)
    assert p == sign_flip_p(differences)
    assert p != sign_flip_p(differences, seed=1)


def test_halls_p_is_students_where_nothing_is_skewed():
    differences = np.array([-1.5, 1.5, -0.5, 0.5, -1, 1]) + 0.7
    assert hall_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_halls_statistic_is_the_papers_cubic(seed):
    values = np.random.default_rng(seed).exponential(1, 9)
    ratio = (values.mean() - 0.8) / values.std(ddof=1)
    skew = stats.skew(values)
    cubic = ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / 54
    assert hall_p(values, 0.8) == pytest.approx(2 * stats.t.sf(abs(3 * cubic), 8), rel=1e-12)


@given(scores, st.floats(0.01, 0.4))
def test_halls_interval_ends_where_halls_p_is_the_level(differences, level):
    if np.ptp(differences) > 0:
        for bound in hall_bounds(differences, level):
            assert hall_p(differences, bound) == pytest.approx(level, rel=1e-6)


@given(scores, st.floats(0.01, 100))
def test_the_larger_p_counts_and_does_not_depend_on_sign_or_unit(differences, unit):
    p = difference_p(differences)
    assert p == max(sign_flip_p(differences), float(hall_p(differences)))
    assert difference_p(-differences) == pytest.approx(p, rel=1e-9)
    assert difference_p(unit * differences) == pytest.approx(p, rel=1e-9)


@given(scores, st.floats(0, 0.2))
def test_halls_p_falls_as_all_differences_move_away_from_0(differences, step):
    away = np.sort(np.abs(differences)) + 0.6
    assert hall_p(away + step) <= hall_p(away) + 1e-12


def test_an_interval_is_cut_to_what_the_metric_can_be():
    assert Interval(0.9, 1.1).within(0, 1) == Interval(0.9, 1.0)
    assert Interval(-0.2, 0.1).within(0, 1) == Interval(0.0, 0.1)
    assert Interval(0.2, 0.3).within(0, 1) == Interval(0.2, 0.3)


def test_monte_carlo_never_gives_zero():
    assert 0 < sign_flip_p(np.full(40, 0.1)) < 1e-4


@given(scores)
def test_p_is_a_probability_and_no_smaller_than_the_floor(differences):
    p = sign_flip_p(differences)
    assert min(1.0, 2 / 2.0 ** np.count_nonzero(differences)) - 1e-15 <= p <= 1


@given(scores, st.randoms(use_true_random=False), st.floats(1e-6, 1e6))
def test_p_does_not_depend_on_order_sign_or_unit(differences, random, unit):
    shuffled = differences.copy()
    random.shuffle(shuffled)
    p = sign_flip_p(differences)
    assert sign_flip_p(shuffled) == p
    assert sign_flip_p(-differences) == p
    assert sign_flip_p(unit * differences) == p


@given(scores, st.integers(1, 5))
def test_blocks_without_a_difference_change_no_p(differences, zeros):
    assert sign_flip_p(np.concatenate([differences, np.zeros(zeros)])) == sign_flip_p(differences)


@given(scores, st.floats(0.01, 0.4))
def test_the_interval_moves_and_scales_with_the_scores(differences, level):
    plain = mean_interval(differences, level)
    moved = mean_interval(3 * differences + 2, level)
    assert (moved.low, moved.high) == pytest.approx((3 * plain.low + 2, 3 * plain.high + 2), abs=1e-9)
    mirrored = mean_interval(-differences, level)
    assert (mirrored.low, mirrored.high) == pytest.approx((-plain.high, -plain.low), abs=1e-12)


@given(scores)
def test_a_higher_confidence_widens_the_interval(differences):
    wide, narrow = mean_interval(differences, 0.01), mean_interval(differences, 0.1)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_one_replicate_has_no_interval():
    found = mean_interval(np.array([0.9]), 0.05)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.excludes(0)
    assert not found.inside(-1, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused_not_dropped(bad):
    with pytest.raises(ValueError, match=r"must be finite, found .* at position 1"):
        sign_flip_p(np.array([0.1, bad, 0.3]))


def test_scores_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="one value per seed"):
        sign_flip_p(np.ones((2, 3)))


def test_pair_correlation_is_pearsons():
    first, second = np.random.default_rng(0).normal(size=(2, 9))
    assert pair_correlation(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)


def test_an_arm_that_never_varies_has_no_correlation():
    assert math.isnan(pair_correlation(np.ones(5), np.arange(5.0)))


@pytest.mark.parametrize("count", [1, 7, 8, 33, 250])
def test_drawn_signs_are_those_of_numpys_integers(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    rng, sums = np.random.Generator(np.random.PCG64(3)), np.zeros(1000)
    for start in range(0, count, 8):
        some = paired._all_signed_sums(values[start : start + 8])
        sums += some[rng.integers(0, len(some), 1000, dtype=np.uint16)]
    assert np.array_equal(paired._drawn_sums(values, 1000, 3), sums)


steps = st.lists(st.integers(-6, 6), min_size=3, max_size=9)
"""Differences in test samples: with ties, zeros, and sums that are equal in many ways."""
sizes = st.sampled_from([0.0001, 0.00001, 1 / 10_015, 0.01])
levels = st.sampled_from([0.98, 1.0, 97.0, 1e4, 1e6])


@given(steps, sizes, levels)
def test_p_and_what_counts_once_do_not_depend_on_how_far_scores_lie_from_0(counts, step, level):
    """0.9813 − 0.9812 and 0.9807 − 0.9806 differ in the last digit that a float has: that is no evidence."""
    base = level + step * np.arange(len(counts))
    sample = Paired(base + step * np.array(counts), base)
    exact = np.array(counts, dtype=float)
    assert constant(sample.differences) == constant(exact)
    if not constant(exact):
        assert sample.p() == pytest.approx(max(sign_flip_p(exact), float(hall_p(exact))), rel=1e-3)


@given(steps, sizes, levels)
def test_unpaired_p_does_not_depend_on_how_far_scores_lie_from_0(counts, step, level):
    first, second = np.array(counts, dtype=float), np.arange(4.0)
    if not constant(first):
        there = Unpaired(level + step * first, level + step * second)
        assert there.p() == pytest.approx(Unpaired(first, second).p(), rel=1e-3)


def test_equal_ts_of_a_permutation_are_equal_though_scores_are_far_larger_than_their_spread():
    rng, second = np.random.default_rng(0), np.arange(4.0)
    for _ in range(120):
        first = rng.integers(-6, 7, size=5).astype(float)
        near, far = Unpaired(first, second), Unpaired(1e6 + 1e-5 * first, 1e6 + 1e-5 * second)
        assert far.p() == pytest.approx(near.p(), rel=1e-3)


SCORES = st.floats(-1, 1) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(SCORES, max_size=9), st.floats(-1, 1))
def test_a_difference_keeps_its_sign_and_its_size_but_for_rounding(values, other):
    first = np.array(values)
    assert less(first, other) == pytest.approx(first - other, abs=1e-11, nan_ok=True)
    there = np.isfinite(first)
    assert (less(first, other)[there] * (first[there] - other) >= 0).all()


def test_one_score_that_ran_away_does_not_make_the_others_differences_one():
    first, second = np.array([0.71, 0.75, 0.7, 1e30]), np.array([0.7, 0.7, 0.7, 0.7])
    assert less(first, second) == pytest.approx([0.01, 0.05, 0.0, 1e30])
