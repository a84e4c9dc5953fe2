"""Samples to train on: on the device where they fit, else streamed from the memory map.

Whichever way they come, a batch has the same bits and the same memory layout.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lossbench.data.dataset import Split, give_back
from lossbench.errors import UserError
from lossbench.system import available_memory
from lossbench.tasks.base import Task

Maps = Callable[[Tensor], Tensor]
"""From encoded targets (N, ...) to what an auxiliary loss needs to know of them."""

ENCODED_AHEAD = 64 * 2**20
"""Bytes of encoded inputs, or targets, up to which a split is encoded once, not batch by batch."""
SAMPLES_AT_ONCE = 512
"""Samples that are scored, checked or prepared at once, at most (:func:`at_once`)."""
POSITIONS_AT_ONCE = 2**16
"""Positions (pixels, voxels, tokens) of these samples together: activations grow with them."""
OUTPUTS_AT_ONCE = 2**25
"""Numbers that a model puts out for these samples together, where it has many outputs a position (words)."""
RESIDENT = 256 * 2**20
"""Bytes of data, as stored, that each process on the CPU holds a copy of; what is larger is streamed."""
AHEAD = 2
"""Batches that are read while one is trained on."""
MiB = 2**20


class Batch(NamedTuple):
    """Encoded inputs and targets, and what else there is.

    Attributes:
        inputs: (N, ...).
        targets: (N, ...).
        auxiliary: a loss's maps.
        weights: (N,) or (N, *spatial), how much each counts in training.
        soft: (N, C), the distributions over the classes to train on in place of the targets.

    """

    inputs: Tensor
    targets: Tensor
    auxiliary: Tensor | None
    weights: Tensor | None = None
    soft: Tensor | None = None

    @property
    def extra(self) -> dict[str, Tensor]:
        """What a loss is shown beside outputs and targets, by its arguments' names."""
        found = {"auxiliary": self.auxiliary, "weights": self.weights}
        return {name: one for name, one in found.items() if one is not None}


class Source(Protocol):
    """Where batches come from."""

    def __len__(self) -> int:
        """Count the samples."""

    def take(self, index: Tensor) -> Batch:
        """Fetch samples, (n,) int64 on the CPU, to the device."""

    def targets(self, index: Tensor) -> Tensor:
        """Fetch encoded targets alone."""

    def truth(self, index: Tensor | None) -> Tensor:
        """Fetch targets, or all, for ``Task.validate``: encoded, or as stored where those would be large."""


@dataclass(frozen=True)
class Resident:
    """All samples on the device; inputs and targets each encoded already, or as stored."""

    task: Task
    inputs: Tensor
    labels: Tensor
    auxiliary: Tensor | None
    inputs_encoded: bool
    labels_encoded: bool
    weights: Tensor | None = None
    soft: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Tensor) -> Batch:
        """Index the tensors."""
        index = index.to(self.inputs.device, non_blocking=True)
        inputs = self.inputs[index]
        inputs = inputs if self.inputs_encoded else self.task.encode_inputs(inputs)
        maps, weights, soft = (
            None if one is None else one[index] for one in (self.auxiliary, self.weights, self.soft)
        )
        return Batch(channels_last(inputs), self.targets(index), maps, weights, soft)

    def targets(self, index: Tensor) -> Tensor:
        """Index the targets."""
        labels = self.labels[index.to(self.labels.device)]
        return labels if self.labels_encoded else self.task.encode_targets(labels)

    def truth(self, index: Tensor | None) -> Tensor:
        """Return the targets as they lie; all of them without a copy, which forked workers share."""
        return self.labels if index is None else self.labels[index.to(self.labels.device)]


