"""Outputs of a trained replicate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lossbench.data.dataset import Split
from lossbench.models import foreign
from lossbench.models.base import build
from lossbench.plugins import is_path
from lossbench.recipe import Compute, Network
from lossbench.tasks.base import Task
from lossbench.training.determinism import deterministic, precision, recurrent_in_float32
from lossbench.training.portions import at_once, channels_last, joined

Array = npt.NDArray[Any]
State = dict[str, Tensor]


class Predictor:
    """A trained network in evaluation mode.

    Args:
        task: how stored inputs become what the model sees.
        network: the architecture.
        state: its weights and buffers.
        input_shape: of one encoded sample.
        compute: the device, and the precision trained with.

    """

    def __init__(
        self, task: Task, network: Network, state: State, input_shape: tuple[int, ...], compute: Compute
    ) -> None:
        self.task, self.compute = task, compute
        self.model: nn.Module = build(without_weights(network), input_shape, task.outputs)
        self.model.load_state_dict(state)
        self.model = self.model.to(compute.device).eval()
        if len(input_shape) == 3:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.model = recurrent_in_float32(self.model, compute)

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded inputs (N, *input_shape) → outputs (N, outputs, *spatial), float32."""
        with precision(self.compute):  # the one that it was trained with
            outputs: Tensor = self.model(channels_last(encoded.to(self.compute.device)))
        return outputs.float()

    def batches(self, inputs: Array, rows: Array | None = None) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (which of the samples, encoded inputs, outputs) batch by batch, on the device.

        Args:
            inputs: (N, *input_shape) as stored; read batch by batch.
            rows: the samples, (n,); all N where None.

        """
        count, size = len(inputs if rows is None else rows), at_once(self.task)
        for start in range(0, count, size):
            which = slice(start, min(start + size, count))
            stored = torch.from_numpy(np.array(inputs[_at(rows, which)])).to(self.compute.device)
            encoded = self.task.encode_inputs(stored)
            yield which, encoded, self.forward(encoded)

    def digests(
        self,
        split: Split,
        rows: Array | None = None,
        look: Callable[[slice, Tensor], None] = lambda *_: None,
        deciding: bool = True,
    ) -> tuple[Array, bool]:
        """Digest a split's outputs, and say whether all of them were finite.

        Args:
            split: read batch by batch.
            rows: the samples, (n,); all of the split where None.
            look: shown (which of the samples, their outputs) on the way, so that none is predicted twice.
            deciding: digests for ``Task.decide`` too; else for scores alone, which may be much smaller.

        Returns:
            (n, ...) digests.

        """
        finite = True
        whole = deciding or self.task.scores_decisions
        digest = self.task.digest if whole else self.task.score_digest

        def digests() -> Iterator[Tensor]:
            nonlocal finite
            for which, encoded, outputs in self.batches(split.inputs, rows):
                stored = np.array(split.targets[_at(rows, which)])
                targets = self.task.encode_targets(torch.from_numpy(stored).to(self.compute.device))
                finite = finite and bool(torch.isfinite(outputs).all())
                look(which, outputs)
                yield digest(outputs, targets, encoded).cpu()

        return joined(digests(), len(split if rows is None else rows)).numpy(), finite


def _at(rows: Array | None, which: slice) -> Any:
    return which if rows is None else rows[which]


@contextmanager
def predicting(
    task: Task, network: Network, state: State, sample: Array, compute: Compute
) -> Iterator[Predictor]:
    """Give a predictor, without gradients, deterministic, and leave the global generator as it was.

    Args:
        task: how stored inputs become what the model sees.
        network: the architecture.
        state: its weights and buffers.
        sample: stored inputs (1 or more, *input_shape); their encoded shape is the model's.
        compute: the device.

    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), deterministic(compute):
        shape = tuple(task.encode_inputs(torch.from_numpy(np.array(sample[:1]))).shape[1:])
        yield Predictor(task, network, state, shape, compute)


def predict(task: Task, network: Network, state: State, inputs: Array, compute: Compute) -> Tensor:
    """Compute outputs in evaluation mode.

    Args:
        task: how stored inputs become what the model sees.
        network: the architecture.
        state: its weights and buffers.
        inputs: (N, *input_shape) as stored; read batch by batch.
        compute: the device.

    Returns:
        (N, outputs, *spatial) float32 on the CPU.

    """
    with predicting(task, network, state, inputs, compute) as predictor:
        return joined((outputs.cpu() for _, _, outputs in predictor.batches(inputs)), len(inputs))


def without_weights(network: Network) -> Network:
    """Drop the file of pretrained weights: a trained state replaces them, and the file may be gone."""
    if is_path(network.name):
        return foreign.without_weights(network)
    kept = {key: value for key, value in network.options.items() if key not in ("weights", "sha256")}
    return Network(name=network.name, **kept)
