"""What the processes of one replicate send to one another, by ``torch.distributed``.

Every process computes the whole loss on the whole batch's outputs, so the way back from an output to the
process that computed it needs no message: each takes its own part of a gradient that all of them have.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
BUCKET = 2**23
"""Numbers of gradients that are summed in one message."""


def part_of(count: int, rank: int, world: int) -> slice:
    """Say which of ``count`` samples are a process's: as even as can be, in order."""
    return slice(rank * count // world, (rank + 1) * count // world)


class _Gathered(torch.autograd.Function):
    """Outputs of all processes, in the batch's order; backward, the part of this one."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, count: int) -> Tensor:
        rank, world = dist.get_rank(), dist.get_world_size()
        ctx.part = part_of(count, rank, world)
        sizes = [one.stop - one.start for one in (part_of(count, each, world) for each in range(world))]
        most = max(sizes)
        sent = mine.new_zeros((most, *mine.shape[1:]))
        sent[: len(mine)] = mine
        all_of_them = mine.new_empty((world * most, *mine.shape[1:]))
        dist.all_gather_into_tensor(all_of_them, sent)
        pieces = torch.split(all_of_them, most)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.part], None


def gathered(mine: Tensor, count: int) -> Tensor:
    """Join the outputs of all processes.

    Args:
        mine: (n, ...), of this process's samples (:func:`part_of`).
        count: N, of the whole batch; every process has one of them at least.

    Returns:
        (N, ...), with the graph of this process's.

    """
    whole: Tensor = _Gathered.apply(mine, count)
    return whole


class _OfTheLead(torch.autograd.Function):
    """Passes values on; backward, the gradient in the leading process and zeros in the others."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] if dist.get_rank() == 0 else torch.zeros_like(gradients[0])


def of_the_lead(outputs: Tensor) -> Tensor:
    """Count what every process has computed once, when gradients are summed."""
    made: Tensor = _OfTheLead.apply(outputs)
    return made


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over the processes, in place, a few million numbers in a message.

    A parameter without a gradient in any process keeps none, so that no optimizer moves it.
    """
    for bucket in _buckets([one for one in parameters if one.requires_grad]):
        pieces = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
        there = pieces[0].new_tensor([one.grad is not None for one in bucket])
        flat = torch.cat([*(one.reshape(-1) for one in pieces), there])
        dist.all_reduce(flat)
        *summed, there = torch.split(flat, [*(one.numel() for one in pieces), len(bucket)])
        for number, (parameter, piece, total) in enumerate(zip(bucket, pieces, summed, strict=True)):
            piece.copy_(total.view(piece.shape))
            # Whether others have found any is asked only where this process has not: to ask is to wait.
            if parameter.grad is None and bool(there[number] > 0):
                parameter.grad = piece


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Divide parameters, in order, among messages of one type each."""
    bucket: list[nn.Parameter] = []
    numbers = 0
    for one in parameters:
        if bucket and (one.dtype != bucket[0].dtype or numbers + one.numel() > BUCKET):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(one)
        numbers += one.numel()
    if bucket:
        yield bucket


def told_by_the_lead(find: Callable[[], T], device: str) -> T:
    """Let the leading process find something and tell the others.

    Args:
        find: gives tensors, numbers, strings, None and containers of them.
        device: that messages are sent from.

    """
    if dist.get_rank() == 0:
        found = find()
        buffer = io.BytesIO()
        torch.save(found, buffer)
        content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8).to(device)
        dist.broadcast(torch.tensor([len(content)], device=device), 0)
        dist.broadcast(content, 0)
        return found
    length = torch.zeros(1, dtype=torch.int64, device=device)
    dist.broadcast(length, 0)
    content = torch.zeros(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(content, 0)
    received: T = torch.load(io.BytesIO(content.cpu().numpy().tobytes()), weights_only=True)
    return received


def every(value: Tensor) -> list[float]:
    """Say what a number, (), is in each process."""
    found = value.new_empty(dist.get_world_size())
    dist.all_gather_into_tensor(found, value.view(1))
    return found.tolist()
