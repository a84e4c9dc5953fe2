"""A small study for the tests of tracking: outs and journals written without training."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from lossbench.data.dataset import DatasetInfo
from lossbench.models.base import build
from lossbench.params import Params, load_params
from lossbench.tracking.journal import JournalObserver
from lossbench.training.replicate import Record, Replicate

EPOCHS = 3
CLASSES = ("cat", "dog")


def write_study(root: Path, losses: tuple[str, ...] = ("cross_entropy", "focal"), seeds: int = 2) -> Params:
    """Write params.yaml and a tiny dataset; nothing is trained yet."""
    root.mkdir(parents=True, exist_ok=True)
    arms = {f"toy-{loss}": {"experiment": "toy", "dataset": "toy", "loss": loss} for loss in losses}
    recipe = {"epochs": EPOCHS, "batch_size": 4}
    content = {
        "datasets": {"toy": {"source": "digits", "path": "requirements.lock"}},
        "experiments": {
            "toy": {
                "task": "classification",
                "dataset": "toy",
                "model": {"name": "simple_cnn", "width": 4, "hidden": 8},
                "recipe": recipe,
                "metric": "accuracy",
                "margin": 0.01,
            }
        },
        "losses": {loss: {"name": loss} for loss in losses},
        "arms": arms,
        "seeds": list(range(seeds)),
        "compute": {"device": "cpu"},
        "tuning": {"trials": 0},
        "comparison": {"baseline": losses[0]},
        "tracking": {"log_models": False},
    }
    (root / "params.yaml").write_text(json.dumps(content))
    _write_data(root / "data" / "toy")
    return load_params(root / "params.yaml")


def _write_data(folder: Path) -> None:
    info = DatasetInfo(
        kind="label",
        classes=CLASSES,
        input_shape=(1, 8, 8),
        target_shape=(),
        mean=(0.5,),
        std=(0.25,),
        counts=(4, 4),
        sizes={"train": 8, "validation": 4, "test": 4, "reference": 0},
    )
    folder.mkdir(parents=True)
    info.write(folder)
    generator = np.random.default_rng(0)
    for split in ("test", "validation"):
        (folder / split).mkdir()
        np.save(folder / split / "inputs.npy", generator.integers(0, 255, (4, 1, 8, 8), dtype=np.uint8))
        np.save(folder / split / "targets.npy", np.array([0, 1, 0, 1]))
    rows = [{"id": f"s{index}", "split": "train", "label": CLASSES[index % 2]} for index in range(8)]
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")


def described(params: Params, arm: str) -> dict[str, Any]:
    """What arm.json says before training."""
    chosen = params.arms[arm]
    experiment = params.experiments[chosen.experiment]
    return {
        "arm": arm,
        "experiment": chosen.experiment,
        "dataset": chosen.dataset,
        "loss": chosen.loss,
        "task": "classification",
        "loss_parameters": {"reduction": "mean"},
        "model": experiment.model.model_dump(mode="json"),
        "recipe": experiment.recipe.model_dump(mode="json"),
        "compute": params.compute.model_dump(mode="json"),
        "seeds": list(params.seeds),
    }


def value_of(arm: str, seed: int, epoch: int, shift: float = 0.0) -> float:
    """A curve of its own for every arm and seed."""
    return math.log(len(arm) + seed + 1) / epoch + shift


def replicate(arm: str, seed: int, shift: float = 0.0) -> Replicate:
    """A finished replicate with a made-up history."""
    history = [
        Record(epoch, split, metric, value_of(arm, seed, epoch, shift) + number)
        for epoch in range(1, EPOCHS + 1)
        for number, (split, metric) in enumerate([("train", "loss"), ("validation", "accuracy")])
    ]
    return Replicate(seed, {}, tuple(history), EPOCHS, False, seconds=1.0 + seed)


@contextmanager
def journalled(home: Path, content: Mapping[str, Any]) -> Iterator[JournalObserver]:
    """Journal an attempt; the outcome of the block is its outcome."""
    observer, status = JournalObserver(home, content), "FAILED"
    try:
        yield observer
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        observer.close(status)


def train(root: Path, params: Params, arm: str, shift: float = 0.0, weights: bool = False) -> None:
    """Do what stages/train.py does, with made-up histories: journal first, outs at the end."""
    content = described(params, arm)
    with journalled(root / ".lossbench", content) as observer:
        for seed in params.seeds:
            tell(observer, replicate(arm, seed, shift))
    write_outs(root, params, arm, shift, weights)


def tell(observer: JournalObserver, done: Replicate, until: int = EPOCHS) -> None:
    """Report a replicate epoch by epoch, as training does; ``until`` stops it early, unfinished."""
    observer.started(done.seed, EPOCHS)
    for epoch in range(1, until + 1):
        values = {f"{one.split}/{one.metric}": one.value for one in done.history if one.epoch == epoch}
        observer.epoch(done.seed, epoch, values)
    if until == EPOCHS:
        observer.finished(done)


def write_outs(root: Path, params: Params, arm: str, shift: float = 0.0, weights: bool = False) -> None:
    """Write models/<experiment>/<arm> and the arm's rows of the evaluation."""
    experiment = params.arms[arm].experiment
    folder = root / "models" / experiment / arm
    folder.mkdir(parents=True, exist_ok=True)
    done = [replicate(arm, seed, shift) for seed in params.seeds]
    results = {"epochs": {str(one.seed): one.epoch for one in done}, "diverged": []}
    (folder / "arm.json").write_text(json.dumps({**described(params, arm), **results}))
    with (folder / "history.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seed", "epoch", "split", "metric", "value"])
        for one in done:
            rows.writerows([one.seed, *record] for record in _rows(one))
    if weights:
        network = params.experiments[experiment].model
        for one in done:
            torch.manual_seed(one.seed)
            save_file(build(network, (1, 8, 8), 2).state_dict(), folder / f"seed-{one.seed}.safetensors")
    write_scores(root, params, experiment, shift)