@dataclass(frozen=True)
class Mapped:
    """Samples that stay on disk; several splits count as one after another."""

    task: Task
    splits: Sequence[Split]
    device: str
    maps: Maps | None

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def take(self, index: Tensor) -> Batch:
        """Read, encode and move one batch."""
        inputs = self._read([split.inputs for split in self.splits], index)
        targets = self.targets(index)
        maps = None if self.maps is None else self.maps(targets.cpu()).to(self.device)
        weights, soft = (
            None if some is None else self._read(some, index) for some in _only_trained(self.splits)
        )
        return Batch(channels_last(self.task.encode_inputs(inputs)), targets, maps, weights, soft)

    def targets(self, index: Tensor) -> Tensor:
        """Read and encode targets."""
        return self.task.encode_targets(self._stored_targets(index))

    def truth(self, index: Tensor | None) -> Tensor:
        """Read targets; encode them where that takes little."""
        stored = self._stored_targets(torch.arange(len(self)) if index is None else index)
        encoded = self.task.encode_targets(stored[:1]).nbytes * len(stored)
        return self.task.encode_targets(stored) if encoded <= ENCODED_AHEAD else stored

    def _stored_targets(self, index: Tensor) -> Tensor:
        return self._read([split.targets for split in self.splits], index)

    def _read(self, arrays: Sequence[npt.NDArray[Any]], index: Tensor) -> Tensor:
        wanted = index.numpy()
        first = arrays[0]
        out = np.empty((len(wanted), *first.shape[1:]), first.dtype)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"samples {wanted.min()}..{wanted.max()} of {len(self)}")
        start = 0
        for array in arrays:
            here = np.flatnonzero((wanted >= start) & (wanted < start + len(array)))
            out[here] = array[wanted[here] - start]
            give_back(array)
            start += len(array)
        return torch.from_numpy(out).to(self.device)


@dataclass(frozen=True)
class Portion:
    """Some samples of a source, in order: ``rows`` (n,) int64 on the CPU, or all of them."""

    source: Source
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    def take(self, index: Tensor) -> Batch:
        """Fetch samples by their number within the portion."""
        return self.source.take(self.numbers(index))

    def targets(self) -> Tensor:
        """Fetch all encoded targets."""
        return self.source.targets(self.numbers(torch.arange(len(self))))

    def truth(self) -> Tensor:
        """Fetch all targets for ``Task.validate``: encoded, or as stored where those would be large."""
        return self.source.truth(self.rows)

    def among(self, rows: Tensor) -> "Portion":
        """Keep some samples only."""
        return replace(self, rows=self.numbers(rows))

    def batches(self, orders: Sequence[Tensor]) -> Iterator[Batch]:
        """Fetch one batch per order; from disk, the next are read while one is used."""
        if isinstance(self.source, Resident):
            # One transfer of all the numbers, not one for every step.
            index = self.numbers(torch.cat(list(orders))).to(self.source.labels.device) if orders else None
            sizes = [len(order) for order in orders]
            yield from map(self.source.take, () if index is None else torch.split(index, sizes))
            return
        with ThreadPoolExecutor(1, "read") as reader:
            ahead: list[Future[Batch]] = []
            try:
                for order in orders:
                    ahead.append(reader.submit(self.take, order))
                    if len(ahead) > AHEAD:
                        yield ahead.pop(0).result()
                while ahead:
                    yield ahead.pop(0).result()
            finally:
                for waiting in ahead:
                    waiting.cancel()

    def numbers(self, index: Tensor) -> Tensor:
        """Turn numbers within the portion into numbers within its source."""
        return index if self.rows is None else self.rows[index]


def open_portion(task: Task, splits: Sequence[Split], device: str, maps: Maps | None, budget: int) -> Portion:
    """Bring splits, pooled, to the device if they take at most ``budget`` bytes; else leave them on disk.

    Args:
        task: encodes inputs and targets.
        splits: one or more, pooled in this order.
        device: where batches are wanted.
        maps: an auxiliary loss's own.
        budget: bytes that samples as stored, and auxiliary maps, may take.

    """
    count = sum(map(len, splits))
    first = task.encode_inputs(_tensor([split.inputs[:1] for split in splits], device)[:1])
    label = task.encode_targets(_tensor([split.targets[:1] for split in splits], device)[:1])
    own = _only_trained(splits)
    needed = sum(split.inputs.nbytes + split.targets.nbytes for split in splits)
    needed += sum(one.nbytes for some in own for one in some or ())
    if maps is not None:
        needed += count * maps(label.cpu()).nbytes
    if needed > budget:
        return Portion(Mapped(task, splits, device, maps))
    inputs = _tensor([split.inputs for split in splits], device)
    labels = _tensor([split.targets for split in splits], device)
    auxiliary = None
    if maps is not None:
        stored = torch.split(labels, at_once(task))
        pieces = (maps(task.encode_targets(part).cpu()).to(device) for part in stored)
        auxiliary = joined(pieces, count)
    most = encoded_ahead(device, budget - needed)
    inputs_ahead = count * first.nbytes <= most
    labels_ahead = count * label.nbytes <= most
    if inputs_ahead:
        inputs = channels_last(task.encode_inputs(inputs))
    if labels_ahead:
        labels = task.encode_targets(labels)
    weights, soft = (None if some is None else _tensor(some, device) for some in own)
    return Portion(Resident(task, inputs, labels, auxiliary, inputs_ahead, labels_ahead, weights, soft))


