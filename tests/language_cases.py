"""Small texts made on the spot, and what the language tests share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.params import Dataset as Block
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.tasks.language import LanguageModel
from lossbench.training.loop import train_replicate
from lossbench.training.prediction import predicting
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Member, Setting, prepare

SMALL = {"name": "lstm", "embedding": 16, "hidden": 32, "layers": 1, "truncate": 0}
NURSERY = "the cat sat on the mat.\na dog ran to the hat.\nthe rat had a nap on a map.\n"


def block(source: str = "text_file", path: Path | str = "requirements.lock", **options: Any) -> Block:
    return Block.model_validate({"source": source, "path": str(path), **options})


def dataset(folder: Path, text: str, **options: Any) -> Dataset:
    """Fetch a text as a user would."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "text.txt"
    file.write_text(text, encoding="utf-8")
    fetch(block(path=file, **{"length": 16, **options}), "words", folder / "data")
    return Dataset.open(folder / "data")


def task(data: Dataset, **options: Any) -> LanguageModel:
    made = task_class("language_model")(data.info, options)
    assert isinstance(made, LanguageModel)
    return made


def setting(
    data: Dataset,
    network: Mapping[str, Any] = SMALL,
    loss: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Setting:
    defaults = {"epochs": 6, "batch_size": 8, "optimizer": {"name": "adam", "learning_rate": 0.02}}
    return prepare(
        task(data),
        data,
        Network(**network),
        Recipe(**{**defaults, **recipe}),
        loss or {"name": "cross_entropy"},
        Compute(**(compute or {})),
    )


def train(made: Setting, seed: int = 0) -> Replicate:
    return train_replicate(made, Member(seed))


def score_test(made: Setting, replicate: Replicate, data: Dataset, fitted: bool = True) -> dict[str, float]:
    """Score the test split as evaluation does: at the temperature that validation data chose."""
    assert isinstance(made.task, LanguageModel)
    test = data.split("test")
    with predicting(made.task, made.network, replicate.state, test.inputs, made.compute) as predictor:
        if fitted:
            held_out = data.split("validation")
            digests = predictor.digests(held_out)[0]
            predictor.task = made.task.adapted(digests, np.asarray(held_out.targets))
        return predictor.task.score(predictor.digests(test)[0], np.asarray(test.targets)).metrics
