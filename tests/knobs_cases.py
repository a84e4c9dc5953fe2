"""Digits, damaged or few, and what a replicate trained on them makes of each split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.prediction import predict
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting, prepare
from tests.data_cases import dataset

NETWORK = {"name": "simple_cnn", "width": 8, "layers": 2, "hidden": 32}
ADAM = {"name": "adam", "learning_rate": 0.005}


def digits(folder: Path, **options: Any) -> Dataset:
    """Fetch digits; options are those of a dataset's block in params.yaml."""
    splits = {"validation": 0.15, "test": 0.3, "reference": 0.0}
    fetch(dataset("digits", **{"splits": splits, **options}), "digits", folder)
    return Dataset.open(folder)


def arm(
    data: Dataset,
    loss: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Setting:
    defaults = {"epochs": 20, "batch_size": 32, "optimizer": ADAM, **recipe}
    return prepare(
        task_class("segmentation" if data.info.kind == "mask" else "classification")(data.info),
        data,
        Network(**(network or NETWORK)),
        Recipe(**defaults),
        loss or {"name": "cross_entropy"},
        Compute(),
    )


@dataclass(frozen=True)
class Outcome:
    """Share of right answers on the training labels (as they are, wrong ones included) and on the test split."""

    train: float
    test: float
    recall: np.ndarray
    replicate: Replicate

    @property
    def gap(self) -> float:
        """How much better it does on what it has seen."""
        return self.train - self.test


def outcome(made: Setting, data: Dataset, seed: int = 0) -> Outcome:
    """Train one replicate and score it."""
    replicate = train_replicate(made, Member(seed))
    right = {}
    for name in ("train", "test"):
        split = data.split(name)
        outputs = predict(made.task, made.network, replicate.state, split.inputs, made.compute)
        right[name] = outputs.argmax(1).numpy() == split.targets
    labels = np.asarray(data.split("test").targets)
    recall = np.array([right["test"][labels == label].mean() for label in range(len(data.info.classes))])
    return Outcome(right["train"].mean(), right["test"].mean(), recall, replicate)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
