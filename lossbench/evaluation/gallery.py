"""Test samples on which the arms disagree most: what the report shows of them."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Dataset
from lossbench.tasks.base import Task

Array = npt.NDArray[Any]
SAMPLES = 12


def gallery(
    data: Dataset,
    task: Task,
    decisions: Mapping[str, Array],
    texts: Mapping[str, tuple[str, ...]],
    seed: int,
) -> tuple[dict[str, Any], bytes]:
    """Make the content of ``gallery.json`` and of ``gallery.npz`` (inputs, targets, one array per arm).

    Args:
        data: the dataset; samples come from its test split.
        task: says how far decisions differ.
        decisions: arm → (N, ...), the decisions of one seed's replicates.
        texts: arm → what its replicate generated.
        seed: which.

    """
    test = data.split("test")
    amount = task.disagreement(list(decisions.values()))
    order = np.argsort(-amount, kind="stable")[:SAMPLES]
    arrays = {f"decision/{arm}": decided[order] for arm, decided in decisions.items()}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, inputs=test.inputs[order], targets=test.targets[order], allow_pickle=False, **arrays
    )
    described = {
        "seed": seed,
        "arms": list(decisions),
        "index": [int(i) for i in order],
        "disagreement": [round(float(amount[i]), 6) for i in order],
        "share_disagreeing": float((amount > 0).mean()),
        "texts": {arm: list(said) for arm, said in texts.items() if said},
    }
    return described, buffer.getvalue()
