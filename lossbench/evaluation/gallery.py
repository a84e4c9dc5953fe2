"""Test samples on which the arms disagree most: what the report shows of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Dataset

Array = npt.NDArray[Any]
SAMPLES = 12


def disagreement(decisions: dict[str, Array]) -> Array:
    """Share of positions per sample on which at least two arms decide differently, (N,)."""
    stacked = np.stack(list(decisions.values()))
    differ = (stacked != stacked[:1]).any(axis=0)
    shares: Array = differ.reshape(len(differ), -1).mean(axis=1)
    return shares


def write_gallery(folder: Path, data: Dataset, decisions: dict[str, Array], seed: int) -> None:
    """Write ``gallery.npz`` (inputs, targets, one array of decisions per arm) and ``gallery.json``.

    Args:
        folder: where to write.
        data: the dataset; samples come from its test split.
        decisions: arm → (N, *spatial), the decisions of one seed's replicates.
        seed: which.

    """
    test = data.split("test")
    amount = disagreement(decisions)
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
        "kind": data.info.kind,
        "classes": list(data.info.classes),
        "seed": seed,
        "arms": list(decisions),
        "index": [int(i) for i in order],
        "disagreement": [round(float(amount[i]), 6) for i in order],
        "share_disagreeing": float((amount > 0).mean()),
    }
    (folder / "gallery.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
