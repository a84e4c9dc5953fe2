"""What a source hands over, before it is split and written."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.data.dataset import Kind
from lossbench.data.facts import Facts, content_hashes, input_facts, mask_facts, weight_facts
from lossbench.data.rows import Array, FromFiles, Keeper, Rows, Stored, blocks, in_order
from lossbench.progress import bar

__all__ = ["POOL", "Array", "Fetched", "Samples", "content_hashes", "kept", "looked_at"]

Side = Callable[[str], str]
"""From a sample's content hash to the split that it will come to, so that it is written there at once."""
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
        facts: what a look at the inputs found, and how many values a declared range clipped; None before it.
        mask_facts: what a look at the targets found, where they are masks; None before it.
        weights: (N,) or (N, *target_shape) float32 ≥ 0, how much each counts in training; None: all alike.
        weight_facts: what a look at weights found; None before it.
        soft: (N, classes) float32, distributions over the classes to train on; None: the targets themselves.

    """

    inputs: Array | Rows
    targets: Array | Rows
    names: Sequence[str]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    facts: Facts | None = None
    mask_facts: Facts | None = None
    weights: Array | Rows | None = None
    weight_facts: Facts | None = None
    soft: Array | None = None

    @property
    def labels(self) -> Array:
        """Targets in memory: for kinds whose targets are small."""
        return np.asarray(self.targets)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Array) -> "Samples":
        """Keep the samples at ``index``, in that order."""
        return Samples(
            self.inputs[index],
            self.targets[index],
            [self.names[i] for i in index],
            {key: [values[i] for i in index] for key, values in self.columns.items()},
            _facts_at(self.facts, index),
            _facts_at(self.mask_facts, index),
            None if self.weights is None else self.weights[index],
            _facts_at(self.weight_facts, index),
            None if self.soft is None else self.soft[index],
        )

    def hashes(self) -> list[str]:
        """SHA-256 of each input's decoded content (shape, type and values; not its target)."""
        if self.facts is not None:
            return [str(one) for one in self.facts["sha256"]]
        return content_hashes(np.asarray(self.inputs))


def _facts_at(facts: Facts | None, index: Array) -> Facts | None:
    return None if facts is None else {key: values[index] for key, values in facts.items()}


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


def looked_at(samples: Samples, fetched: Fetched) -> Samples:
    """Look at samples in memory, unless that was done."""
    done = samples
    if done.facts is None:
        done = replace(done, facts=_looked(done.inputs, input_facts))
    if fetched.kind == "mask" and done.mask_facts is None:
        done = replace(done, mask_facts=_looked(done.targets, _mask_look(fetched)))
    if done.weights is not None and done.weight_facts is None:
        done = replace(done, weight_facts=_looked(done.weights, weight_facts))
    return done


def kept(samples: Samples, fetched: Fetched, folder: Path, side: Side) -> Samples:
    """Look at samples, and write to disk what is decoded on the way: each is decoded once.

    Args:
        samples: of one group.
        fetched: what the source said of them.
        folder: for the files; created if need be.
        side: see :data:`Side`.

    Raises:
        UserError: for a file that cannot be decoded.

    """
    done = samples
    if isinstance(done.inputs, FromFiles):
        inputs, facts = _stored(done.inputs, input_facts, folder / "inputs", side)
        done = replace(done, inputs=inputs, facts=facts)
    hashes = () if done.facts is None else tuple(done.facts["sha256"])
    if isinstance(done.targets, FromFiles):
        masks, facts = _stored(done.targets, _mask_look(fetched), folder / "targets", _along(hashes, side))
        done = replace(done, targets=masks, mask_facts=facts)
    if isinstance(done.weights, FromFiles):
        weights, facts = _stored(done.weights, weight_facts, folder / "weights", _along(hashes, side))
        done = replace(done, weights=weights, weight_facts=facts)
    return looked_at(done, fetched)


def _along(hashes: Sequence[str], side: Side) -> Side:
    """Send what belongs to inputs where these went, in the same order."""
    sides = iter(hashes)
    return lambda own: side(next(sides, own))


def _mask_look(fetched: Fetched) -> Callable[[Array], Facts]:
    return partial(mask_facts, classes=len(fetched.classes), ignore_index=fetched.ignore_index)


def _stored(
    rows: FromFiles, look: Callable[[Array], Facts], folder: Path, side: Side
) -> tuple[Stored, Facts]:
    """Decode samples, look at them and write them."""
    with Keeper(folder, rows.each, rows.dtype) as keeper:

        def keep(block: Array, facts: Facts) -> None:
            keeper.append(block, [side(one) for one in facts["sha256"]])

        facts = dict(_looked(rows, look, keep))
        if rows.clipped is not None:
            facts["clipped_values"] = rows.clipped
        return keeper.stored(), facts


def _looked(
    rows: Array | Rows,
    look: Callable[[Array], Facts],
    keep: Callable[[Array, Facts], None] = lambda *_: None,
) -> Facts:
    """Look at all samples, a block at a time, side by side."""
    parts = blocks(rows) or [slice(0, 0)]
    size = len(rows[parts[0]]) * rows.dtype.itemsize * math.prod(rows.shape[1:])

    def one(part: slice) -> tuple[Array, Facts]:
        block = np.asarray(rows[part])
        return block, look(block)

    found = []
    label = rows.label if isinstance(rows, FromFiles) else "looking"
    with bar(len(rows), label, delay=1) as progress:
        for block, facts in in_order(one, parts, size):
            keep(block, facts)
            found.append(facts)
            progress.update(len(block))
    return {key: np.concatenate([facts[key] for facts in found]) for key in found[0]}
