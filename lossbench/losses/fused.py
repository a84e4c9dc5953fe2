"""What single-label losses need of a softmax, with hand-written backward passes.

One map (N, C, L) is kept for the backward pass and one is made in it, where plain autograd makes three and
more. The plain twins say the same in operations that autograd knows; they serve under torch.compile,
torch.func and CUDA graph capture, and the tests hold each function against its twin.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossbench.losses import functional


class Summary(NamedTuple):
    """What a softmax says of the true classes.

    Attributes:
        true_log_probs: log p of the true class, (N, L); None where not asked for.
        both: Σ p over the valid positions of each class, (N, C); None where not asked for.
        predicted: Σ p over all valid positions, (N, C); None where not asked for.
        probs: p, (N, C, L).
    """

    true_log_probs: Tensor | None
    both: Tensor | None
    predicted: Tensor | None
    probs: Tensor


def plain_summary(logits: Tensor, index: Tensor, valid: Tensor | None, counts: bool) -> Summary:
    """The twin of ``summary``, for autograd to differentiate."""
    log_probs = logits.log_softmax(1)
    true, probs = _pick(log_probs, index), log_probs.exp()
    if not counts:
        return Summary(true, None, None, probs)
    both = functional.class_sums(_masked(_pick(probs, index), valid), index, logits.shape[1])
    return Summary(true, both, _masked(probs, None if valid is None else valid.unsqueeze(1)).sum(2), probs)


def summary(logits: Tensor, index: Tensor, valid: Tensor | None, counts: bool, logs: bool = True) -> Summary:
    """Return what a softmax over dim 1 says of the true classes.

    Args:
        logits: (N, C, L).
        index: (N, L) int64, the true classes.
        valid: (N, L) bool, the positions that ``both`` and ``predicted`` count; None for all.
        counts: whether ``both`` and ``predicted`` are wanted.
        logs: whether ``true_log_probs`` is wanted; without it no logarithm is taken.
    """
    return Summary(*_Summary.apply(logits, index, valid, counts, logs))


class _Summary(torch.autograd.Function):
    """With a = ∂/∂p and t = ∂/∂ log p_y: ∂/∂z = p·(a − Σ_j a_j p_j) + t·(onehot(y) − p)."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, index: Tensor, valid: Tensor | None, counts: bool, logs: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
        if logs:
            probs = logits.log_softmax(1)
            true = _pick(probs, index)
            probs.exp_()
        else:
            probs, true = logits.softmax(1), None
        # As an output of this function the probabilities keep their graph, for second derivatives.
        ctx.save_for_backward(probs, index, valid)
        ctx.set_materialize_grads(False)
        if not counts:
            return true, None, None, probs
        at_true = _pick(probs, index) if true is None else true.exp()
        both = functional.class_sums(_masked(at_true, valid), index, probs.shape[1])
        total = _masked(probs, None if valid is None else valid.unsqueeze(1)).sum(2)
        return true, both, total, probs

    @staticmethod
    def backward(
        ctx: Any,
        of_true: Tensor | None,
        of_both: Tensor | None,
        of_predicted: Tensor | None,
        of_probs: Tensor | None,
    ) -> tuple[Tensor | None, None, None, None, None]:
        probs, index, valid = ctx.saved_tensors
        each = None  # p·a without the part that only the true class has, (N, C, L)
        if of_predicted is not None:
            each = probs * of_predicted.unsqueeze(2)
            each = each if valid is None else each.masked_fill_(~valid.unsqueeze(1), 0.0)
        if of_probs is not None:
            each = probs * of_probs if each is None else each.addcmul_(probs, of_probs)
        at_true = of_true  # what the true class gets on top, (N, L)
        if of_both is not None:
            at_both = _masked(of_both.gather(1, index), valid) * _pick(probs, index)
            at_true = at_both if at_true is None else at_true + at_both
        if each is None:
            if at_true is None:
                return None, None, None, None, None
            return _at(probs * -at_true.unsqueeze(1), index, at_true), None, None, None, None
        shared = each.sum(1) if at_true is None else each.sum(1).add_(at_true)
        each = each.addcmul_(probs, shared.unsqueeze(1), value=-1)
        grad = each if at_true is None else _at(each, index, at_true)
        return grad, None, None, None, None


