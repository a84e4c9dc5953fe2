"""The gate's benchmark asks the gate as it is now, with the fewest retrainings."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_handful_of_simulated_retrainings_run(tmp_path):
    few = ["--retrainings", "3", "--replicates", "2", "--series", "2"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.gate", *few], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "LOSSBENCH_RESULTS": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads((tmp_path / "gate.json").read_text())
    assert {row["case"] for row in found["rows"]} >= {"A/A", "A/A in fours", "regression"}
    assert all(row["retrainings"] == 3 for row in found["rows"])
