"""A study of boxes runs from fetch to report like any other."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_params, train_study

from lossbench.checking import check
from lossbench.params import load_params
from lossbench.reporting.write import write_report

pytestmark = pytest.mark.slow
LOSSES = {
    "cross_entropy": {"name": "cross_entropy"},
    "focal": {"name": "focal", "gamma": 2.0},
    "breaks": {"name": "cross_entropy", "class_weights": [1e38] * 11, "reduction": "sum"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes") / "study"
    content = tiny_params()
    content["datasets"] = {
        "boxes": {
            "source": "digit_scenes", "path": "requirements.lock", "target": "boxes", "train": 96, "validation": 24,
            "test": 32, "reference": 8,
        }
    }  # fmt: skip
    content["experiments"] = {
        "boxes": {
            "task": {"name": "detection", "stride": 4},
            "dataset": "boxes",
            "model": {"name": "grid_detector", "width": 4, "stride": 4, "levels": 1},
            "recipe": {"epochs": 2, "batch_size": 16, "optimizer": {"name": "adam", "learning_rate": 0.01}},
            "metric": "map50",
            "margin": 0.02,
        }
    }
    content["losses"] = LOSSES
    content["arms"] = {
        f"boxes-{loss}": {"experiment": "boxes", "dataset": "boxes", "loss": loss} for loss in LOSSES
    }
    content["seeds"] = [0, 1]
    content["hypotheses"] = {
        "focal_finds_more": {
            "claim": "Focal loss helps where the foreground is rare.", "experiment": "boxes", "better": "focal",
            "than": "cross_entropy", "on": "map50",
        }
    }  # fmt: skip
    train_study(root, content)
    check(load_params(root / "params.yaml"))
    write_report(load_params(root / "params.yaml"), root, root / ".lossbench")
    return root


def test_every_replicate_has_every_metric(study: Path) -> None:
    scores = pd.read_csv(study / "reports/evaluation/boxes/scores.csv")
    trained = scores[scores["loss"] != "breaks"]
    assert set(trained["metric"]) == {"map50", "map", "generalisation_gap"}
    assert len(trained) == 2 * 2 * 3
    assert trained["value"].between(-1, 1).all()


def test_a_replicate_that_diverged_found_nothing(study: Path) -> None:
    scores = pd.read_csv(study / "reports/evaluation/boxes/scores.csv")
    broken = scores[(scores["loss"] == "breaks") & scores["metric"].isin(["map50", "map"])]
    assert broken["diverged"].all()
    assert (broken["value"] == 0).all()


def test_precision_is_reported_per_class(study: Path) -> None:
    table = pd.read_csv(study / "reports/evaluation/boxes/per_class.csv", dtype={"class": str})
    assert set(table["metric"]) == {"ap50", "ap"}
    assert sorted(set(table["class"])) == [str(digit) for digit in range(10)]


def test_the_report_shows_images_with_boxes(study: Path) -> None:
    with np.load(study / "reports/evaluation/boxes/gallery.npz") as arrays:
        assert arrays["targets"].shape == (12, 2, 5)
        assert arrays["decision/boxes-focal"].shape[2] == 6
    page = (study / "reports/index.html").read_text(encoding="utf-8")
    assert "truth: 2 boxes" in page
    assert "2 missed, 0 false" in page
    assert "Focal loss helps where the foreground is rare." in page
