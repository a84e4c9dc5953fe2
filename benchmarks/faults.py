"""Faults of many kinds at random moments, and what they cost: `python -m benchmarks.faults`.

A small study is made once, undisturbed. Every trial takes a copy, does harm at a random moment or place, runs
the one recovery command, and then the plain `make repro` as anyone would go on. What counts is whether the
study ends as the undisturbed one: every metric in MLflow once, every out the same to the byte, no run left
RUNNING, no process left behind; after a retraining that was killed, that the right model serves. Prints a
table and writes benchmarks/results/faults.json.
"""

import argparse
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import commit, machine, write
from benchmarks.fault_kinds import kinds
from benchmarks.fault_study import REPRO, Kind, Study, Templates, Undisturbed, prepare, stated

Row = dict[str, Any]
COUNTED = (
    "lost_metrics",
    "doubled_metrics",
    "damaged_outs",
    "left_running",
    "wrong_promotions",
    "lost_originals",
    "unrecovered",
)


def trial(kind: Kind, number: int, templates: Templates, right: Undisturbed, folder: Path) -> Row:
    """Do harm once, recover, compare."""
    chance = random.Random(f"{kind.name} {number}")  # noqa: S311  # moments, not secrets
    source: Study = getattr(templates, kind.start)
    study = source.copy(folder / f"{kind.name.replace('/', '-')[:40].replace(' ', '-')}-{number}")
    codes: list[int] = []
    began = harmed = time.perf_counter()
    left = 0
    try:
        left = kind.inject(study, chance)
        harmed = time.perf_counter()
        codes.append(study.run(*kind.recovery))
        recovered = time.perf_counter()
        if kind.judge is None and kind.recovery != REPRO:
            codes.append(study.run(*REPRO))
    except subprocess.TimeoutExpired as hung:
        recovered = time.perf_counter()
        codes.append(-1)
        study.said.append(f"hung: {hung}")
    finally:
        study.companions.close()
    if kind.judge is not None:
        found = {**dict.fromkeys(COUNTED, 0), "wrong_promotions": kind.judge(study)}
    else:
        found = {**right.losses(study), "wrong_promotions": 0}
    found["left_running"] += left
    found["lost_originals"] = study.lost_originals
    row = {
        "kind": kind.name,
        "trial": number,
        "recovery": kind.command,
        **found,
        "unrecovered": sum(code != 0 for code in codes),
        "harm_seconds": round(harmed - began, 1),
        "recovery_seconds": round(recovered - harmed, 1),
        **stated(study),
    }
    if not any(row[key] for key in COUNTED) and not row["tracebacks"]:
        shutil.rmtree(study.folder)  # nothing to look at
    return row


def table(rows: Sequence[Row]) -> list[Row]:
    """Add the trials of each kind up."""
    found: dict[str, Row] = {}
    for row in rows:
        empty = {"kind": row["kind"], "recovery": row["recovery"], "trials": 0, **dict.fromkeys(COUNTED, 0)}
        one = found.setdefault(row["kind"], {**empty, "tracebacks": 0, "recovery_seconds": 0.0})
        one["trials"] += 1
        for key in (*COUNTED, "tracebacks"):
            one[key] += row[key]
        one["recovery_seconds"] = max(one["recovery_seconds"], row["recovery_seconds"])
    return list(found.values())


def goals(kinds_tried: Sequence[Row]) -> list[Row]:
    """Nothing lost, nothing doubled, nothing damaged, over at least twelve kinds."""
    count = len(kinds_tried)
    found = [{"name": "kinds of fault", "goal": 12, "measured": count, "met": count >= 12}]
    for key in COUNTED:
        measured = sum(row[key] for row in kinds_tried)
        found.append({"name": key.replace("_", " "), "goal": 0, "measured": measured, "met": measured == 0})
    return found


def show(rows: Sequence[Row]) -> None:
    heads = (
        "trials",
        "lost",
        "doubled",
        "damaged",
        "running",
        "promotions",
        "originals",
        "unrecovered",
        "tracebacks",
    )
    print(f"\n{'fault':<44}{'recovery':<14}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        numbers = [row["trials"], *(row[key] for key in COUNTED), row["tracebacks"]]
        print(f"{row['kind']:<44}{row['recovery']:<14}" + "".join(f"{number:>12}" for number in numbers))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=3, help="of each kind")
    parser.add_argument("--only", action="append", help="kinds whose name contains this; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="trials side by side")
    parser.add_argument("--name", default="faults", help="of the JSON in benchmarks/results")
    given = parser.parse_args(arguments)
    chosen = [kind for kind in kinds() if given.only is None or any(part in kind.name for part in given.only)]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        templates = prepare(Path(temporary))
        right = Undisturbed.of(templates.done)
        print(f"undisturbed: {templates.done.repro_seconds:.0f} s, {right.points.total()} metrics, "
              f"{len(right.outs)} files in outs", flush=True)  # fmt: skip

        def one(job: tuple[Kind, int]) -> Row:
            row = trial(*job, templates, right, Path(temporary))
            bad = {key: row[key] for key in COUNTED if row[key]}
            print(f"  {row['kind']} {row['trial']}: {bad or 'nothing lost'}  {row['said'][-1:]}", flush=True)
            return row

        jobs = [(kind, number) for number in range(given.trials) for kind in chosen]
        with ThreadPoolExecutor(given.jobs) as pool:
            rows = list(pool.map(one, jobs))
    summed = table(rows)
    show(summed)
    checked = goals(summed)
    print("\ngoals")
    for goal in checked:
        met = "met" if goal["met"] else "MISSED"
        print(f"{met:<7}{goal['measured']:>6} (goal {goal['goal']})  {goal['name']}")
    result = {
        "machine": machine("dvc", "mlflow", "torch"),
        "commit": commit(),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "metrics": right.points.total(),
        "outs": len(right.outs),
        "rows": summed,
        "trials": rows,
        "goals": checked,
    }
    print(f"written: {write(given.name, result)}")


if __name__ == "__main__":
    main()
