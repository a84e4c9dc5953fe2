"""A training step as a CUDA graph: recorded once, then replayed with other numbers in the same places.

A small network's kernels are over before the next is launched; a graph launches all of a step at once. What
differs from step to step is copied to tensors that keep their place: the batch, dropout's masks, the learning
rates. Weights, buffers and the optimizer's state change in place anyway, and what a model draws by itself
begins at the seed that is set before each replay, as it does without a graph.

Bits are those of steps as they come, and the first replay of each graph proves it: the same step is taken
both ways from the same state. What differs, or cannot be recorded, is trained as it comes, and that is said.
What a step keeps elsewhere (a tensor as a plain attribute, a counter) has then moved on once more.
"""

import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossbench.losses.schedules import is_scheduled
from lossbench.recipe import Compute
from lossbench.training.member import Member
from lossbench.training.optimization import Optimizer
from lossbench.training.seeds import seed_all
from lossbench.training.setting import Setting

Step = Callable[[Mapping[str, Tensor], Sequence[float | Tensor]], None]
"""Takes a step: given the batch's tensors by name, and the learning rates, it changes the state in place."""
WARM = 3
"""Steps as they come before one is recorded: libraries load kernels, optimizers begin their state."""
SHAPES = 2
"""Shapes of batches that get a graph: the usual one, and an epoch's smaller last."""


class NotRecordedError(Exception):
    """Why steps are not recorded."""


@dataclass(frozen=True)
class _Recorded:
    """A step in tensors that keep their place.

    Attributes:
        given: where the batch goes.
        rates: (), where the learning rates go.
        replay: takes the step again.

    """

    given: dict[str, Tensor]
    rates: list[Tensor]
    replay: Callable[[], None]

    def __call__(self, given: Mapping[str, Tensor], rates: Sequence[float]) -> None:
        """Take the step with other numbers."""
        for name, value in given.items():
            self.given[name].copy_(value)
        for place, rate in zip(self.rates, rates, strict=True):
            place.fill_(rate)
        self.replay()


