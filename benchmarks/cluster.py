"""More than one machine, and many arms: `python -m benchmarks.cluster` (half an hour on two free processors).

- Ray: the same replicates on one node of one processor, on two, and by the local executor; the SHA-256 of
  all weights has to be equal. Efficiency is the time on one node over twice the time on two, by the clock:
  the nodes need both processors to themselves. One node has one processor for all that runs, Ray and the
  driver included, as a machine of one processor has.
- Ray: a thousand jobs that sleep, on simulated nodes, by the real executor: what the driver's processor
  takes, there of what Ray takes without us, and messages of jobs.
- MLflow and the report: 100 arms × 20 seeds × 200 epochs of multiplied outs, recorded and reported by the
  real commands; a tenth of the arms as well, for how it grows.

Nodes are raylets on this machine, within a network that has `lo` alone (`unshare --net`). Ray has to be
installed. Prints a table and writes benchmarks/results/cluster.json; `--only` measures a part, the others
stay as they were. Exit code 0 though a goal is missed: missed goals are shown.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cluster_ray, cluster_scale
from benchmarks.common import commit, machine, stored, write
from lossbench.system import processors

Row = dict[str, Any]
Goal = tuple[str, float, float, bool]
"""What it says, the goal, what was measured, and whether more is better."""
SECONDS = 60.0
"""A replicate's, at least, for the efficiency to count."""


def nodes(folder: Path, given: argparse.Namespace) -> tuple[list[Row], list[Goal]]:
    rows = cluster_ray.scaling(folder, given.replicates, given.epochs)
    one, two, _ = rows
    equal = float(all(row["weights"] == one["weights"] for row in rows))
    for row in rows:
        row["replicates"] = len(row.pop("weights"))
        row["replicate_seconds"] = sum(row["replicate_seconds"]) / row["replicates"]
    clock = one["seconds"] / (2 * two["seconds"])
    shortest = min(row["replicate_seconds"] for row in rows)
    return rows, [
        ("two nodes of one processor against one: efficiency by the clock", 0.9, clock, True),
        ("seconds of a replicate by the clock, mean of the fastest row", SECONDS, shortest, True),
        ("weights equal on one node, two nodes and the local executor (1: all)", 1.0, equal, True),
    ]


def jobs(folder: Path, given: argparse.Namespace) -> tuple[list[Row], list[Goal]]:
    row, without_us = cluster_ray.many(folder, given.jobs, given.sleep)
    return [row, without_us], [
        ("driver's processor, ms a job", 2.0, row["driver_ms_a_job"], False),
        ("messages a second of a job", 1.0, row["messages_a_second_a_job"], False),
    ]


def scale(folder: Path, given: argparse.Namespace) -> tuple[list[Row], list[Goal]]:
    fewer = cluster_scale.grown(folder / "fewer", max(2, given.arms // 10))
    rows = cluster_scale.grown(folder / "all", given.arms)
    report, mlflow, _ = rows
    goals = [
        ("MLflow, seconds by the clock", 300.0, mlflow["seconds"], False),
        ("MLflow, processor seconds (two processors have 600)", 600.0, mlflow["processor_seconds"], False),
        ("report, seconds by the clock", 60.0, report["seconds"], False),
        ("report, processor seconds", 60.0, report["processor_seconds"], False),
        ("page, MB", 15.0, report["megabytes"], False),
    ]
    for small, large in zip(fewer, rows, strict=True):
        times = large["arms"] / small["arms"]
        grew = large["processor_seconds"] / small["processor_seconds"] / times
        goals.append((f"{large['what']}: growth of processor seconds over that of arms", 1.1, grew, False))
    return [*fewer, *rows], goals


PARTS: dict[str, Callable[[Path, argparse.Namespace], tuple[list[Row], list[Goal]]]] = {
    "scale": scale,
    "jobs": jobs,
    "nodes": nodes,
}
ON_RAY = ("jobs", "nodes")


def measured(part: str, given: argparse.Namespace) -> Row:
    """Measure a part, and hold it against its goals."""
    with tempfile.TemporaryDirectory() as folder:
        rows, goals = PARTS[part](Path(folder), given)
    return {
        "commit": commit(),
        "n": 1,
        "load": [round(one, 1) for one in os.getloadavg()],
        "nice": os.nice(0),
        "rows": [
            {key: round(one, 4) if isinstance(one, float) else one for key, one in row.items()}
            for row in rows
        ],
        "goals": [
            {
                "name": name,
                "goal": bound,
                "measured": round(found, 4),
                "met": found >= bound if more else found <= bound,
                "at_least": more,
            }
            for name, bound, found, more in goals
        ],
    }


def show(part: str, found: Row) -> None:
    print(f"\n{part} (load {found['load']}, nice {found['nice']}, n = {found['n']})")
    for row in found["rows"]:
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    for one in found["goals"]:
        sign, met = "≥" if one["at_least"] else "≤", "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>11.4f} {sign} {one['goal']:<7g}{one['name']}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="a part")
    parser.add_argument("--arms", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=cluster_ray.JOBS)
    parser.add_argument("--sleep", type=float, default=cluster_ray.SLEEPS, help="seconds of a job")
    parser.add_argument("--replicates", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1600, help="of a replicate on the nodes")
    given = parser.parse_args(arguments)
    parts = [given.only] if given.only else list(PARTS)
    if cluster_ray.INSIDE not in os.environ and any(part in ON_RAY for part in parts):
        return cluster_ray.within_own_network("benchmarks.cluster", list(arguments or sys.argv[1:]))
    packages = ["torch", "mlflow", *(["ray"] if any(part in ON_RAY for part in parts) else [])]
    for part in parts:
        found = {"machine": f"{machine(*packages)}; {processors()} cores", **measured(part, given)}
        show(part, found)
        print(f"written: {write('cluster', stored('cluster') | {part: found})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
