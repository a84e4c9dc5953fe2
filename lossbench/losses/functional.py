"""The numerical core.

Pure functions of tensors that stay finite, in value and gradient, at saturated logits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def safe_power(base: Tensor, exponent: float) -> Tensor:
    """Return base^exponent for base ≥ 0 with a finite gradient at 0, also for exponents below 1."""
    if exponent == 0:
        return torch.ones_like(base)
    if exponent == 1:
        return base
    floor = 0.0 if exponent > 1 else 1e-30  # below it d(x^e)/dx would overflow; clamping makes the gradient 0
    return base.clamp_min(floor).pow(exponent)


def smoothed_cross_entropy(
    log_probs: Tensor, index: Tensor, smoothing: float, weights: Tensor | None
) -> Tensor:
    """Return −log p of the target smoothed by ``smoothing``, (N, L), times class weights.

    Args:
        log_probs: (N, C, L).
        index: (N, L).
        smoothing: ε of 1512.00567: the target is 1 − ε on the true class plus ε / C on each.
        weights: (C,), applied to each class's term as torch does it.
    """
    true = -pick(log_probs, index)
    if weights is not None:
        true = true * weights[index]
    if smoothing == 0:
        return true
    spread = -(log_probs if weights is None else log_probs * weights.view(1, -1, 1)).mean(1)
    return (1 - smoothing) * true + smoothing * spread


def focal(log_p: Tensor, gamma: float, detached: bool = False) -> Tensor:
    """Return −(1 − p)^γ log p from log p (1708.02002, sec. 3); exactly −log p at γ = 0.

    ``detached`` leaves the factor (1 − p)^γ out of the gradient.
    """
    if gamma == 0:
        return -log_p
    factor = safe_power(-torch.expm1(log_p.detach() if detached else log_p), gamma)
    return factor * -log_p


def reduced_focal(log_p: Tensor, gamma: float, threshold: float) -> Tensor:
    """Return −f log p, f = 1 below the threshold and ((1 − p) / θ)^γ above it (1903.01347)."""
    below = log_p.exp() < threshold
    # where it is not wanted the base is 0: a power that overflows would make the gradient NaN
    eased = safe_power((-torch.expm1(log_p) / threshold).masked_fill(below, 0.0), gamma)
    return torch.where(below, torch.ones_like(log_p), eased) * -log_p


def generalized_cross_entropy(log_p: Tensor, q: float) -> Tensor:
    """Return (1 − p^q) / q (1805.07836)."""
    return -torch.expm1(q * log_p) / q


def log_one_minus_softmax(logits: Tensor, log_probs: Tensor) -> Tensor:
    """Return log(1 − softmax(logits)) along dim 1, exact also where a probability rounds to 1.

    Only the largest logit can have p > 1/2; for it 1 − p is the sum of the others.
    """
    if logits.shape[1] == 1:
        return torch.full_like(logits, torch.finfo(logits.dtype).min)
    is_top = is_class(logits.detach().argmax(1), logits.shape[1])
    others = logits.masked_fill(is_top, -torch.inf).logsumexp(1, keepdim=True)
    all_of_them = logits.logsumexp(1, keepdim=True)
    rest = torch.log1p(-log_probs.masked_fill(is_top, -torch.inf).exp())
    return torch.where(is_top, others - all_of_them, rest)


def tempered_log_softmax(logits: Tensor, t2: float, steps: int = 12) -> Tensor:
    """Return the log of the tempered softmax along dim 1 (1906.03361): exp_t(z − λ) with Σ = 1.

    λ is found without a graph by Newton's method on (Σ exp_t)^(1−t), which is nearly linear in λ; two more
    steps on Σ exp_t with a graph give λ its exact first and second derivatives: each step doubles the order.
    """
    if t2 == 1:
        return logits.log_softmax(1)

    def log_exp_t(values: Tensor) -> Tensor:
        return torch.log1p((1 - t2) * values) / (1 - t2)

    z = logits.detach()
    norm = z.amax(1, keepdim=True)
    for _ in range(steps):
        log_p = log_exp_t(z - norm)
        total, escort = log_p.exp().sum(1, keepdim=True), (t2 * log_p).exp().sum(1, keepdim=True)
        norm = norm + (total - total.pow(t2)) / ((1 - t2) * escort)
    for _ in range(2):
        log_p = log_exp_t(logits - norm)
        norm = norm + (log_p.exp().sum(1, keepdim=True) - 1) / (t2 * log_p).exp().sum(1, keepdim=True)
    return log_exp_t(logits - norm)


def log_tempered(log_p: Tensor, t1: float) -> Tensor:
    """Return log_t p = (p^(1−t) − 1) / (1 − t) from log p; log p at t = 1."""
    return log_p if t1 == 1 else torch.expm1((1 - t1) * log_p) / (1 - t1)


COMPARED = 64
"""Classes up to which a GPU finds a position's class by comparing: its maps then cost less than a sort."""