def lovasz(
    scores: Tensor, truth: Tensor, valid: Tensor | None, by_image: bool, hinge: bool, absent: bool
) -> Tensor:
    """Return the Lovász extension of the Jaccard loss of each class's errors, (N, C) or (1, C).

    Only positions at least as wrong as the least wrong true one have a weight; only they are sorted.

    Args:
        scores: (N, C, L), probabilities, or logits with ``hinge``.
        truth: (N, L) class indices or (N, C, L) bool.
        valid: (N, L) or (N, C, L) bool, or None.
        by_image: whether positions are ranked within their image.
        hinge: whether errors are max(0, 1 − s z) rather than |g − p|.
        absent: whether the value of a class without a true position is wanted; it is 0 otherwise.
    """
    found: Tensor = _Lovasz.apply(scores, truth, valid, by_image, hinge, absent)
    return found


class _Lovasz(torch.autograd.Function):
    """Weights are constant between two orders of the errors: the gradient is w · ∂e/∂score."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        truth: Tensor,
        valid: Tensor | None,
        by_image: bool,
        hinge: bool,
        absent: bool,
    ) -> Tensor:
        (samples, classes, length), device = scores.shape, scores.device
        values = scores.new_zeros(samples if by_image else 1, classes)
        places, slopes, sizes = [], [], []
        for k in range(classes):
            true = truth == k if truth.ndim == 2 else truth[:, k]
            counted = valid if valid is None or valid.ndim == 2 else valid[:, k]
            errors = torch.where(true, 1 - scores[:, k], scores[:, k] + 1 if hinge else scores[:, k])
            errors = errors.relu_() if hinge else errors
            rows: Sequence[int | slice] = range(samples) if by_image else [slice(None)]
            for n, row in enumerate(rows):
                e, g = errors[row].reshape(-1), true[row].reshape(-1)
                at, w = ranked(e, g, None if counted is None else counted[row].reshape(-1), absent)
                e, g = e[at], g[at]
                values[n, k] = (w * e).sum()
                slope = torch.where(g, -w, w)
                slopes.append(slope.masked_fill_(e <= 0, 0.0) if hinge else slope)
                image = n if by_image else at // length
                places.append((image * classes + k) * length + at % length)
                sizes.append(at.numel())
        ctx.shape, ctx.by_image = scores.shape, by_image
        ctx.save_for_backward(torch.cat(places), torch.cat(slopes), torch.tensor(sizes, device=device))
        return values

    @staticmethod
    def backward(ctx: Any, of_values: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        places, slopes, sizes = ctx.saved_tensors
        each = of_values.t().reshape(-1).repeat_interleave(sizes, output_size=places.numel())
        flat = of_values.new_zeros(ctx.shape.numel())
        grad = flat.scatter_(0, places, slopes * each).view(ctx.shape)
        return grad, None, None, None, None, None


def ranked(errors: Tensor, truth: Tensor, valid: Tensor | None, absent: bool) -> tuple[Tensor, Tensor]:
    """Return which of the positions (L,) have a weight in the Lovász extension, and their weights."""
    counted = truth if valid is None else truth & valid
    true = errors[counted]
    candidates = errors if valid is None else errors.masked_fill(~valid, -torch.inf)
    if true.numel() or absent:
        # so put, NaN is heavy: a comparison with it is false
        heavy = ~(candidates < (true.min() if true.numel() else candidates.max()))
    else:
        heavy = candidates.isnan()
    at = (heavy if valid is None else heavy & valid).nonzero().squeeze(1)
    return at, functional.lovasz_weights(errors[at], truth[at], None) if at.numel() else errors[at]


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(1)).squeeze(1)


def _masked(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else values.masked_fill(~valid, 0.0)


def _at(grad: Tensor, index: Tensor, added: Tensor) -> Tensor:
    return grad.scatter_add_(1, index.unsqueeze(1), added.unsqueeze(1))
