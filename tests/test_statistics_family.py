"""Holm, the floor, equivalence and planning: statsmodels as oracle, and the figures of the specification."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from lossbench.statistics.equivalence import seeds_for_tie, tie_interval, tie_power, tost_p, tost_ps
from lossbench.statistics.family import (
    floor_seeds,
    holm,
    power,
    seeds_for,
    seeds_needed,
    smallest_p,
    verdict_power,
)
from lossbench.statistics.paired import hall_p, sign_flip_p

coarse = st.lists(st.integers(-1000, 1000).map(lambda k: k / 1000), min_size=3, max_size=12).map(np.array)
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.slow
@pytest.mark.parametrize("contrasts", [1, 2, 3, 9, 45])
def test_holm_is_statsmodels_holm(contrasts):
    p_values = [*np.random.default_rng(contrasts).beta(0.3, 2, contrasts - 1).round(2), 0.02]  # with ties
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-15)


@given(probabilities)
def test_holm_lowers_no_p_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_of_one_contrast_changes_nothing():
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        holm([0.1, bad])


@pytest.mark.parametrize(("contrasts", "seeds"), [(3, 7), (9, 9), (45, 11)])
def test_the_floor_is_the_specifications(contrasts, seeds):
    assert floor_seeds(contrasts, 0.05) == seeds


def test_four_losses_on_eight_seeds_reach_a_p_of_0234():
    assert 3 * smallest_p(8) == pytest.approx(0.0234, abs=5e-5)


@given(st.integers(1, 200), st.floats(0.001, 0.4))
def test_the_floor_is_the_first_n_that_holm_can_pass(contrasts, level):
    n = floor_seeds(contrasts, level)
    assert smallest_p(n) * contrasts <= level
    assert n == 1 or smallest_p(n - 1) * contrasts > level


def test_a_level_that_is_a_power_of_two_is_reached_exactly():
    assert floor_seeds(1, 1 / 16) == 5


@pytest.mark.parametrize(("contrasts", "level"), [(0, 0.05), (3, 0.0), (3, 1.0)])
def test_a_family_must_make_sense(contrasts, level):
    with pytest.raises(ValueError, match="found"):
        floor_seeds(contrasts, level)


@each("effect", [0.2, 0.7, 1.0, -1.0])
@each("n", [3, 8, 20, 60])
def test_power_is_statsmodels_power(effect, n):
    expected = TTestPower().power(abs(effect), n, 0.05 / 3)
    assert power(effect, n, 0.05 / 3) == pytest.approx(expected, abs=1e-8)


@each("n", [9, 60])
@each("effect", [2.5, 50.0, 1e6])
def test_power_stays_a_probability_for_huge_effects(effect, n):
    """Where statsmodels answers NaN."""
    assert power(effect, n, 0.05) == pytest.approx(1.0, abs=1e-4)


@given(st.floats(0.05, 5), st.integers(1, 20))
def test_seeds_for_is_the_first_n_with_the_power_wanted(effect, contrasts):
    n = seeds_for(effect, contrasts, 0.05, 0.8)
    assert n >= floor_seeds(contrasts, 0.05)
    assert verdict_power(effect, n, 0.05 / contrasts) >= 0.8
    assert n == floor_seeds(contrasts, 0.05) or verdict_power(effect, n - 1, 0.05 / contrasts) < 0.8


def test_seeds_for_agrees_with_statsmodels_planning():
    expected = TTestPower().solve_power(effect_size=0.5, alpha=0.05, power=0.8)
    assert seeds_for(0.5, 1, 0.05, 0.8) == math.ceil(expected)


@pytest.mark.parametrize(("effect", "seeds"), [(0.0, None), (math.nan, None), (1e-6, None), (math.inf, 7)])
def test_seeds_for_the_limits(effect, seeds):
    assert seeds_for(effect, 3, 0.05, 0.8) == seeds


@each("margin", [0.1, 0.5, 2.0])
@each("seed", range(4))
def test_tost_is_statsmodels_tost_where_nothing_is_skewed(margin, seed):
    half = np.random.default_rng(seed).normal(0, 0.5, 5)
    differences = np.concatenate([half, -half]) + 0.1
    expected = DescrStatsW(differences).ttost_mean(-margin, margin)[0]
    assert tost_p(differences, margin) == pytest.approx(expected, rel=1e-9)


@given(coarse, st.floats(0.01, 2))
def test_skewness_never_makes_a_tie_easier(differences, margin):
    if np.ptp(differences) > 0:
        assert tost_p(differences, margin) >= DescrStatsW(differences).ttost_mean(-margin, margin)[0] - 1e-12


@given(coarse, st.floats(0.01, 2), st.sampled_from([0.05, 0.05 / 3, 0.01]))
def test_a_tie_is_shown_exactly_where_its_interval_lies_inside_the_margin(differences, margin, level):
    p = tost_p(differences, margin)
    if abs(p - level) > 1e-6:
        assert (p < level) == tie_interval(differences, level).inside(-margin, margin)


@given(coarse, st.floats(0.01, 1))
def test_a_wider_margin_never_speaks_against_a_tie(differences, margin):
    assert tost_p(differences, 2 * margin) <= tost_p(differences, margin) + 1e-12


def test_differences_that_are_all_equal_tie_only_within_the_margin():
    assert tost_p(np.full(5, 0.25), 0.5) == 0
    assert tost_p(np.full(5, 0.75), 0.5) == 1


@pytest.mark.parametrize("margin", [0.0, -1.0, math.nan, math.inf])
def test_a_tie_needs_a_margin(margin):
    with pytest.raises(ValueError, match="margin above 0"):
        tost_p(np.arange(5.0), margin)


@pytest.mark.parametrize(("margin", "seeds"), [(1.0, 11), (0.5, 37)])
def test_seeds_for_a_tie_are_what_simulation_finds(margin, seeds):
    assert seeds_for_tie(margin, 0.05, 0.8) == seeds


@pytest.mark.parametrize(("margin", "n"), [(1.0, 5), (1.0, 8), (0.5, 40)])
def test_tie_power_is_how_often_the_rule_finds_a_tie(margin, n):
    differences = np.random.default_rng(0).normal(size=(20_000, n))
    found = (tost_ps(differences, margin) <= 0.05).mean()
    assert tie_power(margin, n, 0.05) == pytest.approx(found, abs=0.015)


@pytest.mark.parametrize(("effect", "contrasts"), [(3.0, 1), (1.5, 1), (2.0, 3), (1.2, 3), (1.5, 9)])
def test_verdict_power_is_how_often_the_rule_finds_the_effect(effect, contrasts):
    """The t-test's is up to .2 too much for a few seeds: all signs must agree, and skewness be borne."""
    n, level, families = seeds_for(effect, contrasts, 0.05, 0.8), 0.05 / contrasts, 1000
    differences = np.random.default_rng(1).normal(effect, 1, (families, n))
    likely = np.flatnonzero(hall_p(differences) <= level)
    found = sum(sign_flip_p(differences[family]) <= level for family in likely) / families
    assert verdict_power(effect, n, level) == pytest.approx(found, abs=0.05)
    assert found >= 0.78


@given(st.floats(0, 4), st.integers(2, 40), st.sampled_from([0.05, 0.05 / 3, 0.01]))
def test_no_verdict_has_more_power_than_the_t_test(effect, n, level):
    assert 0 <= verdict_power(effect, n, level) <= power(effect, n, level) + 1e-6


def test_seeds_needed_count_the_zeros_that_carry_no_sign():
    assert seeds_needed(math.inf, 1.0, 3, 0.05, 0.8) == 7
    assert seeds_needed(math.inf, 0.5, 3, 0.05, 0.8) == 14
    assert seeds_needed(0.48, 0.5, 3, 0.05, 0.8) == 49
    assert seeds_needed(math.nan, 0.0, 3, 0.05, 0.8) is None


@given(st.floats(0.1, 3), st.floats(0.1, 1), st.integers(1, 9))
def test_seeds_needed_never_fall_below_floor_or_power(effect, share, contrasts):
    needed = seeds_needed(effect, share, contrasts, 0.05, 0.8)
    assert needed >= floor_seeds(contrasts, 0.05)
    assert needed >= seeds_for(effect, contrasts, 0.05, 0.8)
