"""Weights and soft labels through the whole chain: what weighs nothing teaches nothing, and is scored all the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import write_params
from dvc_cases import checkout, lossbench
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SPLITS = ["train"] * 24 + ["val"] * 8 + ["test"] * 16
TAUGHT = [number for number, split in enumerate(SPLITS) if split == "train" and number % 3]
"""Two of three training samples have a wrong label, which weighs nothing."""


def lit(folder: Path) -> pd.DataFrame:
    """Pictures of which one half is lit, and a table of what is true of them."""
    (folder / "pictures").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number, split in enumerate(SPLITS):
        pixels = rng.integers(0, 60, (8, 8), np.uint8)
        pixels[:, 4 * (number % 2) : 4 * (number % 2) + 4] += 150
        Image.fromarray(pixels).save(folder / f"pictures/{number}.png")
        rows.append({"image": f"pictures/{number}.png", "split": split, "side": number % 2})
    return pd.DataFrame(rows)


def labels(folder: Path) -> None:
    """A table whose wrong labels weigh nothing, and whose wrong probabilities stand beside right ones."""
    made = lit(folder)
    side = made.pop("side")
    wrong = side.index.isin(TAUGHT)
    made["label"] = np.where(side ^ wrong, "right", "left")
    made["weight"] = np.where(wrong, 0.0, 2.0)
    made["p_left"] = np.where(side, 0.1, 0.9)
    made["p_right"] = 1 - made["p_left"]
    made.to_csv(folder / "samples.csv", index=False)


def masks(folder: Path) -> None:
    """Masks of the lit half, wrong in the lower rows of the training split, where pixels weigh nothing."""
    made = lit(folder)
    made.pop("side")
    for part in ("masks", "maps"):
        (folder / part).mkdir()
        made["mask" if part == "masks" else "weights"] = [f"{part}/{number}.png" for number in made.index]
    for number, split in enumerate(SPLITS):
        mask, weights = np.zeros((8, 8), np.uint8), np.ones((8, 8), np.uint8)
        mask[:, 4 * (number % 2) : 4 * (number % 2) + 4] = 1
        if split == "train":
            mask[3:], weights[3:] = 1 - mask[3:], 0
        Image.fromarray(mask).save(folder / f"masks/{number}.png")
        Image.fromarray(weights).save(folder / f"maps/{number}.png")
    made.to_csv(folder / "samples.csv", index=False)


def multilabel(folder: Path) -> None:
    """A table with a column per label, whose wrong labels weigh nothing."""
    made = lit(folder)
    wrong = made.index.isin(TAUGHT)
    right = (made.pop("side") ^ wrong).astype(int)
    made = made.rename(columns={"image": "file"}).assign(left=1 - right, right=right)
    made["weight"] = np.where(wrong, 0, 1)
    made.to_csv(folder / "labels.csv", index=False)


DATASETS: Mapping[str, Mapping[str, Any]] = {
    "weighed": {"source": "table", "path": "mine/labels"},
    "soft": {
        "source": "table", "path": "mine/labels", "weight": None, "classes": ["left", "right"],
        "probabilities": ["p_left", "p_right"],
    },
    "pixels": {"source": "table", "path": "mine/masks"},
    "several": {"source": "multilabel_csv", "path": "mine/multilabel"},
}  # fmt: skip
CNN = {"name": "simple_cnn", "width": 4, "layers": 2, "hidden": 0}
TASKS: Mapping[str, tuple[str, Mapping[str, Any], str, str]] = {
    "labels": ("classification", CNN, "accuracy", "cross_entropy"),
    "masks": ("segmentation", {"name": "unet", "width": 4, "depth": 1}, "mean_iou", "cross_entropy"),
    "multilabel": ("multilabel", CNN, "macro_f1", "binary_cross_entropy"),
}


def params() -> dict[str, Any]:
    """All datasets, each with one experiment and two losses."""
    experiments, arms = {}, {}
    for name, block in DATASETS.items():
        task, model, metric, plain = TASKS[Path(block["path"]).name]
        recipe = {"epochs": 20, "batch_size": 4, "optimizer": {"name": "adam", "learning_rate": 0.02}}
        experiments[name] = {
            "task": task, "dataset": name, "model": model, "recipe": recipe, "metric": metric, "margin": 0.02
        }  # fmt: skip
        arms |= {
            f"{name}-{loss}": {"experiment": name, "dataset": name, "loss": loss}
            for loss in (plain, "focal" if name != "soft" else "brier")
        }
    return {
        "root": ".", "code": "plugins", "datasets": {name: dict(one) for name, one in DATASETS.items()},
        "experiments": experiments, "arms": arms, "seeds": [0, 1], "compute": {"device": "cpu"},
        "losses": {name: {"name": name} for name in ("cross_entropy", "binary_cross_entropy", "focal", "brier")},
        "tuning": {"trials": 0},
        "comparison": {"baseline": "cross_entropy", "baselines": {"several": "binary_cross_entropy"}},
    }  # fmt: skip


def test_weights_and_soft_labels_reach_training_and_nothing_else(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    for make in (labels, masks, multilabel):
        make(folder / "mine" / make.__name__)
    write_params(folder, params())
    ran = lossbench(folder, "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    reached = {}
    for name, one in params()["experiments"].items():
        scores = pd.read_csv(folder / f"reports/evaluation/{name}/scores.csv")
        reached[name] = scores[scores["metric"] == one["metric"]]["value"]
    assert all(values.mean() > 0.5 for values in reached.values()), reached  # most labels are wrong
    page = (folder / "reports/index.html").read_text()
    assert all(name in page for name in DATASETS)
