"""A model that sees a part of a batch does to it what it would do to it within the whole.

Batch normalisation takes the statistics of all processes, and what is drawn for each sample (dropout,
stochastic depth, noise) is drawn for the whole batch, of which a process takes its own: the bits of one
process's masks.
Calls are caught where they pass through torch, so a model need not be made for it. Whether a model does
anything else with its batch is found out before its first step (:func:`differs`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
MAKING: frozenset[Function] = frozenset({torch.rand, torch.randn, torch.randint})
"""Of a size."""
Draw = tuple[Function, tuple[int, ...]]
"""A call that draws, and the shape of what it draws."""
LOOKED_AT = 32
"""Samples at which a model is looked at."""
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-3, "tf32": 2e-2}
"""Of the largest output, by precision: rounding is far below, another mask or statistic far above."""
MOVED = 0.3
"""Standard deviation by which scales and shifts are moved to be looked at."""


class Part(TorchFunctionMode):
    """Lets a model compute a part of a batch as within the whole.

    Args:
        count: N, samples of the batch.
        part: which of them the model is given.
        shared: what is drawn once for all samples, whatever their number (:func:`shared_draws`); of all else
            the first axis tells whether it has rows for each sample.

    """

    def __init__(self, count: int, part: slice, shared: frozenset[Draw] = frozenset()) -> None:
        super().__init__()
        self.count, self.part, self.shared = count, part, shared
        self.size = part.stop - part.start

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer a call of torch's."""
        named = kwargs or {}
        if func is F.batch_norm and _is_training(func, args, named):
            return batch_norm(*args, **named)
        shape = _drawn(func, args, named)
        if not shape or shape[0] % self.size or (func, shape) in self.shared:
            return func(*args, **named)
        if func in DROPOUTS:
            return self._dropped(func, args, named)
        if func in DRAWING:
            return self._own(func(*map(self._padded, args), **_changed(named, self._padded)))
        if func in FILLING:
            whole = self._padded(args[0])
            func(whole, *map(self._padded, args[1:]), **_changed(named, self._padded))
            return args[0].copy_(self._own(whole))
        return self._own(_made(func, args, named, (shape[0] // self.size * self.count, *shape[1:])))

    def _dropped(self, func: Function, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        inputs, rest = (args[0], args[1:]) if args else (named["input"], ())
        others = {name: one for name, one in named.items() if name != "input"}
        made = self._own(func(self._padded(inputs), *rest, **others))
        inplace = rest[2] if len(rest) > 2 else named.get("inplace")
        return inputs.copy_(made) if inplace else made

    def _padded(self, values: Any) -> Any:
        """Put a part's values where they stand in the whole batch; ones stand elsewhere."""
        if not isinstance(values, Tensor) or not values.ndim or len(values) % self.size:
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


class _Noting(TorchFunctionMode):
    """Notes what a model draws; each draw begins at a seed of its place, so that a coin falls alike."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer a call of torch's."""
        named = kwargs or {}
        if func is F.batch_norm and _is_training(func, args, named):  # nobody is asked for statistics
            return args[0] if args else named["input"]
        shape = _drawn(func, args, named)
        if shape is not None:
            torch.manual_seed(len(self.draws))
            self.draws.append((func, shape))
        return func(*args, **named)


def shared_draws(model: nn.Module, *batches: Tensor) -> frozenset[Draw]:
    """Say what a model draws once for all samples: it has one shape, however many samples there are.

    A mask of weights has as many rows as they have, which may be a multiple of the samples by chance.

    Args:
        model: in training mode; what it keeps is put back.
        batches: (N, ...) and (n, ...), of two numbers of samples.

    """
    noted: list[list[Draw]] = []
    for one in batches:
        with _put_back(model), _forked(one), _Noting() as noting:
            model(one)
        noted.append(noting.draws)
    if len({tuple(func for func, _ in draws) for draws in noted}) > 1:  # they do not belong together
        return frozenset()
    return frozenset(draws[0] for draws in zip(*noted, strict=True) if len(set(draws)) == 1)


def _drawn(func: Function, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[int, ...] | None:
    """Say the shape of what a call draws; None where it draws nothing that we know."""
    if func in DROPOUTS and not _is_training(func, args, named):
        return None
    if func in MAKING:
        return _size(args, named)
    if func in DROPOUTS or func in DRAWING or func in FILLING:
        given = [one for one in (*args, *named.values()) if isinstance(one, Tensor)]
        return tuple(given[0].shape) if given else None
    return None


def _size(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[int, ...]:
    """Find a size among the arguments of a call that makes a tensor."""
    given = [one for one in (named.get("size"), *args) if isinstance(one, tuple | list)]
    return tuple(given[0]) if given else args


def _made(func: Function, args: tuple[Any, ...], named: dict[str, Any], size: tuple[int, ...]) -> Tensor:
    """Make a tensor of another size."""
    if "size" in named:
        made: Tensor = func(*args, **{**named, "size": size})
    elif any(isinstance(one, tuple | list) for one in args):
        made = func(*(size if isinstance(one, tuple | list) else one for one in args), **named)
    else:
        made = func(size, **named)
    return made


def _changed(named: dict[str, Any], change: Function) -> dict[str, Any]:
    return {name: change(one) for name, one in named.items()}


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
def differs(
    model: nn.Module,
    inputs: Tensor,
    part_of: Callable[[int], slice],
    tolerance: float,
    shared: frozenset[Draw] = frozenset(),
) -> bool:
    """Whether a model does to a part of a batch anything else than to the whole.

    It is shown a few samples, both ways, with the same draws; what it keeps of them is compared, too, and put
    back. All of it once more with weights that are moved: where a last layer or a branch begins at zero,
    nothing is to be seen of what comes before.

    Args:
        model: in training mode.
        inputs: (N, ...), a batch.
        part_of: which of so many samples are this process's.
        tolerance: share of the largest output.
        shared: what it draws once for all samples.

    """
    few = inputs[:LOOKED_AT]
    part = part_of(len(few))
    as_it_is = _parts_differ(model, few, part, tolerance, shared)
    with _moved(model):  # in any case: processes that have seen nothing wait in batch normalisation
        return _parts_differ(model, few, part, tolerance, shared) or as_it_is


def _parts_differ(
    model: nn.Module, few: Tensor, part: slice, tolerance: float, shared: frozenset[Draw]
) -> bool:
    before = _kept(model)
    with torch.autocast(few.device.type, enabled=False):
        with _put_back(model), _forked(few):
            whole = model(few)
            kept = _kept(model)
        with _put_back(model), _forked(few), Part(len(few), part, shared):
            own = model(few[part])
            own_kept = _kept(model)
    if own.shape[1:] != whole.shape[1:] or len(own) != part.stop - part.start:
        return True
    if _far(own, whole[part], tolerance) or kept.keys() != own_kept.keys():
        return True
    return any(_far(*pair, tolerance) for pair in _by_module(before, own_kept, kept))


def _far(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by more than rounding; of what has diverged nothing can be said."""
    if one.shape != other.shape:
        return True
    one, other = one.double(), other.double()
    if not other.numel() or not bool(torch.isfinite(other).all()):
        return False
    return not bool((one - other).abs().max() <= tolerance * other.abs().max())


def _by_module(
    before: Mapping[str, Tensor], one: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Join what has changed of a module's numbers: a mean that is zero but for rounding says no size."""
    joined: dict[tuple[str, bool], list[tuple[Tensor, Tensor]]] = {}
    for name, value in other.items():
        was = before.get(name)
        if was is None or any(not _same(was, each) for each in (one[name], value)):
            key = name.rpartition(".")[0], value.is_floating_point()
            joined.setdefault(key, []).append((one[name], value))
    return [
        (
            torch.cat([each.double().flatten() for each in pair]),
            torch.cat([each.double().flatten() for each in others]),
        )
        for pair, others in (zip(*pairs, strict=True) for pairs in joined.values())
    ]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _kept(model: nn.Module) -> dict[str, Tensor]:
    """Copy what a model keeps besides its weights."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    state = model.state_dict()
    return {
        name: one.clone() for name, one in state.items() if isinstance(one, Tensor) and name not in weights
    }


@contextmanager
def _forked(inputs: Tensor) -> Iterator[None]:
    """Draw from copies of the generators."""
    with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
        yield


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """Let a model forget what it has kept in between: buffers, attributes, layers made on the way."""
    tables = ("_buffers", "_parameters", "_modules")
    modules = list(model.modules())
    own = [dict(vars(one)) for one in modules]
    held = [
        {name: dict(each[name]) for name in tables if isinstance(each.get(name), dict)} for each in own
    ]  # a scripted module has its own kind of them
    values = [(one, one.clone()) for one in model.buffers()]
    try:
        yield
    finally:
        for one, attributes, contents in zip(modules, own, held, strict=True):
            vars(one).clear()
            vars(one).update(attributes)
            for name, content in contents.items():
                table = vars(one)[name]
                table.clear()
                table.update(content)
        for buffer, value in values:
            buffer.copy_(value)


@contextmanager
def _moved(model: nn.Module) -> Iterator[None]:
    """Move all weights by about as much as weights of a layer of their size begin at."""
    random = torch.Generator().manual_seed(0)
    kept = [(one, one.detach().clone()) for one in model.parameters() if one.is_floating_point()]
    try:
        for one, _ in kept:
            spread = (len(one) / one.numel()) ** 0.5 if one.ndim > 1 and one.numel() else MOVED
            one.add_((torch.randn(one.shape, generator=random) * spread).to(one))
        yield
    finally:
        for one, value in kept:
            one.copy_(value)
