"""A model that sees a part of a batch does to it what it would do to it within the whole.

Batch normalisation takes the statistics of all processes, and what is drawn for each sample (dropout,
stochastic depth, noise) is drawn for the whole batch, of which a process takes its own: the bits of one
process's masks.
Calls are caught where they pass through torch, so a model need not be made for it. Whether a model does
anything else with its batch is found out before its first step (:func:`differs`).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lossbench.training.batchnorm import batch_norm

Function = Callable[..., Any]
DROPOUTS: frozenset[Function] = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
)
"""Of (inputs, ..., training, inplace)."""
DRAWING: frozenset[Function] = frozenset(
    {torch.bernoulli, torch.normal, torch.rand_like, torch.randn_like, torch.randint_like, F.gumbel_softmax}
)
"""Of what has a value for each sample, to the same."""
FILLING: frozenset[Function] = frozenset(
    {
        Tensor.bernoulli_,
        Tensor.cauchy_,
        Tensor.exponential_,
        Tensor.geometric_,
        Tensor.log_normal_,
        Tensor.normal_,
        Tensor.random_,
        Tensor.uniform_,
    }
)
"""Of a tensor, in place."""
MAKING: frozenset[Function] = frozenset({torch.rand, torch.randn})
"""Of a size."""
LOOKED_AT = 32
"""Samples at which a model is looked at."""
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-3, "tf32": 2e-2}
"""Of the largest output, by precision: rounding is far below, another mask or statistic far above."""


class Part(TorchFunctionMode):
    """Lets a model compute a part of a batch as within the whole.

    Args:
        count: N, samples of the batch.
        part: which of them the model is given.

    """

    def __init__(self, count: int, part: slice) -> None:
        super().__init__()
        self.count, self.part = count, part
        self.size = part.stop - part.start

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer a call of torch's."""
        named = kwargs or {}
        if func is F.batch_norm and _is_training(func, args, named):
            return self._normalised(*args, **named)
        if func in DROPOUTS and _is_training(func, args, named):
            return self._dropped(func, args, named)
        if func in DRAWING:
            return self._drawn(func, args, named)
        if func in FILLING and self._each(args[0]):
            whole = self._padded(args[0])
            func(whole, *map(self._padded, args[1:]), **named)
            return args[0].copy_(self._own(whole))
        if func in MAKING:
            return self._made(func, args, named)
        return func(*args, **named)

    def _normalised(self, input: Tensor, *args: Any, **named: Any) -> Tensor:  # torch's name
        own = input.numel() // input.shape[1]
        return batch_norm(input, *args, **named, total=own // self.size * self.count)

    def _dropped(self, func: Function, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        inputs, rest = (args[0], args[1:]) if args else (named.pop("input"), ())
        if not self._each(inputs):
            return func(inputs, *rest, **named)
        made = self._own(func(self._padded(inputs), *rest, **named))
        inplace = rest[2] if len(rest) > 2 else named.get("inplace")
        return inputs.copy_(made) if inplace else made

    def _drawn(self, func: Function, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not args or not self._each(args[0]):
            return func(*args, **named)
        return self._own(func(*map(self._padded, args), **named))

    def _made(self, func: Function, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        size = tuple(args[0]) if len(args) == 1 and not isinstance(args[0], int) else tuple(args)
        if not size or size[0] % self.size:
            return func(*args, **named)
        return self._own(func((size[0] // self.size * self.count, *size[1:]), **named))

    def _each(self, values: object) -> bool:
        """Whether a tensor has a row, or several, for each sample of the part."""
        return isinstance(values, Tensor) and values.ndim > 0 and not len(values) % self.size

    def _padded(self, values: Any) -> Any:
        """Put a part's values where they stand in the whole batch; ones stand elsewhere."""
        if not self._each(values):
            return values
        rows = len(values) // self.size
        kept = torch.channels_last if _is_channels_last(values) else torch.contiguous_format
        pieces = [
            values.new_ones((rows * many, *values.shape[1:])).contiguous(memory_format=kept)
            for many in (self.part.start, self.count - self.part.stop)
        ]
        # Without the empty ones, whose layout says nothing: the layout says in which order numbers are drawn.
        return torch.cat([one for one in (pieces[0], values, pieces[1]) if len(one)])

    def _own(self, whole: Tensor) -> Tensor:
        rows = len(whole) // self.count
        return whole[rows * self.part.start : rows * self.part.stop]


def _is_training(func: Function, args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether such a call is one of training: where each of these functions has the flag."""
    if "training" in named:
        return bool(named["training"])
    place = 5 if func is F.batch_norm else 2
    default = func in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
    return bool(args[place]) if len(args) > place else default


def _is_channels_last(values: Tensor) -> bool:
    return (
        values.ndim == 4
        and values.is_contiguous(memory_format=torch.channels_last)
        and not values.is_contiguous()
    )


@torch.no_grad()
def differs(model: nn.Module, inputs: Tensor, part_of: Callable[[int], slice], tolerance: float) -> bool:
    """Whether a model does to a part of a batch anything else than to the whole.

    It is shown a few samples, both ways, with the same draws; what it keeps of them is put back.

    Args:
        model: in training mode.
        inputs: (N, ...), a batch.
        part_of: which of so many samples are this process's.
        tolerance: share of the largest output.

    """
    few = inputs[:LOOKED_AT]
    part = part_of(len(few))
    kept = {name: one.clone() for name, one in model.named_buffers()}
    devices = [few.device] if few.is_cuda else []
    with torch.autocast(few.device.type, enabled=False):
        with torch.random.fork_rng(devices):
            whole = model(few)
        with torch.random.fork_rng(devices), Part(len(few), part):
            own = model(few[part])
    for name, one in model.named_buffers():
        one.copy_(kept[name])
    if own.shape[1:] != whole.shape[1:] or len(own) != part.stop - part.start:
        return True
    whole = whole.float()
    if not bool(torch.isfinite(whole).all()):  # it has diverged already; nothing can be said
        return False
    return bool((own.float() - whole[part]).abs().max() > tolerance * whole.abs().max())
