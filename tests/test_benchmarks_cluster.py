"""What benchmarks.cluster measures on: outs that were multiplied are read as if they had been trained."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny_params, write_params

from benchmarks.small_study import multiply
from lossbench.params import load_params
from lossbench.reporting.write import write_report
from lossbench.tracking.track import track

ARMS, SEEDS, EPOCHS = 3, 2, 4


@pytest.mark.slow
def test_multiplied_outs_are_reported_and_recorded_whole(
    trained_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = Path(shutil.copytree(trained_study, tmp_path / "study"))
    content = tiny_params()
    content.pop("hypotheses")
    write_params(root, content | {"tracking": {"log_models": False}})
    multiply(root, ARMS, SEEDS, EPOCHS)
    params = load_params(root / "params.yaml")
    assert len(params.arms) == ARMS
    write_report(params, root, root / ".lossbench")
    board = pd.read_csv(root / "reports/leaderboard.csv")
    assert set(board["arm"]) == set(params.arms)
    assert set(board["n"]) == {SEEDS}
    assert len(pd.read_csv(root / "reports/verdicts.csv")) == ARMS - 1
    tracked = track(params, root)
    assert (len(tracked.written), tracked.missing) == (ARMS, ())
    assert len(track(params, root).present) == ARMS
