"""Checks of what goes into a loss: shapes on every call, values as ``check`` says, never in compiled code."""

import warnings
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Interface(Protocol):
    """What a loss says of its inputs; see ``Loss``."""

    @property
    def single(self) -> bool:
        """Whether it takes class indices."""

    @property
    def multi(self) -> bool:
        """Whether it takes labels, a sigmoid each."""

    @property
    def auxiliary(self) -> bool:
        """Whether it needs maps."""

    @property
    def maps_of_class(self) -> int:
        """How many maps a class it needs, where it needs any."""

    @property
    def spatial(self) -> int:
        """The least number of spatial dimensions."""

    @property
    def labels(self) -> str:
        """What numbers per class are: independent or exclusive."""


class DoubleSoftmaxWarning(UserWarning):
    """The logits look like probabilities already: the loss would apply a second softmax."""


def is_wrapped(tensor: Tensor) -> bool:
    """Say whether the call is transformed by torch.func: within vmap or grad, as in a population.

    Torch has no public question for it; this one has stood since 2.0. Compiled code asks nothing.
    """
    if torch.compiler.is_compiling():
        return False
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return wrapped


def inside_transform(*tensors: Tensor) -> bool:
    """Say whether the call is compiled, transformed by torch.func, or differentiated forwards.

    No value may be looked at then, and hand-written backward passes do not serve.
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch leaves it untyped
    if tracing or torch.compiler.is_compiling() or any(tensor.is_meta for tensor in tensors):
        return True
    if any(map(is_wrapped, tensors)):
        return True
    duals = map(forward_ad.unpack_dual, tensors)
    return any(dual.tangent is not None for dual in duals)


def unseen(*tensors: Tensor) -> bool:
    """Say whether no value may be looked at: within a transform, or while a CUDA graph is captured.

    Hand-written backward passes do serve in a graph, whose bits so are those of the call as it comes.
    """
    captured = tensors[0].is_cuda and torch.cuda.is_current_stream_capturing()
    return captured or inside_transform(*tensors)


def check_shapes(
    loss: Interface, logits: Tensor, target: Tensor, auxiliary: Tensor | None, weights: Tensor | None = None
) -> None:
    """Raise a ValueError unless the shapes fit together and the loss takes this kind of target.

    Raises:
        TypeError: something else than a tensor.
        ValueError: a wrong shape, dtype or kind of target.
    """
    who = type(loss).__name__
    _check_tensors(who, logits=logits, target=target, auxiliary=auxiliary, weights=weights)
    if logits.ndim < 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        raise ValueError(f"{who}: logits must be floating, (N, C, *spatial); got {_describe(logits)}")
    per_class = target.ndim == logits.ndim
    positions = logits.shape[:1] + logits.shape[2:]
    if target.shape != (logits.shape if per_class else positions):
        raise ValueError(
            f"{who}: target must be (N, *spatial) = {tuple(positions)} "
            f"or (N, C, *spatial) = {tuple(logits.shape)}, as the logits are; got {tuple(target.shape)}"
        )
    if target.is_complex():
        raise ValueError(f"{who}: a target must be of a real dtype; got {_describe(target)}")
    if not per_class and target.is_floating_point():
        raise ValueError(
            f"{who}: a target of class indices must be of an integer dtype; got {_describe(target)}"
        )
    _check_kind(loss, per_class, target)
    if logits.ndim - 2 < loss.spatial:
        raise ValueError(
            f"{who} needs at least {loss.spatial} spatial dimension; got logits {tuple(logits.shape)}"
        )
    maps = (logits.shape[0], loss.maps_of_class * logits.shape[1], *logits.shape[2:])
    if loss.auxiliary and (auxiliary is None or auxiliary.shape != maps):
        found = "none" if auxiliary is None else str(tuple(auxiliary.shape))
        raise ValueError(f"{who} needs the maps of its prepare(target, classes), {maps}; got {found}")
    if weights is not None and weights.shape not in (logits.shape[:1], positions):
        raise ValueError(
            f"{who}: weights must be (N,) = {tuple(logits.shape[:1])} or (N, *spatial) = {tuple(positions)}; "
            f"got {tuple(weights.shape)}"
        )
    if weights is not None and weights.is_complex():
        raise ValueError(f"{who}: weights must be of a real dtype; got {_describe(weights)}")


def _check_tensors(who: str, **given: object) -> None:
    for name, value in given.items():
        optional = name in ("auxiliary", "weights")
        if not (isinstance(value, Tensor) or (optional and value is None)):
            allowed = "a tensor, or none" if optional else "a tensor"
            raise TypeError(f"{who}: {name} must be {allowed}; got a {type(value).__name__}")


def _check_kind(loss: Interface, per_class: bool, target: Tensor) -> None:
    """Raise a ValueError unless the loss takes class indices, or numbers per class, as these are."""
    who = type(loss).__name__
    if loss.single if not per_class else loss.multi or loss.labels == "exclusive":
        return
    if not per_class:
        raise ValueError(
            f"{who} does not take a target with one class per position, (N, *spatial); "
            f"got {tuple(target.shape)}"
        )
    raise ValueError(
        f"{who} does not take a target with one label per channel, (N, C, *spatial); got "
        f"{tuple(target.shape)}. A distribution over the classes wants labels='exclusive'"
    )


def check_targets(
    target: Tensor,
    classes: int,
    ignore_index: int | None = None,
    multilabel: bool = False,
    exclusive: bool = False,
) -> None:
    """Raise a ValueError that names the first target out of range.

    Args:
        target: class indices ``(N, *spatial)``, or numbers ``(N, C, *spatial)`` with ``multilabel``.
        classes: C.
        ignore_index: a value that is always allowed.
        multilabel: whether targets are numbers in [0, 1], one a class, rather than class indices.
        exclusive: whether these numbers are a distribution over the classes.
    """
    target = target.detach()
    target = target if target.is_floating_point() else target.long()
    high = 1 if multilabel else classes - 1
    wrong = ~((target >= 0) & (target <= high))  # so put, NaN is wrong too
    if ignore_index is not None:
        wrong &= target != ignore_index
    if bool(wrong.any()):
        place = tuple(int(i) for i in wrong.nonzero()[0])
        ignoring = "" if ignore_index is None else f", or {ignore_index} (ignore_index)"
        raise ValueError(
            f"target {target[place].item()} at {place} is out of range; allowed: 0..{high}{ignoring}"
        )
    if exclusive and multilabel:
        _check_distribution(target, ignore_index)


def _check_distribution(target: Tensor, ignore_index: int | None) -> None:
    wrong = ~_sums_to_one(target)
    if ignore_index is not None:
        wrong &= (target != ignore_index).any(1)
    if bool(wrong.any()):
        place = tuple(int(i) for i in wrong.nonzero()[0])
        found = target.movedim(1, -1)[place].sum().item()
        raise ValueError(
            f"the target at {place} sums to {found:g} over the classes; allowed with labels='exclusive': 1"
        )


def _sums_to_one(values: Tensor) -> Tensor:
    tolerance = 1e-2 if values.dtype in (torch.float16, torch.bfloat16) else 1e-4
    sums = values.sum(1, dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)
    return (sums - 1).abs() <= tolerance


def in_range(cleaned: Tensor, high: int) -> bool:
    """Say whether targets, ignored ones replaced, lie in 0..high, by two numbers: no map is made."""
    if cleaned.dtype == torch.bool or cleaned.numel() == 0:
        return True
    least, most = torch.stack(_ends(cleaned)).tolist()
    return bool(least >= 0 and most <= high)


#: What torch can keep, and hardly compute with.
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def _ends(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest of values."""
    values = values.detach()
    return torch.aminmax(values.long() if values.dtype in UNSIGNED else values)


