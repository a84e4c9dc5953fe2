"""A study with learned weights, a schedule and mixup runs from check to MLflow like any other."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny_params, train_study

from lossbench.checking import check
from lossbench.commands.track import record
from lossbench.params import load_params
from lossbench.reporting.write import write_report

LOSSES = {
    "cross_entropy": {"name": "cross_entropy"},
    "focal": {"name": "focal", "gamma": {"from": 0.0, "to": 2.0, "over": 0.5}},
    "both": {"sum": {"cross_entropy": "learned", "brier": {"name": "brier", "weight": "learned"}}},
}


@pytest.mark.slow
def test_schedules_learned_weights_and_mixup_go_all_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    content = tiny_params()
    content["datasets"].pop("scenes")
    content["experiments"].pop("scenes")
    content["experiments"]["digits"]["recipe"] |= {"epochs": 3, "mixing": {"mixup": 0.2}}
    content["losses"], content["seeds"] = LOSSES, [0, 1]
    content["arms"] = {
        f"digits-{loss}": {"experiment": "digits", "dataset": "digits", "loss": loss} for loss in LOSSES
    }
    root = tmp_path / "study"
    train_study(root, content)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    params = load_params(root / "params.yaml")
    check(params)
    write_report(params, root, root / ".lossbench")
    record()
    scores = pd.read_csv(root / "reports/evaluation/digits/scores.csv")
    assert set(scores["loss"]) == set(LOSSES)
    assert scores["value"].notna().all()
    page = (root / "reports/index.html").read_text()
    assert "mixup" in page
    stated = json.loads((root / "models/digits/digits-focal/arm.json").read_text())["loss_parameters"]
    assert stated["gamma"] == 2.0
    assert stated["changes"] == {"gamma": {"from": 0.0, "to": 2.0, "over": 0.5}}
    client = mlflow.MlflowClient()
    runs = [run for one in client.search_experiments() for run in client.search_runs([one.experiment_id])]
    weights = [key for run in runs for key in run.data.metrics if key.startswith("train/weight_of_")]
    assert {"train/weight_of_cross_entropy", "train/weight_of_brier"} <= set(weights)
