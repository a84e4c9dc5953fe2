"""A study on a folder of images that grows, retrained."""

import csv
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from conftest import write_params
from dvc_cases import checkout, python
from PIL import Image

from lossbench.data.sources.digits import load_digits

NAME = "tiny"


def add_images(folder: Path, first: int, count: int) -> None:
    """Put digits 0, 1 and 2 into folders by class, ``count`` of each, beginning with the ``first``."""
    images, labels = load_digits()
    for label in (0, 1, 2):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(labels == label)[first : first + count]:
            Image.fromarray(images[index]).save(folder / str(label) / f"{index:04d}.png")


def params() -> dict[str, Any]:
    recipe = {"epochs": 6, "batch_size": 16, "optimizer": {"learning_rate": 0.01}}
    losses = {"cross_entropy": {"name": "cross_entropy"}, "hinge": {"name": "hinge"}}
    return {
        "root": ".",
        "code": "plugins",
        "datasets": {
            "mine": {
                "source": "image_folder",
                "path": "images",
                "splits": {"validation": 0.2, "test": 0.3, "reference": 0.1},
            }
        },
        "experiments": {
            "mine": {
                "task": "classification",
                "dataset": "mine",
                "model": {"name": "simple_cnn", "width": 4, "layers": 2, "hidden": 0},
                "recipe": recipe,
                "metric": "accuracy",
                "margin": 0.01,
            }
        },
        "losses": losses,
        "arms": {f"mine-{loss}": {"experiment": "mine", "dataset": "mine", "loss": loss} for loss in losses},
        "seeds": [0, 1, 2],
        "compute": {"device": "cpu"},
        "tuning": {"trials": 0},
        "comparison": {"baseline": "cross_entropy"},
        "retraining": {"model_name": NAME, "floor": 0.5, "max_class_drop": 0.5},
    }


def growing_study(folder: Path) -> Path:
    """A study on a folder of images, not trained yet."""
    folder.mkdir()
    checkout(folder)
    write_params(folder, params())
    add_images(folder / "images", 0, 30)
    return folder


def retrain(study: Path, verb: str = "retrain", **more: str) -> subprocess.CompletedProcess[str]:
    return python(study, "lossbench", verb, **more)


def records(study: Path) -> list[dict[str, str]]:
    with (study / "reports/retraining.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def aliases(study: Path) -> dict[str, str]:
    """What the registry says, read from its file: MLflow's own client would keep an old one open."""
    with closing(sqlite3.connect(study / "mlflow.db")) as database:
        rows = database.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", (NAME,))
        return {alias: str(version) for alias, version in rows}


def runs(study: Path) -> int:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    return sum(len(client.search_runs([one.experiment_id])) for one in client.search_experiments())
