"""What everything around training costs: `python -m benchmarks.overhead`.

Runs the default `make repro` in a fresh copy of this checkout, with a probe in every Python process, and says
by program where the processors' time went: training proper (the workers of the pool), imports, the rest, how
long processors had nothing to do, how many processes there were and how many of them imported torch. Around
training is all but training proper: the clock's seconds less those for which training proper keeps all
processors busy. Then one arm is trained for longer with the live shipper beside it, for what MLflow costs
while training runs: about two minutes, as long as an arm trains before it gets a shipper at all. What the
shipper does once, but for its imports, counts as if it did it again in every two minutes: an upper bound. At
last three runs in which nothing is trained, each the best of some: `dvc repro` with nothing changed; a run
whose replicates are all in the store while dvc.lock is gone; and the same with many arms, alike but for their
names. Prints a table and writes benchmarks/results/overhead.json. `--params FILE` takes another comparison
than the default one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.common import commit, machine, write
from benchmarks.probe import Process, read, site_folder, workers_cpu
from lossbench.store import Store
from lossbench.system import processors

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
HOUR = 3600.0
TRAINING = "workers"
ARMS = 50
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
    for name in ("lossbench", "stages", "plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "looks.yaml", "requirements.lock", ".dvcignore", ".gitignore"):
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


def replicates(folder: Path) -> dict[str, dict[str, Any]]:
    """What the store says of each finished replicate, trials of searches among them."""
    store = Store(str(folder / ".lossbench/store"))
    found = {key: store.get(kind, key) for kind, key in store.entries() if kind == "replicates"}
    return {key: dict(entry.content) for key, entry in found.items() if entry is not None}


def seconds_of(found: Iterable[dict[str, Any]]) -> float:
    """How long replicates took to train."""
    return sum(float(one["seconds"]) for one in found)


def ended(folder: Path, processes: int) -> list[Process]:
    """Read what a run's processes wrote; the workers' server ends a moment after its driver."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = read(folder)
        if sum(one.module == TRAINING for one in found) >= processes:
            return found
        time.sleep(0.1)
    raise RuntimeError("the workers' server wrote nothing: it was killed, or still runs")


def by_program(processes: Sequence[Process], trained: float) -> list[Row]:
    """Add up the processor seconds of each program: a stage, DVC, the entry point.

    Training proper is what the pool's workers took, or the replicates' own seconds ``trained`` where they
    are fewer: so that neither a worker's start nor its waiting for a processor counts as training.
    """
    workers = {one.pid: workers_cpu(one, processes) for one in processes}
    of_workers = sum(workers[one.pid] for one in processes if one.module == TRAINING)
    proper = min(1.0, trained / of_workers) if of_workers else 0.0
    rows: dict[str, Row] = {}
    for one in processes:
        parts = ("processes", "torch", "seconds", "training", "imports", "rest")
        row = rows.setdefault(one.module, dict.fromkeys(parts, 0))
        seconds = one.cpu + workers[one.pid]
        training = proper * workers[one.pid] if one.module == TRAINING else 0.0
        row["processes"] += 1
        row["torch"] += one.torch
        row["seconds"] += seconds
        row["training"] += training
        row["imports"] += one.imports_cpu
        row["rest"] += seconds - training - one.imports_cpu
    return [{"what": name, **row} for name, row in rows.items()]


def idle(rows: Sequence[Row], wall: float, cores: int) -> Row:
    """Say how long processors had nothing to do."""
    left = wall * cores - sum(row["seconds"] for row in rows)
    nothing = {"processes": 0, "torch": 0, "training": 0.0, "imports": 0.0}
    return {"what": "idle processors", **nothing, "seconds": left, "rest": left}


def keys(folder: Path) -> float:
    """Seconds in which a driver makes the keys of all arms and looks them up, its imports aside."""
    code = (
        "import time; from pathlib import Path\n"
        "from lossbench.execution.fill import Arm; from lossbench.params import load_params\n"
        "from lossbench.store import Store\n"
        "params, store = load_params(), Store('.lossbench/store')\n"
        "began = time.perf_counter()\n"
        "for name in params.arms:\n"
        "    arm = Arm(params, name, Path.cwd())\n"
        "    found, _ = arm.found(store)\n"
        "    [store.get('replicates', key) for key in arm.replicates(found or {'best': {}}).keys]\n"
        "print(time.perf_counter() - began)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


def without_lock(folder: Path) -> None:
    """Let DVC forget what it has run; the store stays."""
    (folder / "dvc.lock").unlink()
    shutil.rmtree(folder / ".dvc/cache/runs", ignore_errors=True)


def more_arms(folder: Path, count: int) -> None:
    """Give the first experiment as many arms as make ``count`` in all, alike but for their names."""
    yaml = YAML(typ="safe")
    content = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    arm = next(iter(content["arms"].values()))
    for number in range(count - len(content["arms"])):
        content["losses"][f"copy{number}"] = dict(content["losses"][arm["loss"]])
        content["arms"][f"copy{number}"] = {**arm, "loss": f"copy{number}"}
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)


