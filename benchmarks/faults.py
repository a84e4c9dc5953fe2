"""Faults of many kinds at random moments, and what they cost: `python -m benchmarks.faults`.

A small study is made once, undisturbed. Every trial takes a copy, does harm at a random moment or place, runs
the one recovery command, and then the plain `make repro` as anyone would go on. What counts is whether the
study ends as the undisturbed one: every metric in MLflow once, every out the same to the byte, no run left
RUNNING, no process left behind; after a retraining that was killed, that the right model serves. Prints a
table and writes benchmarks/results/faults.json: the kinds that were tried take the place of what stood there
of them, the others stay, each with the code and the time it was tried with. A second file's kinds, where they
are later ones, are taken in by ``--add``.

Kinds on a team's services and on a Ray cluster need the environment of `make cluster`, and PostgreSQL; where
one of them is asked for, all are tried in a network that has `lo` alone. What is not installed is said.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.cluster_ray import INSIDE, within_own_network
from benchmarks.common import commit, machine, stored, write
from benchmarks.fault_kinds import kinds
from benchmarks.fault_study import REPRO, Kind, Study, Templates, Undisturbed, prepare, stated

Row = dict[str, Any]
ATTEMPTS = 3
"""At harming a run before it is over: it may take less time than the undisturbed one."""
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
    """Do harm once, recover, compare; again, at another moment, where the run was over before harm came.

    Raises:
        RuntimeError: if harm comes too late each time.

    """
    for attempt in range(ATTEMPTS):
        row, late = harmed(kind, f"{number}-{attempt}" if attempt else f"{number}", templates, right, folder)
        if not late:
            return {"kind": kind.name, "trial": number, **row}
    raise RuntimeError(f"{kind.name}: the run was over before harm came, {ATTEMPTS} times")


def harmed(kind: Kind, name: str, templates: Templates, right: Undisturbed, folder: Path) -> tuple[Row, bool]:
    """Do harm once, recover, compare; and say whether it came too late."""
    chance = random.Random(f"{kind.name} {name}")  # noqa: S311  # moments, not secrets
    source: Study = getattr(templates, kind.start)
    study = source.copy(folder / f"{kind.name.replace('/', '-')[:40].replace(' ', '-')}-{name}")
    codes: list[int] = []
    began = struck = time.perf_counter()
    left = 0
    with study.companions:  # the record may be one of them
        try:
            left = kind.inject(study, chance)
            struck = time.perf_counter()
            codes.append(study.run(*kind.recovery))
            recovered = time.perf_counter()
            if kind.judge is None and kind.recovery != REPRO:
                codes.append(study.run(*REPRO))
        except subprocess.TimeoutExpired as hung:
            recovered = time.perf_counter()
            codes.append(-1)
            study.said.append(f"hung: {hung}")
        if kind.judge is not None:
            found = {**dict.fromkeys(COUNTED, 0), "wrong_promotions": kind.judge(study)}
        else:
            found = {**right.losses(study), "wrong_promotions": 0}
    found["left_running"] += left
    found["lost_originals"] = study.lost_originals
    row = {
        "recovery": kind.command,
        **found,
        "unrecovered": sum(code != 0 for code in codes),
        "harm_seconds": round(struck - began, 1),
        "recovery_seconds": round(recovered - struck, 1),
        **stated(study),
    }
    if not any(row[key] for key in COUNTED) and not row["tracebacks"]:
        shutil.rmtree(study.folder)  # nothing to look at
    return row, study.late


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
        measured = sum(row.get(key, 0) for row in kinds_tried)  # not all were counted from the first
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
        numbers = [row["trials"], *(row.get(key, 0) for key in COUNTED), row["tracebacks"]]
        print(f"{row['kind']:<44}{row['recovery']:<14}" + "".join(f"{number:>12}" for number in numbers))


def together(*found: Row) -> Row:
    """Put results together: of each kind the trials of whichever result tried it last."""
    latest: dict[str, tuple[str, Row, list[Row]]] = {}
    for one in found:
        stated = {"machine": one.get("machine", ""), "commit": one.get("commit", ""), "time": ""}
        for row in one.get("rows", []):
            kind, told = row["kind"], {**stated, **row}
            if kind not in latest or told["time"] >= latest[kind][0]:
                trials = [trial for trial in one["trials"] if trial["kind"] == kind]
                latest[kind] = told["time"], told, trials
    names = [kind.name for kind in kinds() if kind.name in latest]  # one that is no more is left out
    rows = [latest[name][1] for name in names]
    trials = [trial for name in names for trial in latest[name][2]]
    return {"rows": rows, "trials": trials, "goals": goals(rows)}


def tell(result: Row) -> None:
    """Print the table and the goals."""
    show(result["rows"])
    print("\ngoals")
    for goal in result["goals"]:
        met = "met" if goal["met"] else "MISSED"
        print(f"{met:<7}{goal['measured']:>6} (goal {goal['goal']})  {goal['name']}")


def attempt(chosen: Sequence[Kind], trials: int, jobs: int, keep: Callable[[Sequence[Row]], None]) -> None:
    """Try the kinds; ``keep`` is handed all trials so far, after each."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        templates = prepare(Path(temporary), {kind.start for kind in chosen})
        right = Undisturbed.of(templates.done)
        print(f"undisturbed: {templates.done.repro_seconds:.0f} s, {right.points.total()} metrics, "
              f"{len(right.outs)} files in outs", flush=True)  # fmt: skip
        facts = {"metrics": right.points.total(), "outs": len(right.outs)}

        def one(job: tuple[Kind, int]) -> Row:
            return {**trial(*job, templates, right, Path(temporary)), **facts}

        pending = [(kind, number) for number in range(trials) for kind in chosen]
        with ThreadPoolExecutor(jobs) as pool:
            side_by_side = pool.map(one, [job for job in pending if not job[0].alone])
            # Ray's Cluster takes the main thread alone.
            for row in chain(side_by_side, map(one, [job for job in pending if job[0].alone])):
                bad = {key: row[key] for key in COUNTED if row[key]}
                said = f"{bad or 'nothing lost'}  {row['said'][-1:]}"
                print(f"  {row['kind']} {row['trial']}: {said}", flush=True)
                rows.append(row)
                keep(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=3, help="of each kind")
    parser.add_argument("--only", action="append", help="kinds whose name contains this; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="trials side by side, servers apart")
    parser.add_argument("--name", default="faults", help="of the JSON in benchmarks/results")
    parser.add_argument("--add", type=Path, help="try nothing; take in another result's kinds")
    given = parser.parse_args(arguments)
    if given.add is not None:
        result = together(stored(given.name), json.loads(given.add.read_bytes()))
        tell(result)
        print(f"written: {write(given.name, result)}")
        return 0
    chosen = [kind for kind in kinds() if given.only is None or any(part in kind.name for part in given.only)]
    if INSIDE not in os.environ and any(kind.alone and not kind.missing() for kind in chosen):
        return within_own_network("benchmarks.faults", list(arguments or sys.argv[1:]))
    for kind in [kind for kind in chosen if kind.missing()]:
        chosen.remove(kind)
        print(f"not tried: {kind.name}: {kind.missing()}", file=sys.stderr)
    stated = {"machine": machine("dvc", "mlflow", "torch"), "commit": commit()}

    def keep(rows: Sequence[Row]) -> None:
        """Write down what there is: a run that is broken off has shown something, too."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        summed = [{**row, **stated, "time": now} for row in table(rows)]
        write(given.name, together(stored(given.name), {"rows": summed, "trials": list(rows)}))

    attempt(chosen, given.trials, given.jobs, keep)
    tell(stored(given.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
