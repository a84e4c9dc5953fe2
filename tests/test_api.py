"""`lossbench.compare`: the pipeline's bits from a notebook's arrays, and one sentence for what makes no sense."""

import hashlib
import json
import linecache
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, tiny_params
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import lossbench
from lossbench.api import compare as api
from lossbench.api.code import Code, fresh
from lossbench.data.dataset import Dataset as Fetched
from lossbench.execution.jobs import TRAIN
from lossbench.store import Store

CLASSES = {"digits": None, "scenes": ("background", *map(str, range(10)))}
TASKS = {"digits": "classification", "scenes": "segmentation"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, whose store no other test has filled."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOSSBENCH_HOME", "LOSSBENCH_STORE", "LOSSBENCH_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def splits_of(study: Path, dataset: str) -> dict[str, Any]:
    """A study's splits, as a notebook holds them: tensors of the types that torch users have."""
    data, made = Fetched.open(study / "data" / dataset), {}
    for name in ("train", "validation", "test"):
        split = data.split(name)
        made[name] = (torch.from_numpy(np.array(split.inputs)), torch.from_numpy(np.array(split.targets)).long())
    return made


def asked(study: Path, experiment: str, **changes: Any) -> dict[str, Any]:
    """The call that asks what the tiny study's experiment does."""
    block = tiny_params()["experiments"][experiment]
    return {
        "model": block["model"],
        "losses": {"cross_entropy": "cross_entropy", "focal": {"name": "focal", "gamma": 2.0}},
        "task": TASKS[experiment],
        "metric": block["metric"],
        "margin": block["margin"],
        "seeds": 3,
        "recipe": block["recipe"],
        "classes": CLASSES[experiment],
        **splits_of(study, experiment),
        **changes,
    }


def states(folder: Path) -> dict[str, str]:
    """Hash of every replicate's weights, by loss and seed."""
    return {
        f"{file.parent.name.rpartition('-')[2]} {file.stem}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("seed-*.safetensors")
    }


def scores(table: Any) -> list[Any]:
    return sorted(table[["loss", "seed", "metric", "value"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("experiment", ["digits", "scenes"])
def test_what_the_pipeline_has_trained_is_not_trained_again(
    trained_study: Path, here: Path, monkeypatch: pytest.MonkeyPatch, experiment: str
) -> None:
    """From the study's store: the same keys, so the same states and scores, and nothing is computed."""
    import pandas as pd

    monkeypatch.setenv("LOSSBENCH_STORE", str(trained_study / ".lossbench" / "store"))
    monkeypatch.setattr("lossbench.running.in_worker", lambda *_: pytest.fail("a worker was started"))
    monkeypatch.setattr(
        "lossbench.execution.local.LocalExecutor.submit", lambda *_: pytest.fail("something was computed")
    )
    found = lossbench.compare(**asked(trained_study, experiment))
    assert states(found.folder / "models") == states(trained_study / "models" / experiment)
    assert len(states(found.folder / "models")) == 6
    theirs = pd.read_csv(trained_study / "reports/evaluation" / experiment / "scores.csv")
    assert scores(found.scores) == scores(theirs)