def _only_trained(splits: Sequence[Split]) -> list[list[npt.NDArray[Any]] | None]:
    """Return the splits' weights and their soft labels; None for what the data have not."""
    both = ([one.weights for one in splits], [one.soft for one in splits])
    there = ([one for one in arrays if one is not None] for arrays in both)
    return [some if len(some) == len(splits) else None for some in there]


def encoded_ahead(device: str, left: int) -> int:
    """Bytes of inputs, or of targets, up to which they are encoded once; ``left`` is what the budget leaves.

    A CPU encodes a batch again as fast as it reads it from memory; on a GPU each operation of a step counts.
    """
    return ENCODED_AHEAD if device == "cpu" else max(ENCODED_AHEAD, left // 4)


def at_once(task: Task) -> int:
    """Say how many samples go through a model at once where no gradient ties them together.

    As many as have 65 536 positions together, from 1 to 512: a larger batch takes more memory, and no less
    time.
    """
    shape = task.info.input_shape
    positions = max(1, math.prod(shape[1:] if len(shape) > 1 else shape))
    fitting = min(POSITIONS_AT_ONCE // positions, OUTPUTS_AT_ONCE // (positions * task.outputs))
    return max(1, min(SAMPLES_AT_ONCE, fitting))


def joined(parts: Iterable[Tensor], count: int) -> Tensor:
    """Concatenate (n, ...) to (``count``, ...) as they come.

    Into memory taken at once: small tensors kept between the large ones of a forward pass would riddle the
    heap, and a concatenation at the end needs room for both.
    """
    whole, start = None, 0
    for part in parts:
        whole = part.new_empty((count, *part.shape[1:])) if whole is None else whole
        whole[start : start + len(part)] = part
        start += len(part)
    if whole is None or start != count:
        raise ValueError(f"{start} samples; expected {count}")
    return whole


def parts(count: int, size: int) -> list[Tensor]:
    """Return the numbers 0..count - 1 in batches."""
    return [torch.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _tensor(arrays: Sequence[npt.NDArray[Any]], device: str) -> Tensor:
    whole = np.concatenate([np.asarray(array) for array in arrays])
    for array in arrays:
        give_back(array)
    return torch.from_numpy(whole).to(device)


def channels_last(images: Tensor) -> Tensor:
    """Lay images (N, C, H, W) out with channels last; anything else passes.

    With one channel both layouts are the same memory, and torch keeps whichever strides it finds; but they
    choose the convolution's kernel, and so the bits. Hence they are set here.
    """
    if images.ndim != 4:
        return images
    images = images.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = images.shape
    return images.as_strided(images.shape, (channels * height * width, 1, width * channels, channels))


def memory_budget(device: str) -> int:
    """Bytes that training data may take: ``LOSSBENCH_MEMORY`` (MiB), or half of what is free on a GPU.

    On the CPU 256 MiB, and no more than half of what is free: a batch of what is larger is read from the page
    cache, which all workers share, as fast as from memory of their own.

    Raises:
        UserError: if the variable is no number.

    """
    wanted = os.environ.get("LOSSBENCH_MEMORY")
    if wanted is not None:
        if not wanted.isdigit():
            raise UserError(f"LOSSBENCH_MEMORY is {wanted!r}; allowed: a whole number of MiB")
        return int(wanted) * MiB
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0] // 2)
    return min(RESIDENT, available_memory() // 2)
