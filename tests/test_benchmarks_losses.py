"""The losses' benchmark writes rows and goals of every library, whatever it was asked for."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_small_shape_on_one_thread_gives_a_row_for_each_library(tmp_path):
    few = ["--small", "--plain", "--rounds", "1", "--seconds", "0", "--threads", "1", "--kinds", "trained"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.losses", *few], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "LOSSBENCH_RESULTS": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads((tmp_path / "losses.json").read_text())
    assert {"machine", "commit", "load", "rows", "goals"} == set(found)
    assert {row["loss"] for row in found["rows"]} == {"CE", "focal", "Dice", "CE+Dice", "Tversky", "Lovász"}
    for row in found["rows"]:
        assert row["rounds"] == 3
        assert (row["ours_over_it"] == 1) == (row["library"] == "lossbench"), row
        assert row["mebibytes"] >= 0
    assert any(goal["name"].startswith("focal") and "kornia" in goal["name"] for goal in found["goals"])
