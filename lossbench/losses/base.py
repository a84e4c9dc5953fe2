"""What every loss shares.

Declared parameters, cleaning and checking of input, reduction over valid positions.
"""

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, dataclass_transform, get_args

import torch
from torch import Tensor, nn

from lossbench.losses.batch import Batch
from lossbench.losses.declare import Parameter, ParameterError, Tunable, choice, flag, integer, numbers, real
from lossbench.losses.inputs import (
    check_shapes,
    check_targets,
    check_weights,
    unseen,
    warn_of_probabilities,
)

Check = Literal["auto", "always", "never"]


@dataclass_transform(kw_only_default=True, field_specifiers=(real, integer, choice, flag, numbers))
class Declared(nn.Module):
    """A module whose parameters are class attributes, checked at construction."""

    declared: ClassVar[Mapping[str, Parameter]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Parameter)}
        for name in own:
            delattr(cls, name)
        inherited = [vars(base).get("declared", {}) for base in reversed(cls.__mro__[1:])]
        cls.declared = MappingProxyType({k: v for part in (*inherited, own) for k, v in part.items()})

    def __init__(self, **given: Any) -> None:
        super().__init__()
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
    position (single-label). A target ``(N, C, *spatial)`` holds a number in [0, 1] for each class: with
    ``labels="independent"`` a label, under a sigmoid each (multi-label); with ``labels="exclusive"`` a
    distribution over the classes, under one softmax (mixup, distillation). The value is at least float32; it
    is 0, with its graph, where nothing counts: all ignored, all weights 0, an empty batch.

    Class attributes:
        name: the name in the registry and in params.yaml.
        family: distribution, region, margin, regression, boundary, multi-label or compound.
        single, multi: whether the loss takes class indices, and labels under a sigmoid each. Whether it takes
            a distribution is said by what its parameter ``labels`` allows.
        link: how a score becomes a probability before calibration: softmax, sigmoid or margin (by calibration
            only). With multi-label targets softmax reads sigmoid.
        reduces: what the value is an average of.
        auxiliary: whether it needs a tensor that ``prepare`` computes from the targets.
        maps: what that tensor holds, in a word; parts of a sum that say the same are given the same.
        only_in_sum: whether it makes sense as a part of a sum only.
        spatial: the least number of spatial dimensions it needs.
        background: whether class 0 has a part of its own, so that classes cannot be relabelled freely.
        agrees: the settings that it must share with the other parts of a sum.
        ordered: whether the classes' order may matter, so that they cannot be relabelled at all.
        signed: whether its value may be below 0.
        weighs: whether it takes weights.

    Attributes:
        check: when values are looked at: targets in range, weights finite, logits that are no probabilities.
            "auto": on every call on the CPU, where it costs two numbers, and on an instance's first call
            elsewhere, where to look is to wait for the device. "always", "never": what they say; "never" is
            for whoever has checked the targets before. Nothing is looked at in compiled or mapped code.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    single: ClassVar[bool] = True
    multi: ClassVar[bool] = False
    link: ClassVar[str] = "softmax"
    reduces: ClassVar[str] = "weighted mean over valid positions: Σwℓ / Σw"
    auxiliary: ClassVar[bool] = False
    maps: ClassVar[str] = ""
    only_in_sum: ClassVar[bool] = False
    spatial: ClassVar[int] = 0
    background: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    agrees: ClassVar[tuple[str, ...]] = ("ignore_index", "labels")
    tunable: ClassVar[Mapping[str, Tunable]] = MappingProxyType({})

    ignore_index: int | None = integer(
        default=None, optional=True, doc="target value of positions that do not count"
    )
    labels: str = choice(
        default="independent",
        options=("independent", "exclusive"),
        doc="what a target (N, C, ...) is: a label a class, or a distribution over them (soft targets)",
    )
    check: Check = "auto"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ranges = {name: parameter.tunable for name, parameter in cls.declared.items()}
        cls.tunable = MappingProxyType({name: found for name, found in ranges.items() if found is not None})
        if cls.__init__ is Loss.__init__:
            defaults = {name: parameter.default for name, parameter in cls.declared.items()}
            cls.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by inspect and help()
                [
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
                    for name, default in {**defaults, "check": "auto"}.items()
                ]
            )

    def __init__(self, *, check: Check = "auto", **given: Any) -> None:
        if check not in get_args(Check):
            raise ParameterError(type(self).__name__, "check", check, ", ".join(get_args(Check)))
        super().__init__(**given)
        self.check = check
        self._seen = False  # whether a call's values were looked at before

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        auxiliary: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of ``logits`` against ``target``.

        Args:
            logits: (N, C, *spatial).
            target: (N, *spatial) of an integer dtype, or (N, C, *spatial).
            auxiliary: what ``prepare`` gave, where needed.
            weights: how much each sample, (N,), or each position, (N, *spatial), counts; finite, ≥ 0. One of
                weight 0 is as if it were not there. Losses that average over images weigh the images by (N,),
                and the positions within them by (N, *spatial).
        """
        check_shapes(self, logits, target, auxiliary, weights)
        logits = logits.float() if logits.dtype.itemsize == 1 else logits  # torch computes with none of these
        if 0 in logits.shape:
            return self._of_nothing(logits, target, auxiliary)
        look = self._looks(*(one for one in (logits, target, weights) if one is not None))
        batch = Batch(
            logits,
            target,
            self.ignore_index,
            auxiliary,
            weights=weights,
            exclusive=self.labels == "exclusive",
            reads_summary=self.reads_summary,
            look=look,
        )
        if look:
            self._look(batch, logits, target, weights)
        return self.value(batch)

    def _looks(self, logits: Tensor, *others: Tensor) -> bool:
        """Say whether this call's values are looked at."""
        if self.check == "never" or unseen(logits, *others):
            return False
        return self.check == "always" or logits.device.type == "cpu" or not self._seen

    def _look(self, batch: Batch, logits: Tensor, target: Tensor, weights: Tensor | None) -> None:
        """Refuse targets and weights out of range; warn, once, of probabilities in place of logits."""
        if batch.mixed or not batch.in_range:
            check_targets(
                target, batch.classes, self.ignore_index, target.ndim == logits.ndim, exclusive=batch.mixed
            )
        if weights is not None:
            check_weights(weights)
        if not self._seen:
            warn_of_probabilities(logits, target, self.ignore_index)
        self._seen = True

    def _of_nothing(self, logits: Tensor, target: Tensor, auxiliary: Tensor | None) -> Tensor:
        """Return the loss of an empty batch: that of one position a dimension, none of which counts."""

        def filled(values: Tensor) -> Tensor:
            return values.new_zeros([max(size, 1) for size in values.shape])

        stand_in = filled(logits) + logits.sum() * 0
        batch = Batch(
            stand_in,
            filled(target),
            None,
            None if auxiliary is None else filled(auxiliary),
            weights=stand_in.new_zeros(stand_in.shape[0]),
            exclusive=self.labels == "exclusive",
        )
        return self.cropped(self.value(batch), logits)

    def cropped(self, value: Tensor, logits: Tensor) -> Tensor:
        """Return the part of an unreduced ``value`` that belongs to empty ``logits``."""
        return value

    @property
    def reads_summary(self) -> bool:
        """Whether the loss reads a softmax through ``batch.true_log_probs`` and ``batch.overlap()`` alone.

        A promise about speed, not about values: where all parts of a sum make it, one hand-written backward
        pass serves them all and one map is kept instead of three. A loss that breaks it is right, but slow.
        """
        return False

    def value(self, batch: Batch) -> Tensor:
        """Return the loss of a cleaned batch."""
        raise NotImplementedError

    @property
    def learned(self) -> list[nn.Parameter]:
        """What of the loss is trained along with the network: of a sum its learned weights."""
        return []

    def weights_learned(self) -> dict[str, float]:
        """Return the present weight of each part whose weight is learned."""
        return {}

    def go_on_from(self, before: "Loss") -> None:
        """Share what was learned with the same loss at an earlier time."""

    @property
    def maps_of_class(self) -> int:
        """How many maps a class ``prepare`` gives: one, unless the parts of a sum need several kinds."""
        return 1

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

    def foreground(self, batch: Batch) -> Tensor:
        """Return 0 for class 0 and 1 for the others, (C,): what ``include_background=False`` weighs by."""
        if batch.classes < 2:
            raise ValueError(
                f"{type(self).__name__}: include_background is false, but the logits have one class; "
                "allowed: at least 2"
            )
        classes = torch.arange(batch.classes, device=batch.logits.device)
        return (classes > 0).to(batch.logits.dtype)

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
        """Return the loss's own weights, which broadcast against ``each``, or None for equal ones."""
        return None

    def reduce(self, batch: Batch, each: Tensor) -> Tensor:
        """Reduce per position or per element values as ``reduction`` says."""
        valid = batch.positions if each.ndim == 2 else batch.elements
        weights = batch.weighed(self.weights(batch), each.ndim)
        if self.reduction == "none":
            return batch.unflatten(masked(each if weights is None else each * weights, valid))
        return weighted_mean(each, weights, valid, total=self.reduction == "sum")

    def cropped(self, value: Tensor, logits: Tensor) -> Tensor:
        """Crop the map of ``reduction="none"``."""
        if value.ndim == 0:
            return value
        per_class = value.ndim == logits.ndim
        shape = logits.shape if per_class else logits.shape[:1] + logits.shape[2:]
        return value[tuple(slice(size) for size in shape)]