class Steps:
    """Takes steps: as they come, or on a GPU as graphs where ``compute.graphs`` says so.

    On a CPU, where there are no graphs, the step is taken in the same tensors that keep their place: so tests
    hold it against steps as they come.

    Args:
        step: what is to be taken.
        state: finds all that a step changes.
        compute: where, and whether as graphs.
        hindrance: why these steps cannot be recorded; None where nothing is known.

    """

    def __init__(
        self, step: Step, state: Callable[[], list[Tensor]], compute: Compute, hindrance: str | None
    ) -> None:
        self.step, self.state, self.cuda = step, state, compute.device == "cuda"
        self.recording = compute.graphs
        self.taken: dict[object, int] = {}
        self.recorded: dict[object, _Recorded] = {}
        if self.recording and self.cuda:
            self.pool = torch.cuda.graph_pool_handle()
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        if self.recording and hindrance is not None:
            self._give_up(hindrance)

    def __call__(self, given: Mapping[str, Tensor], rates: Sequence[float], seed: int | None = None) -> None:
        """Take a step.

        Args:
            given: the batch's tensors, whatever else the step wants.
            rates: learning rates.
            seed: of what the model draws by itself; None where it draws nothing.

        """
        if self.cuda:  # a graph reads its rates in float32, so all steps there do
            rates = [_single(rate) for rate in rates]
        if not self.recording:
            self._seed(seed)
            self.step(given, rates)
            return
        kind = tuple((name, one.shape, one.stride(), one.dtype) for name, one in given.items())
        if kind in self.recorded:
            self._seed(seed)
            self.recorded[kind](given, rates)
            return
        self.taken[kind] = self.taken.get(kind, 0) + 1
        if self.taken[kind] <= WARM or len(self.recorded) == SHAPES:
            self._as_it_comes(given, rates, seed)
            return
        try:
            self.recorded[kind] = self._proven(given, rates, seed)
        except NotRecordedError as error:
            self._give_up(str(error))

    def _seed(self, seed: int | None) -> None:
        if seed is not None:
            seed_all(seed, "cuda" if self.cuda else "cpu")

    def _as_it_comes(self, given: Mapping[str, Tensor], rates: Sequence[float], seed: int | None) -> None:
        self._seed(seed)
        with self._aside():
            self.step(given, rates)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Compute on the stream that is recorded later, as torch wants it of what warms up."""
        if not self.cuda:
            yield
            return
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            yield
        usual.wait_stream(self.stream)

    def _proven(self, given: Mapping[str, Tensor], rates: Sequence[float], seed: int | None) -> _Recorded:
        """Take the step as it comes, and again as a recorded one; they must agree to the bit.

        Raises:
            NotRecordedError: if they differ, or nothing can be recorded; the step has been taken then.

        """
        before = _copied(self.state())
        self._as_it_comes(given, rates, seed)
        after = _copied(self.state())
        if len(after) != len(before):
            raise NotRecordedError("a step adds to the optimizer's state, for it trains what none before did")
        recorded = self._record(given, len(rates))
        _put_back(self.state(), before)
        self._seed(seed)
        recorded(given, rates)
        if not _same(self.state(), after):
            _put_back(self.state(), after)
            raise NotRecordedError("a recorded step ends in other bits than the same step as it comes")
        return recorded

    def _record(self, given: Mapping[str, Tensor], rates: int) -> _Recorded:
        places = {name: _place(one) for name, one in given.items()}
        kind = torch.float32 if self.cuda else torch.float64
        device = "cuda" if self.cuda else "cpu"
        rate_places = [torch.zeros((), dtype=kind, device=device) for _ in range(rates)]
        if not self.cuda:
            return _Recorded(places, rate_places, lambda: self.step(places, rate_places))
        graph, drawn = torch.cuda.CUDAGraph(), torch.default_generator.get_state()
        try:
            with torch.cuda.graph(graph, self.pool, self.stream, "thread_local"):
                self.step(places, rate_places)
        except RuntimeError as error:
            raise NotRecordedError(_why(error)) from None
        if not torch.equal(drawn, torch.default_generator.get_state()):
            raise NotRecordedError("a step draws from the CPU's generator, which a graph cannot")
        return _Recorded(places, rate_places, graph.replay)

    def _give_up(self, why: str) -> None:
        self.recording = False
        self.recorded.clear()
        print(
            f"warning: 'compute.graphs' is true, but steps are trained without ({why}); bits are the same, "
            "but for what a step keeps elsewhere than in parameters and buffers",
            file=sys.stderr,
        )


def hindrance(
    setting: Setting, members: Sequence[Member], model: nn.Module, optimizers: Sequence[Optimizer]
) -> str | None:
    """Say what is known to keep a training's steps from being recorded; None where nothing is."""
    if any(is_scheduled(one.loss or setting.loss) for one in members):
        return "the loss changes over the epochs"
    for optimizer in optimizers:
        if not optimizer.recordable:
            return f"{optimizer.params.name} takes its learning rate from the CPU alone"
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.dropout:
            return f"the dropout within '{name}' keeps a state of its own"
    return None


def _place(value: Tensor) -> Tensor:
    """Make room for a tensor, laid out alike, for the layout chooses kernels and so bits."""
    if 0 in value.stride():  # expanded: places of one memory cannot be written apart
        return torch.empty_like(value, memory_format=torch.contiguous_format)
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _single(rate: float) -> float:
    """Round to float32."""
    rounded: float = struct.unpack("f", struct.pack("f", rate))[0]
    return rounded


def _copied(values: Sequence[Tensor]) -> list[Tensor]:
    return [one.detach().clone() for one in values]


@torch.no_grad()
def _put_back(values: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for value, one in zip(values, kept, strict=True):
        value.copy_(one)


def _same(values: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether numbers are equal; where a training diverged, in what is none as well."""
    return all(
        torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
        for one, other in zip(values, others, strict=True)
    )


def _why(error: BaseException) -> str:
    """What ended a recording: ending it raises another error, in whose course the first one stands.

    Nothing else may keep the error: its frames hold a step's tensors, which belong to the recording.
    """
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    return str(error).splitlines()[0]
