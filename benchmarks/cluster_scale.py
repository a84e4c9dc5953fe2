"""What MLflow and the report take as arms grow: outs are multiplied, then recorded and reported for real."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fault_study import params
from benchmarks.small_study import fetch_data, multiply, train

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
SEEDS, EPOCHS = 20, 200
COMMANDS = {
    "report": ("-m", "lossbench.stages.report"),
    "MLflow": ("-m", "lossbench", "track"),
    "MLflow, nothing to do": ("-m", "lossbench", "track"),
}


def measured(command: Sequence[str], folder: Path) -> Row:
    """Run a command; seconds by the clock, and of all its processes' processors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "true", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = folder.with_suffix(".log")
    began = time.perf_counter()
    with log.open("ab") as stream:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=stream, stderr=stream
        )
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {child.returncode}\n{log.read_text()[-3000:]}")
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }


def size(*paths: Path) -> float:
    """Megabytes of files, and of all files in folders."""
    files = [one for path in paths for one in (path.rglob("*") if path.is_dir() else [path])]
    return sum(one.stat().st_size for one in files if one.is_file()) / 1e6


def grown(folder: Path, arms: int, seeds: int = SEEDS, epochs: int = EPOCHS) -> list[Row]:
    """Multiply one trained arm to ``arms``, report and record them; a row for each."""
    content = params()
    content["experiments"]["digits"]["recipe"]["epochs"] = 1
    content["arms"] = {name: one for name, one in content["arms"].items() if name.endswith("cross_entropy")}
    content["losses"] = {"cross_entropy": content["losses"]["cross_entropy"]}
    content["seeds"] = [0]
    fetch_data(folder, content)
    train(folder, scores=True)
    multiply(folder, arms, seeds, epochs)
    rows = []
    for what, command in COMMANDS.items():
        row = measured(command, folder)
        kept = (folder / "reports/index.html",) if what == "report" else _mlflow(folder)
        rows.append(
            {"what": what, "arms": arms, "seeds": seeds, "epochs": epochs, **row, "megabytes": size(*kept)}
        )
    return rows


def _mlflow(folder: Path) -> tuple[Path, ...]:
    return tuple(
        one for one in (folder / "mlflow.db", folder / "mlartifacts", folder / "mlruns") if one.exists()
    )
