"""Checks of what goes into a loss.

Shapes on every call, values once an instance and never in compiled code.
"""

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lossbench.losses.base import Loss


class DoubleSoftmaxWarning(UserWarning):
    """The logits look like probabilities already: the loss would apply a second softmax."""


def inside_transform(*tensors: Tensor) -> bool:
    """Say whether the call is compiled, transformed by torch.func or captured.

    No value may be looked at then.
    """
    if torch.compiler.is_compiling() or any(tensor.is_meta for tensor in tensors):
        return True
    # torch has no public question for "am I inside vmap or grad?"; this one has stood since 2.0.
    if any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors):
        return True
    return tensors[0].is_cuda and torch.cuda.is_current_stream_capturing()


def check_shapes(loss: "Loss", logits: Tensor, target: Tensor, auxiliary: Tensor | None) -> None:
    """Raise a ValueError unless the shapes fit together and the loss takes this kind of target."""
    who = type(loss).__name__
    if logits.ndim < 2 or not logits.is_floating_point():
        raise ValueError(f"{who}: logits must be floating, (N, C, *spatial); got {_describe(logits)}")
    multilabel = target.ndim == logits.ndim
    wanted = logits.shape if multilabel else logits.shape[:1] + logits.shape[2:]
    if target.shape != wanted:
        raise ValueError(
            f"{who}: target must be (N, *spatial) = {tuple(logits.shape[:1] + logits.shape[2:])} "
            f"or (N, C, *spatial) = {tuple(logits.shape)}, as the logits are; got {tuple(target.shape)}"
        )
    if not multilabel and (target.is_floating_point() or target.is_complex()):
        raise ValueError(
            f"{who}: a target of class indices must be of an integer dtype; got {_describe(target)}"
        )
    if not (loss.multi if multilabel else loss.single):
        kind = (
            "one label per channel, (N, C, *spatial)"
            if multilabel
            else "one class per position, (N, *spatial)"
        )
        raise ValueError(f"{who} does not take a target with {kind}; got {tuple(target.shape)}")
    if logits.ndim - 2 < loss.spatial:
        raise ValueError(
            f"{who} needs at least {loss.spatial} spatial dimension; got logits {tuple(logits.shape)}"
        )
    if loss.auxiliary and (auxiliary is None or auxiliary.shape != logits.shape):
        found = "none" if auxiliary is None else str(tuple(auxiliary.shape))
        raise ValueError(
            f"{who} needs the maps of its prepare(target, classes), {tuple(logits.shape)}; got {found}"
        )


def check_targets(
    target: Tensor, classes: int, ignore_index: int | None = None, multilabel: bool = False
) -> None:
    """Raise a ValueError that names the first target out of range.

    Args:
        target: class indices ``(N, *spatial)``, or labels ``(N, C, *spatial)`` with ``multilabel``.
        classes: C.
        ignore_index: a value that is always allowed.
        multilabel: whether targets are labels in [0, 1] rather than class indices.
    """
    target = target.detach()
    target = target if target.is_floating_point() else target.long()
    high = 1 if multilabel else classes - 1
    wrong = ~((target >= 0) & (target <= high))  # so put, NaN is wrong too
    if ignore_index is not None:
        wrong &= target != ignore_index
    if not bool(wrong.any()):
        return
    place = tuple(int(i) for i in wrong.nonzero()[0])
    ignoring = "" if ignore_index is None else f", or {ignore_index} (ignore_index)"
    raise ValueError(
        f"target {target[place].item()} at {place} is out of range; allowed: 0..{high}{ignoring}"
    )


def check_input(logits: Tensor, target: Tensor, ignore_index: int | None) -> None:
    """Check the values of one call: targets in range, logits that are not already a distribution."""
    multilabel = target.ndim == logits.ndim
    check_targets(target, logits.shape[1], ignore_index, multilabel)
    if _is_distribution(logits.detach(), target, ignore_index):
        warnings.warn(
            "the logits are non-negative and sum to 1: a distribution. Losses take logits; a softmax before "
            "the loss is applied twice.",
            DoubleSoftmaxWarning,
            stacklevel=4,
        )


def _is_distribution(logits: Tensor, target: Tensor, ignore_index: int | None) -> bool:
    if logits.shape[1] < 2 or logits.numel() == 0:
        return False
    inside, sums = (logits >= 0).all(1), logits.float().sum(1)
    tolerance = 1e-2 if logits.dtype in (torch.float16, torch.bfloat16) else 1e-4
    alike = inside & ((sums - 1).abs() < tolerance)
    if ignore_index is None:
        return bool(alike.all())
    ignored = target.long() == ignore_index
    ignored = ignored.any(1) if target.ndim == logits.ndim else ignored
    return bool((alike | ignored).all() & (~ignored).any())


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype}"
