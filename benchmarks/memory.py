"""What memory each stage takes: `python -m benchmarks.memory`.

Runs the chain, stage by stage as dvc.yaml has them, in a temporary study of images with masks of 11 classes,
at batch 8, for several image sizes and counts. Says how much memory the largest process of each stage took
(as the kernel counted it, shared pages and mapped files included) and how much all of its processes took
together (each shared page once; looked at ten times a second). Then fetches the same images with this code
and with that of an earlier commit, in turn. Prints a table and writes benchmarks/results/memory.json. About
ten minutes on two cores; `--full` takes every size with every count: hours, and 90 GB of disk.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.common import commit, machine, write
from lossbench.system import processors

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
SIZES, COUNTS = (64, 128, 256, 512, 1024), (100, 1000, 10_000)
CHOSEN = ((64, 100), (64, 1000), (64, 10_000), (256, 100), (256, 1000), (512, 1000), (1024, 100))
GOAL = (512, 1000)
CLASSES = 11
MODEL = {"width": 8, "depth": 2, "convolutions": 1}
"""That of the default comparison's scenes: what a step of training takes is the model's, and the batch's."""
MOST = 2e9
"""Bytes that no process of the goal's chain may exceed."""
FASTER = 3.0
BEFORE = "dcd5bcc"
"""The last commit that held all images in memory."""
PICTURES, HEIGHT, WIDTH = 600, 360, 480
NAME = "pictures"


def make_images(folder: Path, count: int, height: int, width: int) -> None:
    """Write JPEGs with masks of 11 classes: photographs' sizes on disk, and no two alike."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        blocks = random.integers(0, CLASSES, (height // 16, width // 16), dtype=np.uint8)
        blocks.ravel()[:CLASSES] = range(CLASSES)[: blocks.size]
        mask = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
        colours = random.integers(0, 256, (*blocks.shape, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number:05d}.jpg", quality=90)
        mask.save(folder / "masks" / f"{number:05d}.png")


def study(folder: Path, images: Path, batch: int, model: Row) -> Row:
    """Write a study of one arm and one seed, one epoch long; return its params."""
    experiment = {
        "task": "segmentation",
        "dataset": NAME,
        "model": model,
        "recipe": {
            "epochs": 1,
            "batch_size": batch,
            "optimizer": {"name": "adam", "learning_rate": 0.003},
            "schedule": {"name": "cosine"},
        },
        "metric": "mean_iou",
        "margin": 0.02,
    }
    classes = [f"class_{number}" for number in range(CLASSES)]
    # Little to train on: what a step takes does not depend on how many follow.
    splits = {"validation": 0.4, "test": 0.4, "reference": 0.05}
    params: Row = {
        "root": os.fspath(ROOT),
        "datasets": {
            NAME: {
                "source": "segmentation_folder",
                "path": os.fspath(images),
                "splits": splits,
                "classes": classes,
                "expectations": {"min_per_class": 1},
            }
        },
        "experiments": {NAME: experiment},
        "losses": {"cross_entropy": {"name": "cross_entropy"}},
        "arms": {"one": {"experiment": NAME, "dataset": NAME, "loss": "cross_entropy"}},
        "seeds": [0, 1],
        "compute": {"device": "cpu", "engine": "loop", "precision": "fp32", "threads": 1},
        "tuning": {"trials": 0, "seeds": [1000], "learning_rate": {"low": 0.001, "high": 0.01}},
        "comparison": {"baseline": "cross_entropy", "level": 0.05, "contrasts": "baseline"},
        "hypotheses": {},
        "tracking": {"system_metrics": False, "log_models": False},
    }
    folder.mkdir()
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(params, stream)
    return params


def commands(params: Row) -> Iterator[tuple[str, list[str]]]:
    """Yield (stage, command) in the order of dvc.yaml; a stage with `foreach` once a key."""
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, block in stages.items():
        each = block.get("foreach")
        keys = [None] if each is None else list(params[each.removeprefix("${").removesuffix("}")])
        for key in keys:
            line = (block if each is None else block["do"])["cmd"].replace("${key}", str(key))
            yield name, [sys.executable, *line.split()[1:]]


LAUNCH = """
import os, sys
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(abs(os.waitstatus_to_exitcode(status)))
"""
"""Starts the command from a small process: one counts the memory of that which started it as its own."""


def measured(command: Sequence[str], folder: Path, code: Path = ROOT) -> Row:
    """Run a command; seconds, and bytes of its largest process and of all together."""
    environment = {**os.environ, "PYTHONPATH": os.fspath(code), "LOSSBENCH_HOME": ".lossbench"}
    peaks, over = Peaks(), threading.Event()
    began = time.perf_counter()
    with (folder / "log").open("ab") as log:
        launcher = [sys.executable, "-S", "-c", LAUNCH, "peak", *command]
        process = subprocess.Popen(launcher, cwd=folder, env=environment, stdout=log, stderr=log)
        watcher = threading.Thread(target=_watch, args=(process.pid, over, peaks))
        watcher.start()
        code_of_exit = process.wait()
        seconds = time.perf_counter() - began
        over.set()
        watcher.join()
    if code_of_exit:
        text = (folder / "log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"{' '.join(command[1:])}: exit code {code_of_exit}\n{text[-3000:]}")
    # The kernel's: the greatest of the process and of its descendants that were waited for. Workers are not:
    # the server that forks them is nobody's to wait for.
    waited = int((folder / "peak").read_text()) * 1024
    return {"seconds": seconds, "largest": max(waited, peaks.largest), "together": peaks.together}


@dataclass
class Peaks:
    """Bytes: the most that one process took, as the kernel kept it, and that all took together."""

    largest: int = 0
    together: int = 0


def _watch(pid: int, over: threading.Event, peaks: Peaks) -> None:
    while not over.wait(0.1):
        tree = _tree(pid)
        peaks.together = max(peaks.together, sum(_bytes(one, "smaps_rollup", "Pss:") for one in tree))
        peaks.largest = max(peaks.largest, *(_bytes(one, "status", "VmHWM:") for one in tree))


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        try:
            for file in Path(f"/proc/{one}/task").glob("*/children"):
                found += [int(child) for child in file.read_text().split()]
        except OSError:  # it has ended
            continue
    return found


def _bytes(pid: int, file: str, what: str) -> int:
    """What the kernel says of a process: Pss (a page that it shares counts in part), VmHWM (its peak)."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(what)), 0)


