"""Test samples on which the arms disagree most: what the report shows of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Dataset
from lossbench.tasks.base import Task

Array = npt.NDArray[Any]
SAMPLES = 12


def write_gallery(
    folder: Path,
    data: Dataset,
    task: Task,
    decisions: Mapping[str, Array],
    texts: Mapping[str, tuple[str, ...]],
    seed: int,
) -> None:
    """Write ``gallery.npz`` (inputs, targets, one array of decisions per arm) and ``gallery.json``.

    Args:
        folder: where to write.
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
    np.savez_compressed(
        folder / "gallery.npz",
        inputs=test.inputs[order],
        targets=test.targets[order],
        allow_pickle=False,
        **arrays,
    )
    described = {
        "seed": seed,
        "arms": list(decisions),
        "index": [int(i) for i in order],
        "disagreement": [round(float(amount[i]), 6) for i in order],
        "share_disagreeing": float((amount > 0).mean()),
        "texts": {arm: list(said) for arm, said in texts.items() if said},
    }
    text = json.dumps(described, indent=1, ensure_ascii=False)
    (folder / "gallery.json").write_text(text + "\n", encoding="utf-8")
