"""Was it trained? Floors, collapses, edges, budgets."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each
from scipy import stats

from lossbench.statistics.trained import (
    AtBudget,
    Training,
    budget_sensitive,
    condition,
    seeds_to_exclude,
    share_interval,
)

FLOORS = {"majority class": 0.1, "always background": 0.087}
shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("mean", "higher", "untrained"),
    [(0.108, True, True), (0.42, True, False), (0.05, True, True), (0.05, False, False), (0.08, False, True)],
)
def test_an_arm_is_untrained_that_does_not_leave_the_best_floor_behind(mean, higher, untrained):
    state = condition(np.full(8, mean), FLOORS, 0.02, higher)
    assert bool(state.untrained) == untrained
    if untrained:
        assert ("majority class" if higher else "always background") in state.untrained[0]


def test_without_floors_nothing_is_said_of_them():
    assert condition(np.zeros(8), {}, 0.02, True) == condition(np.ones(8), {"none": math.nan}, 0.02, True)


@pytest.mark.parametrize(
    ("losses", "untrained"),
    [
        ((0.8, 0.82, 0.817), True),
        ((0.1, 0.12, 9.0), False),
        ((0.1, 0.1, math.nan), False),
        ((math.nan, math.nan, 0.1), True),
    ],
)
def test_a_training_loss_above_the_best_constants_is_untrained_a_single_one_is_a_collapse(losses, untrained):
    assert bool(condition(np.ones(3), {}, 0.01, True, Training(losses, 0.261)).untrained) == untrained


@given(st.lists(shares, min_size=2, max_size=12), st.floats(0, 0.9), st.floats(0.001, 0.1))
def test_collapsed_replicates_are_those_at_a_floors_score(scores, floor, margin):
    found = condition(np.array(scores), {"floor": floor}, margin, True).collapsed
    assert found == sum(score - floor <= margin for score in scores)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_share_that_would_collapse_has_its_exact_interval(case):
    count, n = case
    low, high = share_interval(count, n)
    assert low <= count / n <= high
    if count < n:
        assert stats.binom.cdf(count, n, high) == pytest.approx(0.025, rel=1e-6)


def test_none_of_eight_is_compatible_with_a_third_and_a_tenth_takes_29():
    assert share_interval(0, 8)[1] == pytest.approx(0.369, abs=5e-4)
    assert seeds_to_exclude(0.1) == 29


@each(
    ("budgets", "said"),
    [
        ([(0.5, "better", 0.2), (1.0, "better", 0.2)], ""),
        (
            [(0.5, "better", 0.2), (1.0, "tie", 0.0)],
            "from 50 % to 100 % of the epochs the verdict goes from better to tie",
        ),
        ([(0.5, "better", 0.3), (1.0, "better", 0.1)], "the difference goes from 0.300 to 0.100"),
        ([(0.1, "worse", 0.3), (0.5, "better", 0.2), (1.0, "better", 0.21)], ""),
        ([(0.1, "undecided", 0.0), (1.0, "better", 0.1)], "from 10 % to 100 %"),
        ([(0.7, "tie", 0.0), (1.0, "better", 0.1)], ""),
        ([(1.0, "better", 0.1)], ""),
        ([], ""),
    ],
)
def test_a_contrast_that_changes_over_the_last_doubling_is_budget_sensitive(budgets, said):
    for order in (budgets, budgets[::-1]):
        found = budget_sensitive([AtBudget(*one) for one in order], 0.05)
        assert said in found
        assert bool(found) == bool(said)