def chain(place: Path, side: int, count: int, batch: int, model: Row) -> list[Row]:
    """Run the whole chain for ``count`` images of one size; a row a stage."""
    folder = place / f"{side}-{count}"
    folder.mkdir()
    _make(folder / "images", count, side, side)
    params = study(folder / "study", folder / "images", batch, model)
    rows: list[Row] = []
    for stage, command in commands(params):
        found = measured(command, folder / "study")
        rows.append({"side": side, "count": count, "stage": stage, **found})
        show(rows[-1])
    shutil.rmtree(folder)
    return rows


def _make(folder: Path, *sizes: int) -> None:
    """Make images in a process of its own: what ours takes is inherited by those that it starts."""
    made = f"from benchmarks.memory import *; make_images(Path({os.fspath(folder)!r}), *{sizes})"
    subprocess.run([sys.executable, "-c", made], cwd=ROOT, check=True)


FETCH = f"""
import sys, time
from pathlib import Path
from lossbench.data.fetching import fetch
from lossbench.params import load_params
wanted = load_params().datasets[{NAME!r}]
began = time.perf_counter()
fetch(wanted, {NAME!r}, Path("data") / {NAME!r})
Path("seconds").write_text(str(time.perf_counter() - began))
"""


def fetching(place: Path, before: str, rounds: int) -> list[Row]:
    """Fetch the same images with the code of both commits, in turn; a row each, of medians."""
    old = place / "before"
    old.mkdir()
    packed = subprocess.run(
        ["git", "-C", os.fspath(ROOT), "archive", before, "lossbench"], capture_output=True, check=False
    )
    if packed.returncode:
        print(f"\nno commit {before} here (a shallow clone?): fetch is not compared with it")
        return []
    subprocess.run(["tar", "x", "-C", os.fspath(old)], input=packed.stdout, check=True)
    _make(place / "photographs", PICTURES, HEIGHT, WIDTH)
    study(place / "fetch", place / "photographs", 8, {"name": "unet"})
    ways = {f"fetch, {before}": old, "fetch, now": ROOT}
    found: dict[str, list[Row]] = {what: [] for what in ways}
    for _ in range(rounds):
        for what, code in ways.items():
            row = measured([sys.executable, "-c", FETCH], place / "fetch", code)
            seconds = float((place / "fetch" / "seconds").read_text())
            found[what].append({**row, "seconds": seconds / PICTURES})
    middle = {
        what: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for what, rows in found.items()
    }
    return [
        {"side": f"{HEIGHT}×{WIDTH}", "count": PICTURES, "stage": what, "n": rounds, **row}
        for what, row in middle.items()
    ]


