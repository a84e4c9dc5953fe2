"""Scoring all replicates of an experiment and writing what the report and MLflow read."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lossbench.data.dataset import Dataset
from lossbench.evaluation.gallery import write_gallery
from lossbench.evaluation.replicates import Scored, score_replicate
from lossbench.params import Experiment, Params
from lossbench.tasks import task_class
from lossbench.tasks.base import Task
from lossbench.training.workers import run_side_by_side
from lossbench.written import EVALUATION, expect_ours


def evaluate(params: Params, name: str, models: Path, data: Path, out: Path) -> None:
    """Score every replicate of experiment ``name`` and write ``out``.

    Args:
        params: of the study.
        name: the experiment.
        models: ``models/<experiment>``, a folder per arm.
        data: ``data/<dataset>``.
        out: ``reports/evaluation/<experiment>``, created.

    """
    experiment = params.experiments[name]
    dataset = Dataset.open(data)
    task = task_class(experiment.task.name)(dataset.info, experiment.task.options)
    arms = {arm: json.loads((models / arm / "arm.json").read_bytes()) for arm in params.arms_of(name)}
    jobs = [
        partial(
            score_replicate,
            models / arm,
            arms[arm],
            seed,
            task,
            experiment.metric,
            dataset,
            params.compute,
            write=seed == params.seeds[0],
        )
        for arm in arms
        for seed in params.seeds
    ]
    scored = run_side_by_side(jobs, label=f"evaluate {name}")
    expect_ours(out, EVALUATION, known=True)
    out.mkdir(parents=True, exist_ok=True)
    _write_tables(out, scored, task)
    _write_floors(out, task, dataset)
    _write_statistics(out, scored, experiment, list(arms), params.seeds)
    first = params.seeds[0]
    shown = [one for one in scored if one.seed == first]
    write_gallery(
        out,
        dataset,
        task,
        {one.arm: one.decisions for one in shown},
        {one.arm: one.texts for one in shown},
        first,
    )


def _write_floors(out: Path, task: Task, data: Dataset) -> None:
    rows = [
        {"floor": name, "metric": metric, "value": value}
        for name, metrics in task.floors(data).items()
        for metric, value in metrics.items()
    ]
    if rows:
        pd.DataFrame(rows).to_csv(out / "floors.csv", index=False, lineterminator="\n")


def _write_tables(out: Path, scored: Sequence[Scored], task: Task) -> None:
    scores, classes, confusion, reliability, calibration = [], [], [], [], []
    names = task.info.classes
    for one in scored:
        who = {"arm": one.arm, "seed": one.seed}
        values = dict(one.scores.metrics)
        if one.calibration is not None:
            values |= one.calibration.metrics
            reliability += [{**who, **row} for row in one.calibration.reliability]
            calibration.append({**who, **one.calibration.link})
        scores += [
            {
                "arm": one.arm,
                "loss": one.loss,
                "seed": one.seed,
                "metric": metric,
                "value": value,
                "diverged": one.diverged,
            }
            for metric, value in values.items()
        ]
        for metric, per_class in one.scores.per_class.items():
            classes += [
                {**who, "metric": metric, "class": label, "value": value}
                for label, value in zip(names, per_class, strict=True)
            ]
        if one.scores.confusion is not None:
            confusion += [
                {**who, "true": names[i], "predicted": names[j], "count": int(one.scores.confusion[i, j])}
                for i, j in np.argwhere(one.scores.confusion > 0)
            ]
    tables = {
        "scores": scores,
        "per_class": classes,
        "confusion": confusion,
        "reliability": reliability,
        "calibration": calibration,
    }
    for file, rows in tables.items():
        if rows:
            pd.DataFrame(rows).to_csv(out / f"{file}.csv", index=False, lineterminator="\n")


def _write_statistics(
    out: Path, scored: Sequence[Scored], experiment: Experiment, arms: Sequence[str], seeds: Sequence[int]
) -> None:
    """Sufficient statistics of the primary metric per arm: (seeds, examples, K), where the task has them."""
    metric = experiment.metric
    if any(metric not in one.scores.statistics for one in scored):
        return
    folder = out / "statistics"
    folder.mkdir(exist_ok=True)
    for arm in arms:
        of_arm = {one.seed: one.scores.statistics[metric] for one in scored if one.arm == arm}
        np.save(folder / f"{arm}.npy", np.stack([of_arm[seed] for seed in seeds]).astype(np.float32))
    described = {"metric": metric, "seeds": list(seeds)}
    (out / "statistics.json").write_text(json.dumps(described) + "\n", encoding="utf-8")
