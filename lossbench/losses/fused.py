"""What single-label losses need of a softmax, with hand-written backward passes.

A softmax's summary keeps at most one map (N, C, L) for the backward pass and makes one in it, where plain
autograd keeps and makes three and more. The plain twins say the same in operations that autograd knows. They
serve under torch.compile and torch.func; the tests hold each function against its twin.
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
    """

    true_log_probs: Tensor | None
    both: Tensor | None
    predicted: Tensor | None


def plain_summary(logits: Tensor, index: Tensor, valid: Tensor | None, counts: bool) -> Summary:
    """The twin of ``summary``, for autograd to differentiate."""
    log_probs = logits.log_softmax(1)
    true = functional.pick(log_probs, index)
    if not counts:
        return Summary(true, None, None)
    probs = log_probs.exp()
    both = functional.class_sums(_masked(functional.pick(probs, index), valid), index, logits.shape[1])
    return Summary(true, both, _masked(probs, None if valid is None else valid.unsqueeze(1)).sum(2))


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


#: Logits in a block: few enough to stay in the cache from one pass over them to the next.
BLOCK = 1 << 18
#: How many times as many of several threads: at the end of every operation of a block all wait for the last,
#: which is long where other processes want the processors too. There, two threads at (4, 21, 256, 256), Dice
#: takes 0.9 of kornia's time in one block and 1.8 in four, focal 0.3 and 0.5 (n = 7).
TOGETHER = 64
Place = tuple[slice, slice]