def compares(values: Tensor, classes: int) -> bool:
    """Whether each position's class of so many is found by comparison with their numbers.

    On a GPU what adds at indices, and so a gather's way back, sorts the indices first where it is to be
    deterministic: a dozen kernels, where a comparison takes two. Values and gradients are the same. A number
    of no class, which a loss refuses in the first batch it sees, is then none's, where a gather would fail.
    """
    return values.is_cuda and classes <= COMPARED


def is_class(index: Tensor, classes: int) -> Tensor:
    """Return which class each position is of, (N, C, ...) bool, from class indices (N, ...)."""
    numbers = torch.arange(classes, device=index.device)
    return index.unsqueeze(1) == numbers.view(-1, *[1] * (index.ndim - 1))


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Take from ``values`` (N, C, L) the entry of each position's class, ``index`` (N, L): (N, L)."""
    if torch.is_grad_enabled() and compares(values, values.shape[1]):
        return torch.where(is_class(index, values.shape[1]), values, 0.0).sum(1)
    return values.gather(1, index.unsqueeze(1)).squeeze(1)


class Overlap(NamedTuple):
    """Soft counts per (image and) class, (N, C) or (1, C).

    Attributes:
        both: I = Σ p g.
        predicted: P = Σ p (or Σ p^power).
        true: G = Σ g (or Σ g^power).
        positions: how many positions are valid.
    """

    both: Tensor
    predicted: Tensor
    true: Tensor
    positions: Tensor


def class_sums(values: Tensor, index: Tensor, classes: int) -> Tensor:
    """Sum ``values`` (N, L) by class: (N, C). In float64.

    One running sum a class would lose digits in float32.
    """
    if compares(values, classes):
        each = torch.where(is_class(index, classes), values.unsqueeze(1), 0.0)
        return each.sum(2, dtype=torch.float64).to(values.dtype)
    bins = values.new_zeros(values.shape[0], classes, dtype=torch.float64)
    return bins.scatter_add(1, index, values.double()).to(values.dtype)


def overlap_of_index(
    probs: Tensor, index: Tensor, valid: Tensor | None, power: int = 1, weights: Tensor | None = None
) -> Overlap:
    """Return the soft counts of p (N, C, L) against class indices (N, L), without a one-hot map.

    ``weights`` (N, L) say how much each position counts.
    """
    true_probs = pick(probs, index)
    if valid is not None:
        true_probs = true_probs.masked_fill(~valid, 0.0)
        probs = probs.masked_fill(~valid.unsqueeze(1), 0.0)
    each = probs if power == 1 else probs * probs
    if weights is not None:
        true_probs, each = true_probs * weights, each * weights.unsqueeze(1)
    both = class_sums(true_probs, index, probs.shape[1])
    return Overlap(both, each.sum(2), *true_counts(index, valid, both, weights))


