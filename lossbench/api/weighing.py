"""What only training reads, as somebody holds it in memory: weights, and soft labels."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lossbench.api.arrays import Wanted, as_array
from lossbench.data.dataset import TRAINED
from lossbench.data.rows import Array
from lossbench.data.samples import Samples
from lossbench.data.sources.weighing import ONE
from lossbench.errors import UserError, nearest


def weighed(groups: Mapping[str, Samples], given: Any, wanted: Wanted) -> dict[str, Samples]:
    """Give samples their weights.

    Args:
        groups: split → samples.
        given: a weight for each training sample, (N,), or each pixel of its mask, (N, H, W); or a mapping
            from ``train`` and ``validation`` to these. Where validation samples have none, all count alike:
            they are trained on only where a recipe divides anew.
        wanted: what targets are.

    Raises:
        UserError: naming the split, what was found and what is allowed.

    """
    if given is None:
        return dict(groups)
    of_split = given if isinstance(given, Mapping) else {"train": given}
    unknown = next((str(one) for one in of_split if one not in TRAINED or one not in groups), None)
    if unknown is not None:
        there = [one for one in TRAINED if one in groups]
        raise UserError(f"weights: {unknown}; {nearest(unknown, there)} (scores are never weighted)")
    if "train" not in of_split:
        raise UserError("weights: none of train; expected a number for each training sample")
    found = {split: _weights(one, groups[split], split, wanted) for split, one in of_split.items()}
    if "validation" in groups and "validation" not in found:
        shape = (len(groups["validation"]), *found["train"].shape[1:])
        found["validation"] = np.ones(shape, np.float32)
    if len({one.shape[1:] for one in found.values()}) > 1:
        raise UserError("weights: one split has a number for each sample, the other one for each pixel")
    made = {split: replace(groups[split], weights=one) for split, one in found.items()}
    return {**groups, **made}


def _weights(given: Any, samples: Samples, split: str, wanted: Wanted) -> Array:
    where = f"weights of {split}"
    found = as_array(given, where)
    shapes = [(len(samples),)]
    if wanted.kind == "mask":
        shapes.append(tuple(samples.targets.shape))
    if found.shape not in shapes:
        allowed = " or ".join(map(str, shapes))
        raise UserError(f"{where}: shape {found.shape}; expected {allowed}, as there are samples")
    if found.dtype.kind not in "buif":
        raise UserError(f"{where}: dtype {found.dtype}; expected numbers")
    numbers = found.astype(np.float32)
    wrong = ~np.isfinite(numbers) | (numbers < 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0])
        raise UserError(f"{where}: {found[wrong][0]:g} in sample {row}; allowed: finite numbers ≥ 0")
    return numbers


def soft_labels(given: Any, where: str, wanted: Wanted) -> Array | None:
    """Return distributions over the classes, (N, C) float32; None for targets of any other kind.

    Raises:
        UserError: for numbers that are no probabilities.

    """
    if wanted.kind != "label":
        return None
    found = as_array(given, where)
    if (
        found.ndim != 2
        or found.shape[1] < 2
        or found.dtype.kind != "f"
        or bool((found == np.round(found)).all())
    ):
        return None  # class numbers, or one-hot ones, of which it is said what to do
    if wanted.classes is not None and found.shape[1] != len(wanted.classes):
        raise UserError(
            f"{where}: {found.shape[1]} probabilities a sample, but there are {len(wanted.classes)} classes"
        )
    total = found.sum(axis=1, dtype=np.float64)
    wrong = ~((found >= 0) & (found <= 1)).all(axis=1) | ~(np.abs(total - 1) <= ONE)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{where}: sample {row} holds {found[row].min():g} to {found[row].max():g}, which sum to "
            f"{total[row]:g}; allowed: probabilities that sum to 1"
        )
    made: Array = (found / total[:, None]).astype(np.float32)
    return made


def with_soft(groups: Mapping[str, Samples], wanted: Wanted) -> tuple[dict[str, Samples], Wanted]:
    """Give splits of class numbers the distributions that they are, where others have soft labels.

    Raises:
        UserError: where the training samples have none, or splits differ in their number of classes.

    """
    soft = {split: one.soft for split, one in groups.items() if one.soft is not None}
    if not soft:
        return dict(groups), wanted
    if "train" not in soft:
        raise UserError(
            f"{next(iter(soft))}: soft labels, but those of train are class numbers; give both alike"
        )
    count = soft["train"].shape[1]
    other = next((split for split, one in soft.items() if one.shape[1] != count), None)
    if other is not None:
        raise UserError(f"{other}: {soft[other].shape[1]} probabilities a sample, but train has {count}")
    named = wanted.classes or tuple(str(number) for number in range(count))
    made = {}
    for split, one in groups.items():
        if one.soft is not None or bool((one.labels >= count).any() or (one.labels < 0).any()):
            made[split] = one  # what is no class is said where all targets are looked at
        else:
            made[split] = replace(one, soft=np.eye(count, dtype=np.float32)[one.labels])
    return made, replace(wanted, classes=named)