def _rows(one: Replicate) -> list[tuple[int, str, str, float]]:
    return [(record.epoch, record.split, record.metric, record.value) for record in one.history]


def write_scores(root: Path, params: Params, experiment: str, shift: float = 0.0) -> None:
    """Write reports/evaluation/<experiment>/scores.csv for all arms."""
    folder = root / "reports" / "evaluation" / experiment
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"arm": arm, "loss": one.loss, "seed": seed, "metric": metric, "value": value, "diverged": False}
        for arm, one in params.arms_of(experiment).items()
        for seed in params.seeds
        for metric, value in (("accuracy", value_of(arm, seed, 5, shift)), ("nll", value_of(arm, seed, 7)))
    ]
    pd.DataFrame(rows).to_csv(folder / "scores.csv", index=False)


def write_report(root: Path, params: Params, experiment: str = "toy", verdict: str = "better") -> None:
    """Write leaderboard.csv and verdicts.csv as the report does."""
    arms = list(params.arms_of(experiment))
    leaderboard = [
        SimpleNamespace(
            experiment=experiment,
            arm=arm,
            loss=params.arms[arm].loss,
            metric="accuracy",
            mean=0.9 - rank / 10,
            sd=0.01,
            ci_low=0.88 - rank / 10,
            ci_high=0.92 - rank / 10,
            n=len(params.seeds),
            rank=rank + 1,
        )
        for rank, arm in enumerate(arms)
    ]
    verdicts = [
        {
            "experiment": experiment,
            "metric": "accuracy",
            "arm": arm,
            "baseline": arms[0],
            "difference": -0.1,
            "median": -0.1,
            "ci_low": -0.12,
            "ci_high": -0.08,
            "p": 0.01,
            "p_holm": 0.02,
            "margin": 0.01,
            "p_tie": 0.9,
            "n": len(params.seeds),
            "verdict": verdict,
            "seeds_needed": 11,
            "correlation": 0.3,
            "diverged": 0,
        }
        for arm in arms[1:]
    ]
    pd.DataFrame([vars(row) for row in leaderboard]).to_csv(root / "reports" / "leaderboard.csv", index=False)
    pd.DataFrame(verdicts).to_csv(root / "reports" / "verdicts.csv", index=False)
