"""One replicate in several processes: each computes its part of every batch, all take the same step.

Every process draws the same order, augmentation and mixing from the same seeds, computes its part of the
batch's outputs, has those of the others sent, and computes the whole loss: a loss that is no mean over
samples is what it is in one process. Gradients of the weights are summed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lossbench.errors import GateError, UserError
from lossbench.recipe import Compute
from lossbench.training.collectives import (
    every,
    gathered,
    of_the_lead,
    part_of,
    sum_gradients,
    told_by_the_lead,
)
from lossbench.training.group import Group
from lossbench.training.parts import LOOKED_AT, TOLERANCE, Draw, Part, differs, shared_draws

T = TypeVar("T")
PATIENCE = timedelta(days=30)
"""Of a process that waits for the others: whoever started them ends all when one is gone."""


class Ranks(Group):
    """A process, among those of a replicate.

    Args:
        compute: device and precision.

    """

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == 0
        self._shared: frozenset[Draw] | None = None
        self._within: AbstractContextManager[Any] = nullcontext()

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Compute a part of a batch's outputs, and have the others'.

        A batch of fewer samples than processes is computed by each of them.

        Raises:
            UserError: if the model does to a part of a batch anything else than to the whole.

        """
        count = len(inputs)
        if count < self.world:
            self._within = nullcontext()
            outputs: Tensor = model(inputs)
            return of_the_lead(outputs.float())
        shared = self._shared = self._look_at(model, inputs) if self._shared is None else self._shared
        part = part_of(count, self.rank, self.world)
        self._within = Part(count, part, shared)
        with self._within:
            outputs = model(inputs[part])
        return gathered(outputs.float(), count)

    def backward(self, value: Tensor) -> None:
        """Find gradients; what a model computes again for them (``torch.utils.checkpoint``) is the same.

        Args:
            value: (), computed from the last outputs.

        """
        # Of a tensor torch asks the mode, which is not on while it answers; of an edge it asks nobody.
        edge = torch.autograd.graph.get_gradient_edge(value)
        with self._within:
            torch.autograd.backward(edge)

    def _look_at(self, model: nn.Module, inputs: Tensor) -> frozenset[Draw]:
        mine = partial(part_of, rank=self.rank, world=self.world)
        few = inputs[:LOOKED_AT]
        with torch.no_grad(), torch.autocast(few.device.type, enabled=False):
            shared = shared_draws(model, few, few[mine(len(few))])
        found = differs(model, inputs, mine, TOLERANCE[self.compute.precision], shared)
        if any(
            every(torch.tensor(float(found), device=inputs.device))
        ):  # the first process's draws may agree
            raise UserError(
                f"'compute.processes' is {self.world}, but the model's outputs for a sample, or its buffers, "
                "depend on the other samples of its batch, or on draws that cannot be divided (dropout "
                "within attention, say; layers of batch normalisation and dropout can); allowed with it: 1"
            )
        return shared

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of the parts."""
        sum_gradients(parameters)

    def agreed(self, find: Callable[[], T]) -> T:
        """Let the leading process find something, and all have it."""
        return told_by_the_lead(find, self.compute.device)

    def see_alike(self, model: nn.Module) -> None:
        """See that all processes have the same weights and buffers.

        Raises:
            GateError: if they have not.

        """
        held = [one for one in model.state_dict().values() if isinstance(one, Tensor)]
        numbers = [torch.view_as_real(one) if one.is_complex() else one for one in held]
        total = torch.stack([one.double().sum().to(self.compute.device) for one in numbers]).sum()
        found = every(total)
        if len({repr(one) for one in found}) > 1:
            raise GateError(
                f"the {self.world} processes of one training have come to different weights; are their "
                "processors or GPUs of different kinds?"
            )


@contextmanager
def among(rank: int, compute: Compute, meeting: Path) -> Iterator[Ranks]:
    """Meet the other processes of a replicate, on this machine.

    Args:
        rank: number of this process, from 0.
        compute: how many there are, and their device.
        meeting: a file that does not exist yet, in a folder of these processes alone.

    """
    dist.init_process_group(
        "nccl" if compute.device == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=compute.processes,
        timeout=PATIENCE,
    )
    yield Ranks(compute)
    dist.destroy_process_group()