def untrained(folder: Path, rounds: int, arms: int) -> Row:
    """Time what runs when nothing is to be trained: the best of some rounds."""
    before = set(replicates(folder))
    environment = dict(os.environ)
    lossbench = [sys.executable, "-m", "lossbench", "run"]

    def collected() -> float:
        without_lock(folder)
        return run(lossbench, folder, environment)

    found = {
        "idle_dvc_repro": min(run([str(BIN / "dvc"), "repro"], folder, environment) for _ in range(rounds)),
        "all_in_the_store": min(collected() for _ in range(rounds)),
    }
    more_arms(folder, arms)
    found["many_arms_in_the_store"] = collected()
    if set(replicates(folder)) != before:
        raise RuntimeError("a run whose replicates are in the store has trained some")
    return found


def live(folder: Path, times: int) -> Row:
    """Train one arm ``times`` longer with the live shipper beside it; core-seconds of both."""
    environment = site_folder(folder / "live")
    before = replicates(folder)
    wall = run([sys.executable, "-c", LIVE, str(times)], folder, environment)
    deadline = time.monotonic() + 60
    while not (found := _shippers(folder / "live")) and time.monotonic() < deadline:
        time.sleep(0.2)  # it looks at the journals every two seconds
    shipper = sum(one.cpu for one in found)
    training = seconds_of(one for key, one in replicates(folder).items() if key not in before)
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
        "observer = JournalObserver(Path('journal-cost'), described)\n"
        "observer.started(0, 2000)\n"
        "began = time.perf_counter()\n"
        "for epoch in range(2000): observer.epoch(0, epoch + 1, values)\n"
        "print((time.perf_counter() - began) / 2000)\n"
        "observer.close('FINISHED')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(ended.stdout)


def epochs(found: Iterable[dict[str, Any]]) -> int:
    """Count the epochs of replicates."""
    return sum(max(entry[0] for entry in one["history"]) for one in found)


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
        ("everything around training, share of the default `make repro`", "share", 0.20),
        ("everything around training, extrapolated to an hour of training", "share_of_an_hour", 0.01),
        ("MLflow while training runs (journal and live shipper), share of an hour's training",
         "mlflow_share_of_an_hour", 0.01),
        ("MLflow's journal in the default run, share of training time", "journal_share", 0.01),
        ("`dvc repro` with nothing changed, seconds", "idle_dvc_repro", 1.5),
        ("`make repro` with all replicates in the store, dvc.lock gone, seconds", "all_in_the_store", 15.0),
        (f"the same with {ARMS} arms, seconds", "many_arms_in_the_store", 45.0),
    )  # fmt: skip
    return [
        {"name": name, "goal": bound, "measured": round(found[key], 4), "met": found[key] <= bound}
        for name, key, bound in wanted
    ]


def show(rows: Sequence[Row], total: float) -> None:
    heads = (
        ("processes", 11),
        ("torch", 7),
        ("seconds", 9),
        ("share", 8),
        ("training", 10),
        ("imports", 9),
        ("rest", 8),
    )
    print("\nprocessor seconds" + " " * 33 + "".join(f"{head:>{width}}" for head, width in heads))
    for row in rows:
        print(
            f"{row['what']:<50}{row['processes']:>11}{row['torch']:>7}"
            + f"{row['seconds']:>9.2f}{row['seconds'] / total:>8.1%}"
            + "".join(f"{row[key]:>{width}.2f}" for key, width in heads[4:])
        )


def rounded(row: Row) -> Row:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument("--longer", type=int, default=40, help="times the epochs of the arm shown live")
    parser.add_argument("--rounds", type=int, default=3, help="of the runs that train nothing")
    parser.add_argument("--arms", type=int, default=ARMS, help="of the last run")
    parser.add_argument("--name", default="overhead", help="of the JSON in benchmarks/results")
    given = parser.parse_args(arguments)
    cores = processors()
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkout(Path(temporary) / "copy", given.params)
        environment = site_folder(folder / "probe")
        wall = run([sys.executable, "-m", "lossbench", "run"], folder, environment)
        processes = ended(folder / "probe", 1)
        trained = list(replicates(folder).values())
        rows = by_program(processes, seconds_of(trained))
        rows.append(idle(rows, wall, cores))
        looked_up = keys(folder)
        empty = untrained(folder, given.rounds, given.arms)
        shown = live(folder, given.longer)
        found = conclude(wall, rows, cores, journal(folder), epochs(trained), shown) | empty
    names = ("processes", "torch", "seconds", "training", "imports", "rest")
    rows.append({"what": "all", **{key: sum(row[key] for row in rows) for key in names}})
    show(rows, wall * cores)
    print(f"\n{wall:.1f} s by the clock; all keys made and looked up, by each driver: {looked_up:.2f} s")
    checked = goals(found)
    print("\ngoals")
    for one in checked:
        met = "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>9.4f} ≤ {one['goal']:<6.2f} {one['name']}")
    result = {
        "machine": f"{machine('torch', 'dvc', 'mlflow', 'great-expectations')}; {cores} cores",
        "commit": commit(),
        "rows": [rounded(row) for row in rows],
        "keys_seconds": round(looked_up, 4),
        "shares": rounded(found),
        "goals": checked,
    }
    print(f"written: {write(given.name, result)}")


if __name__ == "__main__":
    main()
