"""What everything around training costs: `python -m benchmarks.overhead`.

Runs the default `make repro` in a fresh copy of this checkout, with a probe in every Python process, and says
by program where the processors' time went: training proper (the workers of tune and train), imports, the
rest, and how long processors had nothing to do. Around training is all but training proper: the clock's
seconds less those for which training proper keeps all processors busy. Then one arm is trained for longer
with the live shipper beside it, for what MLflow costs while training runs: about two minutes, as long as an
arm trains before it gets a shipper at all. What the shipper does once, but for its imports, counts as if it
did it again in every two minutes: an upper bound. Prints a table and writes
benchmarks/results/overhead.json. `--params FILE` takes another comparison than the default one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import commit, machine, write
from benchmarks.probe import Process, read, site_folder, workers_cpu

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
HOUR = 3600.0
TRAINING = ("stages.tune", "stages.train")
LIVE = """
import sys
from lossbench.params import load_params
from lossbench.tracking import journal
from stages import train

journal.LIVE_AFTER = 0.0  # at once: what is measured is the shipper
params = load_params()
name = next(iter(params.arms))
chosen = params.experiments[params.arms[name].experiment]
recipe = chosen.recipe.model_copy(update={"epochs": chosen.recipe.epochs * int(sys.argv[1])})
longer = {**params.experiments, params.arms[name].experiment: chosen.model_copy(update={"recipe": recipe})}
train.main(params.model_copy(update={"experiments": longer}), name)
"""


def checkout(folder: Path, params: Path) -> Path:
    """Copy the code into a folder of its own, as a repository for git and DVC, without outs."""
    for name in ("lossbench", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "requirements.lock", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(params, folder / "params.yaml")
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> float:
    """Run a command in the copy; seconds."""
    path = f"{BIN}{os.pathsep}{environment['PATH']}"
    began = time.perf_counter()
    with (folder / "overhead.log").open("ab") as log:
        ended = subprocess.run(
            command, cwd=folder, env={**environment, "PATH": path}, stdout=log, stderr=log, check=False
        )
    if ended.returncode:
        text = (folder / "overhead.log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"{' '.join(command[1:3])}: exit code {ended.returncode}\n{text[-3000:]}")
    return time.perf_counter() - began


def replicates(folder: Path) -> list[tuple[float, float]]:
    """When each finished replicate was kept, and how many seconds its training took."""
    return [
        (file.stat().st_mtime, float(json.loads(file.read_bytes())["seconds"]))
        for file in (folder / ".lossbench/replicates").glob("*/replicate.json")
    ]


def by_program(processes: Sequence[Process], trained: float) -> list[Row]:
    """Add up the processor seconds of each program: a stage, DVC, the entry point.

    Training proper is what the workers of tune and train took, or the replicates' own seconds ``trained``
    where they are fewer: so that neither a worker's start nor its waiting for a processor counts as training.
    """
    workers = {one.pid: workers_cpu(one, processes) for one in processes}
    of_workers = sum(workers[one.pid] for one in processes if one.module in TRAINING)
    proper = min(1.0, trained / of_workers) if of_workers else 0.0
    rows: dict[str, Row] = {}
    for one in processes:
        parts = ("processes", "seconds", "training", "imports", "rest")
        row = rows.setdefault(one.module, dict.fromkeys(parts, 0))
        seconds = one.cpu + workers[one.pid]
        training = proper * workers[one.pid] if one.module in TRAINING else 0.0
        row["processes"] += 1
        row["seconds"] += seconds
        row["training"] += training
        row["imports"] += one.imports_cpu
        row["rest"] += seconds - training - one.imports_cpu
    return [{"what": name, **row} for name, row in rows.items()]


def idle(rows: Sequence[Row], wall: float, cores: int) -> Row:
    """Say how long processors had nothing to do."""
    left = wall * cores - sum(row["seconds"] for row in rows)
    nothing = {"processes": 0, "training": 0.0, "imports": 0.0}
    return {"what": "idle processors", **nothing, "seconds": left, "rest": left}


def hashing(folder: Path, stages: int) -> float:
    """Seconds that our own hashing of code and data takes in the stages that open a store."""
    code = (
        "import json, time; from pathlib import Path; from lossbench.training.store import *\n"
        "began = time.perf_counter(); code_hash(); code = time.perf_counter() - began\n"
        "began = time.perf_counter(); [data_hash(one) for one in Path('data').iterdir()]\n"
        "print(json.dumps([code, time.perf_counter() - began]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    of_code, of_data = json.loads(ended.stdout)
    return float(stages * (of_code + of_data))


def live(folder: Path, times: int) -> Row:
    """Train one arm ``times`` longer with the live shipper beside it; core-seconds of both."""
    environment = site_folder(folder / "live") | {"LOSSBENCH_FRESH": "1"}
    before = {when for when, _ in replicates(folder)}
    wall = run([sys.executable, "-c", LIVE, str(times)], folder, environment)
    deadline = time.monotonic() + 60
    while not (found := _shippers(folder / "live")) and time.monotonic() < deadline:
        time.sleep(0.2)  # it looks at the journals every two seconds
    shipper = sum(one.cpu for one in found)
    training = sum(seconds for when, seconds in replicates(folder) if when not in before)
    start = sum(one.imports_cpu for one in found)
    return {"wall": wall, "training": training, "shipper": shipper, "shipper_start": start}


def _shippers(folder: Path) -> list[Process]:
    log = folder / "log.jsonl"
    return [one for one in read(folder) if "--live" in one.argv] if log.exists() else []


def journal(folder: Path) -> float:
    """Seconds that one epoch's entry in the journal costs training, the sampling of the load included."""
    code = (
        "import time; from pathlib import Path; from lossbench.tracking.journal import JournalObserver\n"
        "values = {'train/loss': 1.0, 'validation/loss': 1.0, 'validation/accuracy': 0.5}\n"
        "described = {'arm': 'a', 'experiment': 'e'}\n"
        "with JournalObserver.open(Path('journal-cost'), described) as observer:\n"
        "    observer.started(0, 2000)\n"
        "    began = time.perf_counter()\n"
        "    for epoch in range(2000): observer.epoch(0, epoch + 1, values)\n"
        "    print((time.perf_counter() - began) / 2000)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


def epochs(folder: Path) -> int:
    """Count the epochs of all finished replicates."""
    total = 0
    for file in (folder / ".lossbench/replicates").glob("*/replicate.json"):
        total += max(entry[0] for entry in json.loads(file.read_bytes())["history"])
    return total


def conclude(wall: float, rows: Sequence[Row], cores: int, entry: float, count: int, shown: Row) -> Row:
    """Draw shares from the seconds.

    Args:
        wall: of the whole run.
        rows: processor seconds by program.
        cores: that train side by side.
        entry: seconds of one entry in the journal.
        count: epochs journalled.
        shown: what :func:`live` found.

    """
    training = sum(row["training"] for row in rows) / cores
    fixed = wall - training
    rate = (shown["shipper"] - shown["shipper_start"]) / shown["training"]
    of_journal = entry * count / (training * cores)
    hour = HOUR * cores  # core-seconds
    mlflow_hour = shown["shipper_start"] / hour + rate + of_journal
    return {
        "wall": wall,
        "training": training,
        "around": fixed,
        "share": fixed / wall,
        "journal_share": of_journal,
        "shipper_core_seconds_per_training_core_second": rate,
        "mlflow_share_of_an_hour": mlflow_hour,
        "share_of_an_hour": (fixed / HOUR + mlflow_hour) / (1 + fixed / HOUR + mlflow_hour),
    }


def goals(found: Row) -> list[Row]:
    """Hold the shares against the goals."""
    wanted = (
        ("everything around training, share of the default `make repro`", "share", 0.35),
        ("everything around training, extrapolated to an hour of training", "share_of_an_hour", 0.02),
        ("MLflow while training runs (journal and live shipper), share of an hour's training",
         "mlflow_share_of_an_hour", 0.01),
        ("MLflow's journal in the default run, share of training time", "journal_share", 0.01),
    )  # fmt: skip
    return [
        {"name": name, "goal": bound, "measured": round(found[key], 4), "met": found[key] <= bound}
        for name, key, bound in wanted
    ]


def show(rows: Sequence[Row], total: float) -> None:
    heads = (("processes", 11), ("seconds", 9), ("share", 8), ("training", 10), ("imports", 9), ("rest", 8))
    print("\nprocessor seconds" + " " * 33 + "".join(f"{head:>{width}}" for head, width in heads))
    for row in rows:
        print(
            f"{row['what']:<50}{row['processes']:>11}{row['seconds']:>9.2f}{row['seconds'] / total:>8.1%}"
            + "".join(f"{row[key]:>{width}.2f}" for key, width in heads[3:])
        )


def rounded(row: Row) -> Row:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument("--longer", type=int, default=40, help="times the epochs of the arm shown live")
    parser.add_argument("--name", default="overhead", help="of the JSON in benchmarks/results")
    given = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkout(Path(temporary) / "copy", given.params)
        environment = site_folder(folder / "probe")
        wall = run([sys.executable, "-m", "lossbench", "run"], folder, environment)
        processes = read(folder / "probe")
        rows = by_program(processes, sum(seconds for _, seconds in replicates(folder)))
        rows.append(idle(rows, wall, cores))
        count = epochs(folder)
        opened = sum(row["processes"] for row in rows if row["what"] in TRAINING)
        within = hashing(folder, opened)
        found = conclude(wall, rows, cores, journal(folder), count, live(folder, given.longer))
    keys = ("processes", "seconds", "training", "imports", "rest")
    rows.append({"what": "all", **{key: sum(row[key] for row in rows) for key in keys}})
    show(rows, wall * cores)
    print(f"\n{wall:.1f} s by the clock; hashing of code and data, within tune and train: {within:.2f} s")
    checked = goals(found)
    print("\ngoals")
    for one in checked:
        met = "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>8.2%} ≤ {one['goal']:<6.0%} {one['name']}")
    result = {
        "machine": f"{machine('torch', 'dvc', 'mlflow', 'great-expectations')}; {cores} cores",
        "commit": commit(),
        "rows": [rounded(row) for row in rows],
        "hashing_seconds": round(within, 4),
        "shares": rounded(found),
        "goals": checked,
    }
    print(f"written: {write(given.name, result)}")


if __name__ == "__main__":
    main()
