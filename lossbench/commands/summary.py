"""Print the result: verdicts, scores with intervals, answers to the declared claims, the page's path."""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lossbench.commands.study import enter_study, study_argument
from lossbench.errors import UserError
from lossbench.params import load_params
from lossbench.statistics.writing import with_bounds
from lossbench.tracking.cost import cost_said, read_seconds, with_time
from lossbench.tracking.outs import home_of

TO_THE_RIGHT = (4,)
"""Columns of whole numbers."""


def summarise() -> None:
    """Read reports/ and print."""
    params = load_params()
    if not Path("reports/leaderboard.csv").exists():
        raise UserError("reports/leaderboard.csv: no such file; run `lossbench run` first")
    with Path("reports/leaderboard.csv").open(encoding="utf-8", newline="") as file:
        board = list(csv.DictReader(file))
    primary = {name: one.metric for name, one in params.experiments.items()}
    chosen = [row for row in board if row["metric"] == primary.get(row["experiment"])]
    interval = f"mean ({100 * (1 - params.comparison.level):g} % interval)"
    heads = ("experiment", "loss", "metric", interval, "replicates")
    print(f"\n{aligned([heads, *(_cells(row) for row in chosen)])}")
    verdicts = json.loads(Path("reports/verdicts.json").read_bytes())
    print()
    for one in verdicts["verdicts"]:
        print(one["sentence"])
    print()
    for name, line in verdicts["answers"].items():
        cost = cost_said(line["arms"], line["baseline"], read_seconds(list(params.arms), home_of(Path.cwd())))
        said = with_time(line["answer"], cost, params.arms[line["baseline"]].loss)
        print(f"{name}: {said}. Next: {line['next'].replace('`', '')}.")
    for name, look in verdicts.get("looks", {}).items():
        print(f"{name} stands at {look['said']}.")
    for one in verdicts["hypotheses"]:
        print(f"Claim: {one['claim'] or one['name']} → {one['answer']}")
    # As it is called here: with DVC's `cache.type symlink` the file itself has a hash for a name.
    print(f"\n{Path.cwd() / 'reports/index.html'}")


def _cells(row: Mapping[str, str]) -> tuple[str, ...]:
    score = with_bounds(*(float(row[key] or "nan") for key in ("mean", "ci_low", "ci_high")))
    return row["experiment"], row["loss"], row["metric"], score, row["n"]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out in columns, each as wide as its widest cell; numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if at in TO_THE_RIGHT else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    enter_study(chosen.study)
    summarise()