def goals(rows: Sequence[Row], compared: Sequence[Row]) -> list[Row]:
    """Hold the rows against the goals."""
    side, count = GOAL
    found: list[Row] = []
    largest = [row["largest"] for row in rows if (row["side"], row["count"]) == GOAL]
    if largest:
        name = f"largest process of the chain, {count} images of {side}×{side}×3, MB"
        worst = max(largest)
        found.append({"name": name, "goal": MOST / 1e6, "measured": worst / 1e6, "met": worst < MOST})
    if compared:
        times = compared[0]["seconds"] / compared[1]["seconds"]
        name = "fetch, times faster a picture than before"
        found.append({"name": name, "goal": FASTER, "measured": times, "met": times >= FASTER})
    return found


def show(row: Row) -> None:
    print(
        f"{row['side']!s:>8}{row['count']:>8}  {row['stage']:<16}{row['seconds']:>9.3f}"
        f"{row['largest'] / 1e6:>10.0f}{row['together'] / 1e6:>10.0f}",
        flush=True,
    )


def rounded(row: Row) -> Row:
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="every size with every count")
    parser.add_argument("--only", metavar="SIDE,COUNT", action="append", help="just these")
    for name, size in MODEL.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="of the U-Net")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--before", default=BEFORE, help="commit whose fetch is compared")
    parser.add_argument("--rounds", type=int, default=5, help="of that comparison; 0: none")
    parser.add_argument("--name", default="memory", help="of the JSON in benchmarks/results")
    given = parser.parse_args(arguments)
    grid = [(side, count) for side in SIZES for count in COUNTS] if given.full else list(CHOSEN)
    if given.only:
        grid = [(int(side), int(count)) for side, count in (one.split(",") for one in given.only)]
    model = {"name": "unet", **{name: getattr(given, name) for name in MODEL}}
    head = {
        "machine": f"{machine('torch', 'pillow', 'numpy')}; {processors()} cores",
        "commit": commit(),
        "model": model,
        "batch": given.batch,
        "classes": CLASSES,
    }
    print(f"{'side':>8}{'images':>8}  {'stage':<16}{'seconds':>9}{'MB':>10}{'MB, all':>10}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        for side, count in grid:
            rows += chain(Path(place), side, count, given.batch, model)
            keep(given.name, head, rows, [])  # hours may lie between the first and the last
        compared = fetching(Path(place), given.before, given.rounds) if given.rounds else []
    for row in compared:
        show(row)
    print("\ngoals")
    for one in goals(rows, compared):
        met = "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>9.1f} of {one['goal']:<8.0f} {one['name']}")
    print(f"written: {keep(given.name, head, rows, compared)}")


def keep(name: str, head: Row, rows: Sequence[Row], compared: Sequence[Row]) -> Path:
    """Write what was measured so far."""
    measured = [rounded(row) for row in [*rows, *compared]]
    return write(name, {**head, "rows": measured, "goals": [rounded(one) for one in goals(rows, compared)]})


if __name__ == "__main__":
    main()