def true_counts(
    index: Tensor, valid: Tensor | None, like: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return how many valid positions each class has and how many there are, shaped as ``like`` (N, C)."""
    ones = torch.ones((), dtype=like.dtype, device=like.device).expand(index.shape)
    ones = ones if weights is None else weights
    ones = ones if valid is None else ones.masked_fill(~valid, 0.0)
    classes = like.shape[1]
    return class_sums(ones, index, classes), ones.sum(1, keepdim=True).expand(-1, classes)


def overlap_of_labels(
    probs: Tensor,
    labels: Tensor,
    valid: Tensor | None,
    power: int = 1,
    weights: Tensor | None = None,
) -> Overlap:
    """Return the soft counts of probabilities (N, C, L) against labels (N, C, L), bool or soft.

    With soft labels and ``power`` 1, Σpg is written (P + G − Σ|p − g|) / 2 = Σ min(p, g): the same for labels
    of 0 and 1, and greatest at p = g also for those between (2302.05666; 2303.16296). With
    ``power`` 2 the loss is least at p = g as it stands.

    Args:
        probs: (N, C, L).
        labels: (N, C, L); 0 where ignored.
        valid: bool, broadcasts against (N, C, L); None for all.
        power: exponent of p and g in P and G.
        weights: (N, L), how much each position counts; None for all alike.
    """
    counted = torch.ones((), dtype=probs.dtype, device=probs.device)
    counted = counted if weights is None else weights.unsqueeze(1)
    counted = counted.expand(probs.shape)
    if valid is not None:
        probs, counted = probs.masked_fill(~valid, 0.0), counted.masked_fill(~valid, 0.0)
    true = labels.to(probs.dtype)

    def total(values: Tensor) -> Tensor:
        return (values if weights is None else values * counted).sum(2)

    squared, soft = power == 2, labels.is_floating_point()
    both = total(probs * true) if squared or not soft else total((probs - true).abs())  # or Σ|p − g|, for now
    predicted, of_truth = total(probs * probs if squared else probs), total(true * true if squared else true)
    if soft and not squared:
        both = (predicted + of_truth - both) / 2
    return Overlap(both, predicted, of_truth, counted.sum(2))


def errors_of_index(
    probs: Tensor, index: Tensor, valid: Tensor | None, gamma: float, weights: Tensor | None = None
) -> Tensor:
    """Return Σ((1 − p) g)^γ + Σ(p (1 − g))^γ per image and class, (N, C), from class indices (N, L)."""
    true = pick(probs, index)
    change = safe_power(1 - true, gamma) - safe_power(true, gamma)  # a miss in place of an alarm
    alarms = safe_power(probs, gamma)
    if valid is not None:
        change, alarms = change.masked_fill(~valid, 0.0), alarms.masked_fill(~valid.unsqueeze(1), 0.0)
    if weights is not None:
        change, alarms = change * weights, alarms * weights.unsqueeze(1)
    return alarms.sum(2) + class_sums(change, index, probs.shape[1])


def errors_of_labels(
    probs: Tensor, labels: Tensor, valid: Tensor | None, gamma: float, weights: Tensor | None = None
) -> Tensor:
    """Return the sum of what is missed^γ and what is too much^γ per image and class, (N, C).

    For labels of 0 and 1 that is Σ((1 − p) g)^γ + Σ(p (1 − g))^γ; soft ones are missed by max(g − p, 0) and
    overdone by max(p − g, 0), so that p = g costs nothing.
    """
    true = labels.to(probs.dtype)
    errors = safe_power((true - probs).relu(), gamma) + safe_power((probs - true).relu(), gamma)
    errors = errors if valid is None else errors.masked_fill(~valid, 0.0)
    return (errors if weights is None else errors * weights.unsqueeze(1)).sum(2)


def masked_average(values: Tensor, weights: Tensor, dim: int | None = None) -> Tensor:
    """Return Σwv / Σw over ``dim`` (or all); 0 where the weights sum to 0."""
    total, norm = (
        ((values * weights).sum(), weights.sum())
        if dim is None
        else ((values * weights).sum(dim), weights.sum(dim))
    )
    return total / norm.masked_fill(norm == 0, 1.0)


def lovasz_weights(
    errors: Tensor, truth: Tensor, valid: Tensor | None, weights: Tensor | None = None
) -> Tensor:
    """Return the gradient of the Lovász extension of the Jaccard loss (1705.08790, alg. 1).

    Args:
        errors: (..., L), how wrong each position is; no graph needed.
        truth: (..., L) bool, the positions of the class.
        valid: (..., L) bool or None; the others weigh 0.
        weights: (..., L), how much each position counts in intersection and union; None for 1 each.

    Returns:
        (..., L) weights w, in the errors' order, such that the Lovász loss is Σ w · error.
    """
    errors = errors.detach()
    if valid is not None:
        errors, truth = (
            errors.masked_fill(~valid, -torch.inf),
            truth & valid,
        )  # to the end of the order, where they weigh nothing
    order = errors.argsort(dim=-1, descending=True, stable=True)
    sorted_truth = truth.gather(-1, order)
    if weights is None:  # whole numbers: exact, and deterministic on CUDA
        seen = sorted_truth.int().cumsum(-1)
        rank = torch.arange(1, errors.shape[-1] + 1, device=errors.device)
    else:
        counted = weights if valid is None else weights.masked_fill(~valid, 0.0)
        ordered = counted.double().gather(-1, order)
        seen, rank = (ordered * sorted_truth).cumsum(-1), ordered.cumsum(-1)
    total = seen[..., -1:]
    left, union = (total - seen).to(errors.dtype), (total + rank - seen).to(errors.dtype)
    jaccard = 1.0 - left / (union if weights is None else union.masked_fill(union == 0, 1.0))
    steps = torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)
    found = torch.zeros_like(errors).scatter(-1, order, steps)
    return found if valid is None else found.masked_fill(~valid, 0.0)


def multilabel_expectation(logits: Tensor, labels: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return t · positive + (1 − t) · negative for labels t: a selection where they are yes and no."""
    if labels.is_floating_point():
        return labels * positive + (1 - labels) * negative
    return torch.where(labels, positive, negative)


def log_sigmoid_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p of bool labels under a sigmoid each."""
    return F.logsigmoid(torch.where(labels, logits, -logits))
