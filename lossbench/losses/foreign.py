"""Any callable (logits, target) → scalar as a loss: ``my_losses:Focal2``, ``torch.nn:CrossEntropyLoss``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lossbench.errors import UserError
from lossbench.losses.base import Loss
from lossbench.losses.batch import Batch
from lossbench.plugins import call_object, load_object, parameters_of, takes_any


class Foreign(Loss):
    """A loss that somebody else wrote; it is shown logits and target as they come.

    Args:
        call: (logits (N, C, *spatial), target) → a scalar; with an argument ``weights`` it is told how much
            each sample, (N,), or position, (N, *spatial), counts, where the data say so.
        name: ``module:Object``.
        given: its keyword arguments in params.yaml.
        ignore_index: the data's value of positions that do not count, which it sees as everywhere.

    """

    multi = True
    agrees = ("ignore_index",)
    reduces = "whatever its author says"

    def __init__(
        self, call: Callable[..., Any], name: str, given: Mapping[str, Any], ignore_index: int | None = None
    ) -> None:
        super().__init__(ignore_index=ignore_index)
        self.call, self.name, self.given = call, name, dict(given)  # type: ignore[misc]  # its own name
        self.weighs = _takes_weights(call)  # type: ignore[misc]  # a ClassVar elsewhere

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        auxiliary: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the callable's value.

        Raises:
            UserError: if it returns anything but a scalar tensor, or is given weights that it cannot take.

        """
        del auxiliary
        if weights is not None and not self.weighs:
            raise UserError(f"loss '{self.name}' takes no weights; allowed: one with an argument 'weights'")
        told = {} if weights is None else {"weights": weights}
        made = self.call(logits, target, **told)
        if not isinstance(made, torch.Tensor) or made.ndim != 0:
            shape = (
                f"a tensor of shape {tuple(made.shape)}"
                if isinstance(made, torch.Tensor)
                else f"a {type(made).__name__}"
            )
            raise UserError(f"loss '{self.name}' returns {shape}; allowed: a scalar tensor")
        return made if made.dtype in (torch.float32, torch.float64) else made.float()

    def value(self, batch: Batch) -> Tensor:
        """Return its value as a part of a sum, whose batch is flat and cleaned of ignored targets."""
        per_class = batch.multilabel or batch.mixed
        target, valid = (batch.labels, batch.elements) if per_class else (batch.index, batch.valid)
        if valid is not None and self.ignore_index is not None:
            target = target.long() if target.dtype == torch.bool else target
            target = target.masked_fill(~valid, self.ignore_index)
        shape = (batch.samples, batch.classes, *batch.spatial)
        shaped = target.reshape(shape if per_class else (shape[0], *shape[2:]))
        weights = batch.sample_weights
        if weights is None and batch.weights is not None:
            weights = batch.weights.reshape(shape[0], *shape[2:])
        return self.forward(batch.logits.reshape(shape), shaped, weights=weights)

    def parameters_stated(self) -> dict[str, Any]:
        """Return its name and what it was given."""
        return {"name": self.name, **self.given, "reduces": self.reduces}


def build(spec: Mapping[str, Any], ignore_index: int | None, key: str) -> Foreign:
    """Build a loss from ``module:Object`` and its keyword arguments.

    A class is called with them; a function of (logits, target) keeps them. One that takes ``ignore_index`` is
    told the data's.

    Raises:
        UserError: no such object, an argument that it does not take, or what it raised.

    """
    name = str(spec["name"])
    made = load_object(name, f"{key}.name")
    if not callable(made):
        raise UserError(f"{key}.name is '{name}', a {type(made).__name__}; allowed: a class or a function")
    given = {argument: value for argument, value in spec.items() if argument != "name"}
    known = parameters_of(made)
    if ignore_index is not None and "ignore_index" in known:
        given.setdefault("ignore_index", ignore_index)
    if isinstance(made, type):
        return _moving(
            Foreign(call_object(made, _as_taken(made, given), name, key), name, given, ignore_index)
        )
    unknown = next((argument for argument in given if known and argument not in known), None)
    if unknown is not None and not takes_any(made):
        raise UserError(
            f"{key}.{unknown} is no parameter of {name}; allowed: {', '.join(known[2:]) or 'none'}"
        )
    return _moving(Foreign(_Kept(made, _as_taken(made, given)), name, given, ignore_index))


class _Kept(torch.nn.Module):
    """A function with its keyword arguments; those that are tensors move to the device with it."""

    def __init__(self, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
        super().__init__()
        self.function, self.given = function, dict(given)
        for name, value in given.items():
            if isinstance(value, Tensor):
                self.register_buffer(f"given_{name}", value)

    def forward(self, logits: Tensor, target: Tensor, **told: Tensor) -> Any:
        """Call it."""
        given = {name: getattr(self, f"given_{name}", value) for name, value in self.given.items()}
        return self.function(logits, target, **given, **told)


def _moving(loss: Foreign) -> Foreign:
    if isinstance(loss.call, torch.nn.Module):
        loss.add_module("own", loss.call)  # its buffers move to the device with it
    return loss


def _as_taken(made: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Make lists of numbers tensors where those are annotated: YAML has none, and class weights are such."""
    try:
        kinds = {name: str(one.annotation) for name, one in inspect.signature(made).parameters.items()}
    except (TypeError, ValueError):  # built in C
        return dict(given)
    return {
        name: _tensor(value) if isinstance(value, list | tuple) and "Tensor" in kinds.get(name, "") else value
        for name, value in given.items()
    }


def _tensor(value: Any) -> Any:
    try:
        return torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError):  # no numbers: whoever is given them says so
        return value


def _takes_weights(call: Callable[..., Any]) -> bool:
    """Whether a call has an argument ``weights`` that params.yaml does not fill."""
    if isinstance(call, _Kept):
        return "weights" not in call.given and "weights" in parameters_of(call.function)
    return "weights" in parameters_of(call.forward if isinstance(call, torch.nn.Module) else call)