def check_weights(weights: Tensor) -> None:
    """Raise a ValueError unless all weights are finite and not negative."""
    if weights.numel() and weights.dtype != torch.bool:
        least, most = (float(one) for one in _ends(weights))
        if not (least >= 0 and most < float("inf")):
            wrong = least if not least >= 0 else most
            raise ValueError(f"weights hold {wrong:g}; allowed: finite numbers ≥ 0")


def warn_of_probabilities(logits: Tensor, target: Tensor, ignore_index: int | None) -> None:
    """Warn where the logits are a distribution already."""
    if _is_distribution(logits.detach(), target, ignore_index):
        warnings.warn(
            "the logits are non-negative and sum to 1: a distribution. Losses take logits; a softmax before "
            "the loss is applied twice.",
            DoubleSoftmaxWarning,
            stacklevel=5,
        )


def _is_distribution(logits: Tensor, target: Tensor, ignore_index: int | None) -> bool:
    if logits.shape[1] < 2 or logits.numel() == 0:
        return False
    alike = (logits >= 0).all(1) & _sums_to_one(logits)
    if ignore_index is None:
        return bool(alike.all())
    ignored = target.long() == ignore_index
    ignored = ignored.any(1) if target.ndim == logits.ndim else ignored
    return bool((alike | ignored).all() & (~ignored).any())


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype}"
