"""What a source hands over, before it is split and written."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Kind

Array = npt.NDArray[Any]
POOL = "pool"
"""Name of the one group of a source whose publisher gives no split."""


@dataclass(frozen=True)
class Samples:
    """Samples in a fixed order, index-aligned.

    Attributes:
        inputs: (N, *input_shape); images have channels first, as uint8, uint16 or float32 in 0..1.
        targets: (N, *target_shape).
        names: where each came from, relative to the source; unique.
        columns: further columns of the manifest, each of length N.

    """

    inputs: Array
    targets: Array
    names: Sequence[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Array) -> "Samples":
        """Keep the samples at ``index``, in that order."""
        return Samples(
            self.inputs[index],
            self.targets[index],
            [self.names[i] for i in index],
            {key: [values[i] for i in index] for key, values in self.columns.items()},
        )

    def hashes(self) -> list[str]:
        """SHA-256 of each input's decoded content (shape, type and values; not its target)."""
        return content_hashes(self.inputs)


def content_hashes(arrays: Array) -> list[str]:
    """SHA-256 of each entry along the first axis: shape, type and values."""
    head = f"{arrays.shape[1:]} {arrays.dtype}".encode()
    return [hashlib.sha256(head + np.ascontiguousarray(one).tobytes()).hexdigest() for one in arrays]


@dataclass(frozen=True)
class Fetched:
    """A source's whole answer.

    Attributes:
        kind: what a target is.
        classes: names, in the order of their numbers.
        groups: split name → samples, as the publisher divides them; or one group named POOL.
        provenance: source, version, licence, hashes of what was read (no path, no time).
        ignore_index: target value that stands for "unknown".
        extra: what the source wants to tell its task; JSON.

    """

    kind: Kind
    classes: tuple[str, ...]
    groups: Mapping[str, Samples]
    provenance: Mapping[str, Any]
    ignore_index: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