def places(logits: Tensor) -> list[Place]:
    """Return the slices of samples and positions that cut (N, C, L) into blocks; one block off the CPU."""
    samples, classes, length = logits.shape
    block = BLOCK if torch.get_num_threads() == 1 else BLOCK * TOGETHER
    if logits.device.type != "cpu" or logits.numel() <= block:
        return [(slice(0, samples), slice(0, length))]
    if classes * length <= block:
        step = block // (classes * length)
        return [(slice(n, n + step), slice(0, length)) for n in range(0, samples, step)]
    step = max(1, block // classes)
    return [(slice(n, n + 1), slice(at, at + step)) for n in range(samples) for at in range(0, length, step)]


class _Summary(torch.autograd.Function):
    """With a = ∂/∂p and t = ∂/∂ log p_y: ∂/∂z = p·(a − Σ_j a_j p_j) + t·(onehot(y) − p).

    Block by block. Where the true classes are all that is read nothing is kept but the logits, which their
    owner keeps anyway: the way back takes the softmax again, in less time than fresh memory would cost. Where
    all classes are counted the way back is longer, and the probabilities are kept for it.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, index: Tensor, valid: Tensor | None, counts: bool, logs: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.counts = counts
        kept = torch.empty_like(logits, memory_format=torch.contiguous_format) if counts else None
        ctx.save_for_backward(logits, index, valid, kept)
        true = logits.new_empty(index.shape) if logs else None
        sums = logits.new_zeros(2, *logits.shape[:2], dtype=torch.float64) if counts else None
        for at in places(logits):
            n, i = at
            z, y = logits[n, :, i], index[n, i]
            values = z.log_softmax(1) if logs else z.softmax(1)
            if true is not None:
                true[n, i] = functional.pick(values, y)
            if sums is not None and kept is not None:
                probs = values.exp_() if logs else values
                kept[n, :, i] = probs
                mask = None if valid is None else valid[n, i]
                true_probs = _masked(functional.pick(probs, y), mask)
                sums[0, n] += functional.class_sums(true_probs, y, logits.shape[1])
                sums[1, n] += _masked(probs, None if mask is None else mask.unsqueeze(1)).sum(2)
        both, predicted = (None, None) if sums is None else sums.to(logits.dtype).unbind(0)
        return true, both, predicted

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        logits, index, valid, kept = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return None, None, None, None, None
        if torch.is_grad_enabled():  # to be differentiated again
            return _differentiable(logits, index, valid, ctx.counts, grads), None, None, None, None
        grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for at in places(logits):
            n, i = at
            of_true, of_both, of_predicted = grads
            mask = None if valid is None else valid[n, i]
            _backward_of_block(
                grad[n, :, i],
                logits[n, :, i].softmax(1) if kept is None else kept[n, :, i],
                index[n, i],
                mask,
                None if of_true is None else of_true[n, i],
                None if of_both is None else of_both[n],
                None if of_predicted is None else of_predicted[n],
            )
        return grad, None, None, None, None


def _backward_of_block(
    grad: Tensor,
    probs: Tensor,
    index: Tensor,
    valid: Tensor | None,
    of_true: Tensor | None,
    of_both: Tensor | None,
    of_predicted: Tensor | None,
) -> None:
    """Write a block's gradient into ``grad``."""
    at_true = of_true  # what the true class gets on top, (N, L)
    if of_both is not None:
        at_both = _masked(of_both.gather(1, index), valid) * functional.pick(probs, index)
        at_true = at_both if at_true is None else at_true + at_both
    if of_predicted is None:
        shared = at_true
        torch.mul(probs, 0 if shared is None else -shared.unsqueeze(1), out=grad)
    else:  # p·a, a the same for all positions of an image and class
        mean = torch.bmm(of_predicted.unsqueeze(1), probs).squeeze(1)  # Σ_j a_j p_j
        mean = mean if valid is None else mean.masked_fill_(~valid, 0.0)
        shared = mean if at_true is None else mean + at_true
        away = of_predicted.unsqueeze(2)
        away = away if valid is None else away * valid.unsqueeze(1)
        torch.mul(probs, away - shared.unsqueeze(1), out=grad)
    if at_true is not None:
        add_at_class(grad, index, at_true)


def add_at_class(grad: Tensor, index: Tensor, values: Tensor) -> None:
    """Add ``values`` (N, L) to the entry of each position's class in ``grad`` (N, C, L), in place."""
    if functional.compares(grad, grad.shape[1]):
        is_true = functional.is_class(index, grad.shape[1])
        grad.add_(torch.where(is_true, values.unsqueeze(1), 0.0))
    else:
        grad.scatter_add_(1, index.unsqueeze(1), values.unsqueeze(1))


def _differentiable(
    logits: Tensor, index: Tensor, valid: Tensor | None, counts: bool, grads: Sequence[Tensor | None]
) -> Tensor:
    """Return the gradient with a graph of its own: that of the twin."""
    found = plain_summary(logits, index, valid, counts)
    values = [
        value for value, grad in zip(found, grads, strict=True) if value is not None and grad is not None
    ]
    seeds = [grad for grad in grads if grad is not None]
    (grad,) = torch.autograd.grad(values, logits, seeds, create_graph=True)
    return grad


def lovasz(
    scores: Tensor, truth: Tensor, valid: Tensor | None, by_image: bool, hinge: bool, absent: bool
) -> Tensor:
    """Return the Lovász extension of the Jaccard loss of each class's errors, (N, C) or (1, C).

    Only positions at least as wrong as the least wrong true one have a weight; on the CPU only they are
    sorted.

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
    """Weights are constant between two orders of the errors: the gradient is w · ∂e/∂score.

    That map is made while the order is at hand, and is all that is kept.
    """

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
        samples, classes, length = scores.shape
        values = scores.new_zeros(samples if by_image else 1, classes)
        slopes = scores.new_zeros(scores.shape)
        rows: Sequence[slice] = [slice(n, n + 1) for n in range(samples)] if by_image else [slice(None)]
        for k in range(classes):
            true = truth == k if truth.ndim == 2 else truth[:, k]
            counted = valid if valid is None or valid.ndim == 2 else valid[:, k]
            errors = torch.where(true, 1 - scores[:, k], scores[:, k] + 1 if hinge else scores[:, k])
            errors = errors.relu_() if hinge else errors
            for n, row in enumerate(rows):
                mask = None if counted is None else counted[row].reshape(-1)
                found = ranked(errors[row].reshape(-1), true[row].reshape(-1), mask, absent)
                if found is None:
                    continue
                values[n, k] = (found.weights * found.errors).sum()
                slope = torch.where(found.truth, -found.weights, found.weights)
                slope = slope.masked_fill_(found.errors <= 0, 0.0) if hinge else slope
                flat = slope.new_zeros(true[row].numel()).scatter_(0, found.at, slope)
                slopes[row, k] = flat.view(-1, length)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, of_values: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * of_values.unsqueeze(2), None, None, None, None, None


class Ranked(NamedTuple):
    """The positions that have a weight in a Lovász extension, the most wrong first; each (M,).

    Attributes:
        at: where they stand.
        errors: how wrong they are.
        truth: which of them are of the class.
        weights: what their errors weigh.
    """

    at: Tensor
    errors: Tensor
    truth: Tensor
    weights: Tensor


def ranked(errors: Tensor, truth: Tensor, valid: Tensor | None, absent: bool) -> Ranked | None:
    """Rank the positions (L,) by their errors ≥ 0; None where nothing has a weight.

    Off the CPU all of them, as to ask how many have a weight is to wait for the device. NaN ranks first and
    makes the value NaN.
    """
    at = None
    if valid is not None:
        errors, truth = errors.masked_fill(~valid, -torch.inf), truth & valid
    if errors.device.type == "cpu":
        true = errors[truth]
        if true.numel():
            heavy = ~(errors < true.amin())  # so put, NaN is heavy: a comparison with it is false
        elif absent:
            heavy = ~(errors < errors.amax())
        else:
            heavy = errors.isnan()
        heavy = heavy if valid is None else heavy & valid
        count = int(heavy.sum())
        if count == 0:
            return None
        if count < SPARSE * heavy.numel() or valid is not None:
            at = heavy.nonzero().squeeze(1)
            errors, truth = errors[at], truth[at]
    order = descending(errors)
    errors, truth = errors[order], truth[order]
    at = order if at is None else at[order]
    weights = jaccard_steps(truth, errors.dtype)
    if valid is not None and errors.device.type != "cpu":
        dropped = errors == -torch.inf
        errors, weights = errors.masked_fill(dropped, 0.0), weights.masked_fill(dropped, 0.0)
    return Ranked(at, errors, truth, weights)


#: Share of positions with a weight above which picking them out costs more than sorting all.
SPARSE = 0.7


def descending(errors: Tensor) -> Tensor:
    """Return the order of ``errors`` (L,), the largest first, equal ones as they stand.

    As whole numbers the bits of floats ≥ 0 have the order of the floats, and whole numbers are sorted by
    their digits, several times as fast. NaN has the largest bits.
    """
    if errors.device.type != "cpu" or errors.numel() < 1 << 15:
        return errors.argsort(descending=True, stable=True)
    bits = errors.abs().view(torch.int32 if errors.dtype == torch.float32 else torch.int64)  # −0 is 0
    return (bits.amax() - bits).argsort(stable=True)


def jaccard_steps(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how much the Jaccard loss of the first i positions exceeds that of the first i − 1, (L,).

    Of G true positions let t, of the others f, come before. A true one then shrinks the intersection, 1 / (G
    + f); another grows the union, (G − t) / ((G + f)(G + f + 1)). Without a true one the first costs 1.
    """
    if not truth.numel():
        return truth.to(dtype)
    seen = truth.cumsum(0, dtype=torch.int32)
    left = seen[-1] - seen  # G − t, a true one itself not counted
    union = torch.arange(1, truth.numel() + 1, dtype=torch.int32, device=truth.device).add_(left)
    union = union.to(dtype)  # G + f, another one itself counted
    steps = torch.where(truth, 1.0, left.to(dtype) / (union - 1).clamp_min_(1.0)).div_(union)
    steps[0] = torch.where(seen[-1] > 0, steps[0], 1.0)
    return steps


def _masked(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else values.masked_fill(~valid, 0.0)
