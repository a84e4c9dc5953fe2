"""Entropies keep their identities, and are scipy's."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from lossbench import information
from lossbench.information import conditional_entropy, cross_entropy, entropy, kl_divergence

units = pytest.mark.parametrize(("unit", "base"), [("nats", np.e), ("bits", 2)])


def distributions(shape: int | tuple[int, ...], low: float = 0.0) -> st.SearchStrategy[np.ndarray]:
    counts = npst.arrays(np.float64, shape, elements=st.floats(low, 1.0)).filter(lambda a: a.sum() > 1e-3)
    return counts.map(lambda a: a / a.sum())


@units
@given(p=distributions(5), q=distributions(5, low=1e-3))
def test_is_what_scipy_computes(unit: str, base: float, p: np.ndarray, q: np.ndarray) -> None:
    assert entropy(p, unit) == pytest.approx(stats.entropy(p, base=base), abs=1e-12)
    assert kl_divergence(p, q, unit) == pytest.approx(stats.entropy(p, q, base=base), abs=1e-12)


@given(p=distributions(6), q=distributions(6, low=1e-3))
def test_cross_entropy_is_entropy_plus_divergence(p: np.ndarray, q: np.ndarray) -> None:
    assert cross_entropy(p, q) == pytest.approx(entropy(p) + kl_divergence(p, q), abs=1e-12)
    assert kl_divergence(p, q) >= -1e-12
    assert kl_divergence(p, p) == pytest.approx(0.0, abs=1e-12)


@given(p=distributions(7))
def test_entropy_lies_between_certainty_and_uniformity(p: np.ndarray) -> None:
    assert -1e-12 <= entropy(p) <= np.log(7) + 1e-12
    assert entropy(np.full(7, 1 / 7)) == pytest.approx(np.log(7))
    assert entropy(np.eye(7)[0]) == 0


@given(joint=distributions((3, 4)))
def test_conditional_entropy_weighs_each_row_by_its_probability(joint: np.ndarray) -> None:
    found = conditional_entropy(joint)
    rows = joint.sum(1)
    by_row = sum(weight * stats.entropy(row) for weight, row in zip(rows, joint, strict=True) if weight > 0)
    assert found == pytest.approx(by_row, abs=1e-12)
    assert found == pytest.approx(entropy(joint.ravel()) - entropy(rows), abs=1e-9), "the chain rule"
    assert found <= entropy(joint.sum(0)) + 1e-9, "conditioning never adds uncertainty"


@given(p=distributions(4), q=distributions(4, low=1e-3))
def test_a_bit_is_log_two_nats(p: np.ndarray, q: np.ndarray) -> None:
    assert cross_entropy(p, q, "bits") * np.log(2) == pytest.approx(cross_entropy(p, q))
    assert conditional_entropy(np.outer(p, q), "bits") == pytest.approx(entropy(q, "bits"), abs=1e-9)


def test_ruling_out_what_happens_costs_without_bound() -> None:
    assert cross_entropy([0.5, 0.5], [1.0, 0.0]) == np.inf
    assert kl_divergence([0.5, 0.5], [1.0, 0.0]) == np.inf
    assert cross_entropy([1.0, 0.0], [1.0, 0.0]) == 0


def test_rows_are_taken_one_by_one() -> None:
    p = np.array([[0.5, 0.5], [1.0, 0.0]])
    np.testing.assert_allclose(entropy(p, "bits"), [1.0, 0.0])


def test_what_is_no_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="p must sum to 1"):
        entropy([0.5, 0.6])
    with pytest.raises(ValueError, match="q must be finite probabilities"):
        cross_entropy([0.5, 0.5], [1.5, -0.5])
    with pytest.raises(ValueError, match="p has 2 outcomes and q has 3"):
        kl_divergence([0.5, 0.5], [0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match=r"table \(X, Y\)"):
        conditional_entropy([0.5, 0.5])
    with pytest.raises(ValueError, match="unit is 'hartleys'; allowed: nats, bits"):
        entropy([0.5, 0.5], "hartleys")


def test_examples_run() -> None:
    assert doctest.testmod(information).failed == 0
