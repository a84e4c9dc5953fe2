"""Entropies of discrete distributions, in nats or bits: the quantities that training losses estimate.

With true probabilities p and predicted ones q, H(p, q) = H(p) + KL(p ‖ q) ≥ H(p): the least cross-entropy
that any model can reach is the conditional entropy of the labels given the inputs, H(Y|X) = H(X, Y) − H(X).
Throughout 0 log 0 = 0.

Source: Cover & Thomas, Elements of Information Theory, 2nd ed. 2006, sec. 2.1 to 2.3.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr, xlogy

Array = npt.NDArray[np.float64]
Unit = Literal["nats", "bits"]
_NATS_PER: dict[str, float] = {"nats": 1.0, "bits": float(np.log(2.0))}


def entropy(p: npt.ArrayLike, unit: Unit = "nats") -> Array | np.float64:
    """Return H(p) = −Σ p log p over the last axis: how uncertain a draw from p is.

    Args:
        p: probabilities (..., K), each row summing to 1.
        unit: nats (log to base e) or bits (base 2).

    Returns:
        (...), between 0 (one certain outcome) and log K (all alike).

    Raises:
        ValueError: p is no distribution, or the unit is unknown.

    Example:
        >>> float(entropy([0.5, 0.5], "bits"))
        1.0
    """
    p = _distribution(p, "p")
    return _in(unit, -xlogy(p, p).sum(-1))


def cross_entropy(p: npt.ArrayLike, q: npt.ArrayLike, unit: Unit = "nats") -> Array | np.float64:
    """Return H(p, q) = −Σ p log q over the last axis: the mean loss −log q of predicting q under p.

    Args:
        p: true probabilities (..., K).
        q: predicted probabilities (..., K); shapes broadcast.
        unit: nats or bits.

    Returns:
        (...), H(p) at least; inf where q rules out what p allows.

    Raises:
        ValueError: p or q is no distribution, their lengths differ, or the unit is unknown.

    Example:
        >>> float(cross_entropy([1.0, 0.0], [0.25, 0.75], "bits"))
        2.0
    """
    p, q = _pair(p, q)
    return _in(unit, -xlogy(p, q).sum(-1))


def kl_divergence(p: npt.ArrayLike, q: npt.ArrayLike, unit: Unit = "nats") -> Array | np.float64:
    """Return KL(p ‖ q) = Σ p log(p / q) over the last axis: what predicting q costs beyond H(p).

    Not symmetric. Arguments, shapes and errors are those of ``cross_entropy``.

    Returns:
        (...), 0 if and only if p = q; inf where q rules out what p allows.

    Example:
        >>> float(kl_divergence([1.0, 0.0], [0.5, 0.5], "bits"))
        1.0
    """
    p, q = _pair(p, q)
    return _in(unit, rel_entr(p, q).sum(-1))


def conditional_entropy(joint: npt.ArrayLike, unit: Unit = "nats") -> np.float64:
    """Return H(Y|X) = Σ_x p(x) H(Y | X = x): each row's entropy weighed by how often the row occurs.

    Args:
        joint: p(x, y) as (X, Y), x in rows; the whole table sums to 1.
        unit: nats or bits.

    Returns:
        A number between 0 (x determines y) and H(Y) (x says nothing of y). It is the least cross-entropy
        that a model of y given x can have.

    Raises:
        ValueError: joint is no two-dimensional distribution, or the unit is unknown.

    Example:
        >>> float(conditional_entropy([[0.5, 0.0], [0.25, 0.25]], "bits"))
        0.5
    """
    table = np.asarray(joint, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"joint must be a table (X, Y); got {table.ndim} dimensions")
    _distribution(table.reshape(-1), "joint")
    of_x = np.broadcast_to(table.sum(1, keepdims=True), table.shape)
    return np.float64(_in(unit, -rel_entr(table, of_x).sum()))


def _pair(p: npt.ArrayLike, q: npt.ArrayLike) -> tuple[Array, Array]:
    first, second = _distribution(p, "p"), _distribution(q, "q")
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"p has {first.shape[-1]} outcomes and q has {second.shape[-1]}; they must be the same"
        )
    return first, second


def _distribution(values: npt.ArrayLike, name: str) -> Array:
    p = np.asarray(values, dtype=np.float64)
    if p.ndim == 0 or not np.isfinite(p).all() or (p < 0).any():
        raise ValueError(
            f"{name} must be finite probabilities ≥ 0, the last axis over outcomes; got {values!r}"
        )
    total = p.sum(-1)
    if not np.allclose(total, 1.0, rtol=0.0, atol=1e-6):
        raise ValueError(f"{name} must sum to 1 over its outcomes; got {total!r}")
    return p


def _in(unit: str, nats: Array) -> Array:
    if unit not in _NATS_PER:
        raise ValueError(f"unit is {unit!r}; allowed: {', '.join(_NATS_PER)}")
    return nats / _NATS_PER[unit] + 0.0  # −0 becomes 0
