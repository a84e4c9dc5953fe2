"""What everything around training costs: `python -m benchmarks.overhead`.

Runs the default `make repro` in a fresh copy of this checkout, with a probe in every Python process, and says
by program where the processors' time went: training proper (the workers of the pool), imports, the rest, how
long processors had nothing to do, how many processes there were and how many of them imported torch. Around
training is all but training proper: the clock's seconds less those for which training proper keeps all
processors busy. Then runs in which nothing is trained, each the median of some: `dvc repro` with nothing
changed; a run whose replicates are all in the store while dvc.lock is gone; and the same with many arms,
alike but for their names. At last one arm is trained for longer with the live shipper beside it, for what
MLflow costs while training runs: about two minutes, as long as an arm trains before it gets a shipper at all.
What the shipper does once, but for its imports, counts as if it did it again in every two minutes: an upper
bound.

`--only PART` measures one part (run, idle, store, arms, live); the others stay as they were measured, each
with its machine, commit and load. All but `run` can begin at a store that is there (`--store FOLDER`, which
is copied), so that nothing is trained first. Prints a table and writes benchmarks/results/overhead.json after
each part. `--params FILE` takes another comparison than the default one.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

from benchmarks.common import commit, machine, stored, write
from benchmarks.probe import Process, read, site_folder, workers_cpu
from lossbench.store import Store
from lossbench.system import processors

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
HOUR = 3600.0
LOSSBENCH = (sys.executable, "-m", "lossbench")
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


def timed(begin: Callable[[], None], command: Sequence[str], folder: Path, rounds: int) -> Row:
    """Time a command that trains nothing, by the clock and in processor seconds, round after round."""
    before = set(replicates(folder))
    clock, spent = [], []
    for _ in range(rounds):
        begin()
        at = _children()
        clock.append(round(run(command, folder, dict(os.environ)), 3))
        spent.append(round(_children() - at, 3))
    if set(replicates(folder)) != before:
        raise RuntimeError("a run whose replicates are in the store has trained some")
    return {"n": rounds, "seconds": clock, "processor_seconds": spent}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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


def of_run(wall: float, rows: Sequence[Row], cores: int, entry: float, count: int) -> Row:
    """Draw shares from the seconds of the comparison's run.

    Args:
        wall: of the whole run.
        rows: processor seconds by program.
        cores: that train side by side.
        entry: seconds of one entry in the journal.
        count: epochs journalled.

    """
    training = sum(row["training"] for row in rows) / cores
    return {
        "wall": wall,
        "training": training,
        "around": wall - training,
        "share": (wall - training) / wall,
        "journal_share": entry * count / (training * cores),
    }


def of_hour(found: Row, shown: Row, cores: int) -> Row:
    """Extrapolate to an hour of training, from what :func:`of_run` and :func:`live` found."""
    fixed = found["around"] / HOUR
    rate = (shown["shipper"] - shown["shipper_start"]) / shown["training"]
    mlflow = shown["shipper_start"] / (HOUR * cores) + rate + found["journal_share"]
    return {
        "shipper_core_seconds_per_training_core_second": rate,
        "mlflow_share_of_an_hour": mlflow,
        "share_of_an_hour": (fixed + mlflow) / (1 + fixed + mlflow),
    }


def goals(found: Row) -> list[Row]:
    """Hold what was measured against the goals."""
    wanted = (
        ("everything around training, share of the default `make repro`", "share", 0.20),
        ("everything around training, extrapolated to an hour of training", "share_of_an_hour", 0.01),
        ("MLflow while training runs (journal and live shipper), share of an hour's training",
         "mlflow_share_of_an_hour", 0.01),
        ("MLflow's journal in the default run, share of training time", "journal_share", 0.01),
        ("`dvc repro` with nothing changed, seconds", "idle_dvc_repro", 1.5),
        ("a run with all replicates in the store, dvc.lock gone, seconds", "all_in_the_store", 15.0),
        (f"the same with {ARMS} arms, seconds", "many_arms_in_the_store", 45.0),
    )  # fmt: skip
    return [
        {"name": name, "goal": bound, "measured": round(found[key], 4), "met": found[key] <= bound}
        for name, key, bound in wanted
        if key in found
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


def whole_run(folder: Path, cores: int) -> Row:
    """Run the comparison with a probe in every process; rows by program, and what is drawn from them."""
    wall = run([*LOSSBENCH, "run"], folder, site_folder(folder / "probe"))
    processes, trained = ended(folder / "probe", 1), list(replicates(folder).values())
    rows = by_program(processes, seconds_of(trained))
    rows.append(idle(rows, wall, cores))
    names = ("processes", "torch", "seconds", "training", "imports", "rest")
    rows.append({"what": "all", **{key: sum(row[key] for row in rows) for key in names}})
    return {
        "wall": wall,
        "rows": rows,
        "keys_seconds": keys(folder),
        "entry": journal(folder),
        "epochs": epochs(trained),
    }


@dataclass(frozen=True)
class Parts:
    """What can be measured by itself, in a copy of the checkout."""

    folder: Path
    rounds: int
    arms: int
    longer: int
    cores: int

    def run(self) -> Row:
        return whole_run(self.folder, self.cores)

    def idle(self) -> Row:
        return timed(lambda: None, [str(BIN / "dvc"), "repro"], self.folder, self.rounds)

    def store(self) -> Row:
        return timed(lambda: without_lock(self.folder), [*LOSSBENCH, "run"], self.folder, self.rounds)

    def arms_in_store(self) -> Row:
        """Measure in a copy: more arms are another comparison."""
        copy = self.folder.with_name("arms")
        shutil.copytree(self.folder, copy, symlinks=True)
        more_arms(copy, self.arms)
        return timed(lambda: without_lock(copy), [*LOSSBENCH, "run"], copy, self.rounds)

    def live(self) -> Row:
        return live(self.folder, self.longer)


PARTS: dict[str, Callable[[Parts], Row]] = {
    "run": Parts.run,
    "idle": Parts.idle,
    "store": Parts.store,
    "arms": Parts.arms_in_store,
    "live": Parts.live,
}
TIMED = {"idle": "idle_dvc_repro", "store": "all_in_the_store", "arms": "many_arms_in_the_store"}


OF_HOUR = ("mlflow_share_of_an_hour", "share_of_an_hour")
"""What is drawn from `run` and `live` together."""


def shares(parts: Row, cores: int) -> Row:
    """Draw from the parts that there are what the goals are held against."""
    found = {key: median(parts[part]["seconds"]) for part, key in TIMED.items() if part in parts}
    if "run" not in parts:
        return found
    one = parts["run"]
    everything = next(row for row in one["rows"] if row["what"] == "all")
    programs = [row for row in one["rows"] if row["what"] != "all"]
    found |= {"processes": everything["processes"], "torch_imports": everything["torch"]}
    found |= of_run(one["wall"], programs, cores, one["entry"], one["epochs"])
    return found | (of_hour(found, parts["live"], cores) if "live" in parts else {})


def noted(name: str, part: str, found: Row, cores: int) -> Row:
    """Write a part into the JSON, beside what was measured of the others; the whole."""
    result = stored(name)
    about = {
        "machine": f"{machine('torch', 'dvc', 'mlflow', 'great-expectations')}; {cores} cores",
        "commit": commit(),
        "load": round(os.getloadavg()[0], 1),
    }
    parts = {**result.get("parts", {}), part: {**about, **found}}
    # What an hour costs was drawn from a run that is no longer the one written down.
    gone = OF_HOUR if part == "run" else ()
    before = {key: value for key, value in result.get("shares", {}).items() if key not in gone}
    drawn = {**before, **shares(parts, cores)}
    result |= {**about, "parts": parts, "shares": rounded(drawn), "goals": goals(drawn)}
    if part == "run":
        result |= {
            "rows": [rounded(row) for row in found["rows"]],
            "keys_seconds": round(found["keys_seconds"], 4),
        }
    print(f"written: {write(name, result)}", flush=True)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be given again")
    parser.add_argument("--store", type=Path, help="of finished replicates, to begin with")
    parser.add_argument("--longer", type=int, default=40, help="times the epochs of the arm shown live")
    parser.add_argument("--rounds", type=int, default=5, help="of the runs that train nothing")
    parser.add_argument("--arms", type=int, default=ARMS, help="of the part `arms`")
    parser.add_argument("--name", default="overhead", help="of the JSON in benchmarks/results")
    given = parser.parse_args(arguments)
    chosen = [name for name in PARTS if name in (given.only or PARTS)]
    if given.store and "run" in chosen:
        parser.error("--store: the part `run` trains what there is to train; choose others with --only")
    cores, result = processors(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkout(Path(temporary) / "copy", given.params)
        if given.store:
            shutil.copytree(given.store, folder / ".lossbench/store")
        if chosen[0] != "run":
            run([*LOSSBENCH, "run"], folder, dict(os.environ))
        parts = Parts(folder, given.rounds, given.arms, given.longer, cores)
        for name in chosen:
            result = noted(given.name, name, PARTS[name](parts), cores)
    if "run" in chosen:
        wall = result["parts"]["run"]["wall"]
        show(result["rows"], wall * cores)
        print(f"\n{wall:.1f} s by the clock; all keys made and looked up: {result['keys_seconds']:.2f} s")
    print("\ngoals")
    for one in result["goals"]:
        met = "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>9.4f} ≤ {one['goal']:<6.2f} {one['name']}")


if __name__ == "__main__":
    main()
