"""Print the result: verdicts, scores with intervals, answers to the declared claims, the page's path."""

import argparse
import csv
import json
from pathlib import Path

from lossbench.commands.study import enter_study, study_argument
from lossbench.errors import UserError
from lossbench.params import load_params


def summarise() -> None:
    """Read reports/ and print."""
    params = load_params()
    if not Path("reports/leaderboard.csv").exists():
        raise UserError("reports/leaderboard.csv: no such file; run `make repro` first")
    with Path("reports/leaderboard.csv").open(encoding="utf-8", newline="") as file:
        board = list(csv.DictReader(file))
    primary = {name: one.metric for name, one in params.experiments.items()}
    chosen = [row for row in board if row["metric"] == primary.get(row["experiment"])]
    print(f"\n{'experiment':<16}{'loss':<20}{'metric':<18}{'mean':>8}  {'interval':<18}{'replicates':>10}")
    for row in chosen:
        low, high, mean = (float(row[key] or "nan") for key in ("ci_low", "ci_high", "mean"))
        interval = f"{low:.4f} to {high:.4f}" if int(row["n"]) > 1 else "(one seed)"
        who = f"{row['experiment']:<16}{row['loss']:<20}{row['metric']:<18}"
        print(f"{who}{mean:>8.4f}  {interval:<18}{row['n']:>10}")
    verdicts = json.loads(Path("reports/verdicts.json").read_bytes())
    print()
    for one in verdicts["verdicts"]:
        print(one["sentence"])
    for one in verdicts["hypotheses"]:
        print(f"Claim: {one['claim'] or one['name']} → {one['answer']}")
    print(f"\n{Path('reports/index.html').resolve()}")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    enter_study(chosen.study)
    summarise()
