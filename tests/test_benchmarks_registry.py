"""A few of the cases of benchmarks.registry, the real registry behind a proxy, and real deaths."""

import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("part", ["proxy", "kills"])
def test_no_spoiled_answer_and_no_death_costs_the_champion(part, tmp_path):
    command = [sys.executable, "-m", "benchmarks.registry", "--every", "601", "--only", part]
    ran = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "LOSSBENCH_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("met  ") == 3, ran.stdout
    assert "MISSED" not in ran.stdout, ran.stdout
