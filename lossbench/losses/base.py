"""What every loss shares.

Declared parameters, cleaning and checking of input, reduction over valid positions.
"""

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, dataclass_transform

import torch
from torch import Tensor, nn

from lossbench.losses.batch import Batch
from lossbench.losses.declare import Parameter, ParameterError, Tunable, choice, flag, integer, numbers, real
from lossbench.losses.inputs import check_input, check_shapes, inside_transform


@dataclass_transform(kw_only_default=True, field_specifiers=(real, integer, choice, flag, numbers))
class Declared(nn.Module):
    """A module whose parameters are class attributes, checked at construction."""

    declared: ClassVar[Mapping[str, Parameter]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Parameter)}
        for name in own:
            delattr(cls, name)
        cls.declared = MappingProxyType({**cls.declared, **own})
        if "__init__" not in vars(cls) and cls.__init__ is Declared.__init__:
            cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by inspect and help()
                [
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=parameter.default)
                    for name, parameter in cls.declared.items()
                ]
            )

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.checked = False  # set once an input was looked at, or by whoever has checked the targets already
        unknown = sorted(set(given) - set(self.declared))
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no parameter {unknown[0]!r}; it has {', '.join(self.declared)}"
            )
        given = self.complete(given)
        for name, parameter in self.declared.items():
            value = given.get(name, parameter.default)
            setattr(self, name, parameter.read(type(self).__name__, name, value))
        self.setup()

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``given`` with what it implies (a preset's settings, say)."""
        return dict(given)

    def setup(self) -> None:
        """Make buffers from the parameters and refuse combinations that make no sense."""


class Loss(Declared):
    """``loss(logits, target) -> scalar``: the interface of every loss.

    ``logits`` are ``(N, C, *spatial)``, always logits. An integer target ``(N, *spatial)`` holds one class a
    position (single-label); a bool, integer or float target ``(N, C, *spatial)`` holds a label in [0, 1] for
    each class (multi-label). The value is at least float32.

    Class attributes:
        name: the name in the registry and in params.yaml.
        family: distribution, region, margin, regression, boundary, multi-label or compound.
        single, multi: which kinds of target the loss takes.
        link: how a score becomes a probability before calibration: softmax, sigmoid or margin (by calibration
            only). With multi-label targets softmax reads sigmoid.
        reduces: what the value is an average of.
        auxiliary: whether it needs a tensor that ``prepare`` computes from the targets.
        only_in_sum: whether it makes sense as a part of a sum only.
        spatial: the least number of spatial dimensions it needs.
        background: whether class 0 has a part of its own, so that classes cannot be relabelled freely.
        ordered: whether the classes' order may matter, so that they cannot be relabelled at all.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    single: ClassVar[bool] = True
    multi: ClassVar[bool] = False
    link: ClassVar[str] = "softmax"
    reduces: ClassVar[str] = "weighted mean over valid positions: Σwℓ / Σw"
    auxiliary: ClassVar[bool] = False
    only_in_sum: ClassVar[bool] = False
    spatial: ClassVar[int] = 0
    background: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    tunable: ClassVar[Mapping[str, Tunable]] = MappingProxyType({})

    ignore_index: int | None = integer(
        default=None, optional=True, doc="target value of positions that do not count"
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ranges = {name: parameter.tunable for name, parameter in cls.declared.items()}
        cls.tunable = MappingProxyType({name: found for name, found in ranges.items() if found is not None})

    def forward(self, logits: Tensor, target: Tensor, auxiliary: Tensor | None = None) -> Tensor:
        """Return the loss of ``logits`` against ``target``.

        ``auxiliary`` is what ``prepare`` gave, where needed.
        """
        check_shapes(self, logits, target, auxiliary)
        if not (self.checked or inside_transform(logits, target)):
            check_input(logits, target, self.ignore_index)
            self.checked = True
        return self.value(Batch(logits, target, self.ignore_index, auxiliary, self.summarised))

    @property
    def summarised(self) -> bool:
        """Whether a single-label value reads the softmax through ``true_log_probs`` and ``overlap`` alone."""
        return False

    def value(self, batch: Batch) -> Tensor:
        """Return the loss of a cleaned batch."""
        raise NotImplementedError

    @classmethod
    def prepare(cls, target: Tensor, classes: int, multilabel: bool | None = None) -> Tensor:
        """Return what an auxiliary loss needs to know of ``target``, (N, C, *spatial).

        Computed once with the data.
        """
        raise TypeError(f"{cls.__name__} needs nothing but logits and target")

    def parameters_stated(self) -> dict[str, Any]:
        """Return every parameter as resolved, and what the value averages, ready for JSON."""
        stated = {name: getattr(self, name) for name in self.declared}
        return {
            "name": self.name,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()},
            "reduces": self.reduces,
        }

    def extra_repr(self) -> str:
        """List the parameters that differ from their defaults."""
        changed = {
            name: getattr(self, name)
            for name, parameter in self.declared.items()
            if getattr(self, name) != parameter.default
        }
        return ", ".join(f"{name}={value}" for name, value in changed.items())

    def per_class(self, name: str, values: Sequence[float] | None) -> None:
        """Keep ``values``, one a class, as a buffer (not part of the state)."""
        self.register_buffer(name, None if values is None else torch.tensor(values), persistent=False)

    def classwise(self, name: str, batch: Batch) -> Tensor:
        """Return the buffer ``name`` as (C,) in the batch's dtype, refusing a wrong number of classes."""
        values: Tensor = getattr(self, name)
        if values.shape[0] != batch.classes:
            allowed = f"{batch.classes} numbers, one per class"
            raise ParameterError(type(self).__name__, name.lstrip("_"), values.tolist(), allowed)
        return values.to(batch.logits)

    def optional_classwise(self, name: str, batch: Batch) -> Tensor | None:
        """Return ``classwise(name)``, or None where nothing was given."""
        return None if getattr(self, name) is None else self.classwise(name, batch)


class Pointwise(Loss):
    """A loss that is a (weighted) average over positions or, with several labels, over elements."""

    reduction: str = choice(
        default="mean",
        options=("mean", "sum", "none"),
        doc="mean of valid positions Σwℓ/Σw, their sum, or the map with 0 where ignored",
    )

    def value(self, batch: Batch) -> Tensor:
        """Average ``each`` over what is valid."""
        return self.reduce(batch, self.each(batch))

    def each(self, batch: Batch) -> Tensor:
        """Return the loss of each position ``(N, L)`` or element ``(N, C, L)``."""
        raise NotImplementedError

    def weights(self, batch: Batch) -> Tensor | None:
        """Return weights that broadcast against ``each``, or None for equal ones."""
        return None

    def reduce(self, batch: Batch, each: Tensor) -> Tensor:
        """Reduce per position or per element values as ``reduction`` says."""
        valid = batch.positions if each.ndim == 2 else batch.elements
        weights = self.weights(batch)
        if self.reduction == "none":
            return batch.unflatten(_masked(each if weights is None else each * weights, valid))
        return weighted_mean(each, weights, valid, total=self.reduction == "sum")


class Weighted(Pointwise):
    """A pointwise loss with class weights."""

    class_weights: Sequence[float] | Tensor | None = numbers(
        doc="weight of each class; params.yaml also takes balanced and class_balanced"
    )

    def setup(self) -> None:
        """Keep the weights as a buffer."""
        self.per_class("_class_weights", self.class_weights)  # type: ignore[arg-type]  # a tuple, once checked

    def weights(self, batch: Batch) -> Tensor | None:
        """Return the weight of each position's class, or of each channel."""
        weights = self.optional_classwise("_class_weights", batch)
        if weights is None or batch.multilabel:
            return None if weights is None else weights.view(1, -1, 1)
        return weights[batch.index]


def weighted_mean(each: Tensor, weights: Tensor | None, valid: Tensor | None, total: bool = False) -> Tensor:
    """Return Σwℓ / Σw (or Σwℓ) over valid entries; 0, with its graph, where there are none."""
    if weights is None and valid is None:
        return each.sum() if total else each.mean()
    weighted = _masked(each if weights is None else each * weights, valid).sum()
    if total:
        return weighted
    ones = torch.ones((), dtype=each.dtype, device=each.device) if weights is None else weights
    norm = _masked(ones.expand(each.shape), valid).sum()
    return weighted / norm.masked_fill(norm == 0, 1.0)


def _masked(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else values.masked_fill(~valid, 0.0)
