"""The report where replicates diverged, and where every loss meets every other."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import tiny_params, write_params
from law_cases import mostly_slow

from lossbench.params import load_params
from lossbench.reporting.write import write_report

NEEDS_FINITE_OUTPUTS = "nll|brier|ece"


@pytest.fixture
def study(trained_study: Path, tmp_path: Path) -> Path:
    """A copy of the tiny trained study."""
    shutil.copytree(trained_study, tmp_path / "study")
    return tmp_path / "study"


def report(study: Path) -> pd.DataFrame:
    write_report(load_params(study / "params.yaml"), study, study / ".lossbench")
    board = pd.read_csv(study / "reports/leaderboard.csv")
    return board[board["experiment"] == "digits"]


def digits_alone(study: Path, **changes: Any) -> None:
    content = tiny_params() | changes
    content["experiments"].pop("scenes")
    content["arms"] = {name: one for name, one in content["arms"].items() if one["experiment"] == "digits"}
    write_params(study, content)


def diverge(study: Path, seeds: list[int]) -> None:
    """What evaluation writes for replicates of focal whose outputs are NaN: no calibration, no reliability."""
    folder = study / "reports/evaluation/digits"
    for name in ("scores", "reliability", "calibration"):
        table = pd.read_csv(folder / f"{name}.csv")
        lost = (table["arm"] == "digits-focal") & table["seed"].isin(seeds)
        if name == "scores":
            table.loc[lost, "diverged"] = True
            lost &= table["metric"].str.contains(NEEDS_FINITE_OUTPUTS)
        table[~lost].to_csv(folder / f"{name}.csv", index=False)


@pytest.mark.parametrize("seeds", mostly_slow([[0], [0, 1, 2]], 2))
def test_a_loss_whose_replicates_diverged_never_leads_a_metric_it_has_no_score_for(
    seeds: list[int], study: Path
) -> None:
    diverge(study, seeds)
    digits_alone(study)
    board = report(study)
    nll = board[board["metric"] == "nll"].set_index("loss")
    assert nll.loc["cross_entropy", "rank"] == 1
    assert nll.loc["focal", "rank"] == 2
    assert pd.isna(nll.loc["focal", "mean"])
    assert set(board[board["metric"] == "accuracy"]["loss"]) == {"cross_entropy", "focal"}
    verdicts = json.loads((study / "reports/verdicts.json").read_bytes())["verdicts"]
    assert {one["experiment"]: one["diverged"] for one in verdicts} == {"digits": len(seeds)}


@pytest.mark.slow
def test_with_all_pairs_the_leaderboard_shows_each_loss_against_the_baseline(study: Path) -> None:
    content = tiny_params()
    content["comparison"] |= {"contrasts": "all_pairs", "baseline": "focal"}
    write_params(study, content)
    report(study)
    html = (study / "reports/index.html").read_text()
    badges = dict(
        re.findall(r'<th scope="row">(\w+)</th><td data-head="verdict"><span class="badge ([^"]+)">', html)
    )
    assert badges["focal"] == "baseline"


def test_one_seed_gives_scores_without_intervals_and_no_nan_on_the_page(study: Path) -> None:
    digits_alone(study, seeds=[0])
    for file in (*study.glob("reports/evaluation/*/*.csv"), *study.glob("models/*/*/history.csv")):
        table = pd.read_csv(file, keep_default_na=False)
        if "seed" in table:  # floors have none
            table[table["seed"] == 0].to_csv(file, index=False)
    assert set(report(study)["n"]) == {1}
    html = (study / "reports/index.html").read_text().split("<script>")[0]
    assert "No verdict" in html
    assert "<td>nan</td>" not in html
    assert "No verdict" in (study / "reports/report.md").read_text()