class Weighted(Pointwise):
    """A pointwise loss with class weights."""

    class_weights: Sequence[float] | Tensor | None = numbers(
        default=None, doc="weight of each class; params.yaml also takes balanced and class_balanced"
    )

    def setup(self) -> None:
        """Keep the weights as a buffer."""
        self.per_class("_class_weights", self.class_weights)  # type: ignore[arg-type]  # a tuple, once checked

    def weights(self, batch: Batch) -> Tensor | None:
        """Return the weight of each position's class, or of each channel.

        A position with a distribution over the classes has the mean weight under it.
        """
        weights = self.optional_classwise("_class_weights", batch)
        if weights is None:
            return None
        return weights.view(1, -1, 1) if batch.multilabel else batch.weights_of_truth(weights)

    def at_truth(self, batch: Batch, values: Tensor) -> Tensor:
        """Return what the target picks of ``values`` (N, C, L), one a class: (N, L).

        Where the target is a distribution over the classes, the mean under it, in which class weights weigh
        the classes: times ``weights`` it is Σ t w v.
        """
        return batch.of_truth(values, self.optional_classwise("_class_weights", batch))

    def counted(self, batch: Batch) -> Tensor:
        """Return the target (N, C, L) as numbers, 0 where it is ignored or of a class of weight 0."""
        weights = self.optional_classwise("_class_weights", batch)
        truth = masked(batch.dense, batch.elements)
        return truth if weights is None else truth * (weights != 0).view(1, -1, 1)


def weighted_mean(each: Tensor, weights: Tensor | None, valid: Tensor | None, total: bool = False) -> Tensor:
    """Return Σwℓ / Σw (or Σwℓ) over valid entries; 0, with its graph, where there are none."""
    if weights is None and valid is None:
        return each.sum() if total else each.mean()
    weighted = masked(each if weights is None else each * weights, valid).sum()
    if total:
        return weighted
    ones = torch.ones((), dtype=each.dtype, device=each.device) if weights is None else weights
    norm = masked(ones.expand(each.shape), valid).sum()
    return weighted / norm.masked_fill(norm == 0, 1.0)


def masked(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return ``values`` with 0 where they do not count."""
    return values if valid is None else values.masked_fill(~valid, 0.0)
