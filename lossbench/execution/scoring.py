"""What is left to do of a replicate's scoring when its outputs are there: nothing that takes a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossbench.data.dataset import Dataset
from lossbench.evaluation.replicates import Predicted, Scored, score_predicted
from lossbench.execution.jobs import SCORES, SHOWN, Score, Train
from lossbench.execution.serialised import array_bytes, plain
from lossbench.store import Store
from lossbench.tasks.base import Task


@dataclass(frozen=True)
class Scoring:
    """A replicate that is predicted and not yet scored; it travels to whoever scores it.

    Attributes:
        job: that trained it, or was to score it.
        predicted: what its weights make of the data.
        key: of its scores.
        shown: key of what is shown of it; None where nothing is.
        code: digest of the code that the key stands for.

    """

    job: Train | Score
    predicted: Predicted
    key: str
    shown: str | None
    code: str


Hand = Callable[[Scoring], None]
"""Takes a scoring to another process, which keeps the scores."""


def keep(scoring: Scoring, task: Task, data: Dataset) -> None:
    """Score, and put the scores into the store.

    Args:
        scoring: what.
        task: that was predicted with.
        data: that were predicted.

    """
    params, store = scoring.job.params, Store(scoring.job.where.store)
    metric = params.experiments[params.arms[scoring.job.arm].experiment].metric
    scored = score_predicted(scoring.predicted, task, metric, data, write=scoring.shown is not None)
    statistics = scored.scores.statistics.get(metric)
    files = {} if statistics is None else {"statistics.npy": array_bytes(statistics.astype(np.float32))}
    store.put(SCORES, scoring.key, _scores(scored), files)
    if scoring.shown is not None:
        texts = {"texts": list(scored.texts)}
        store.put(SHOWN, scoring.shown, texts, {"decisions.npy": array_bytes(scored.decisions)})


def _scores(scored: Scored) -> dict[str, Any]:
    calibration, confusion = scored.calibration, scored.scores.confusion
    content = {
        "finite": scored.finite,
        "threshold": scored.threshold,
        "metrics": dict(scored.scores.metrics),
        "per_class": {metric: list(values) for metric, values in scored.scores.per_class.items()},
        "confusion": None
        if confusion is None
        else [[int(i), int(j), int(confusion[i, j])] for i, j in np.argwhere(confusion > 0)],
        "calibration": None
        if calibration is None
        else {
            "metrics": calibration.metrics,
            "reliability": calibration.reliability,
            "link": calibration.link,
        },
    }
    made: dict[str, Any] = plain(content)
    return made
