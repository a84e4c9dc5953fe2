"""Print the result: verdicts, scores with intervals, answers to the declared claims, the page's path."""

import argparse
import json
import sys
from pathlib import Path

from lossbench.errors import UserError, exit_code
from lossbench.params import load_params


def main() -> None:
    """Read reports/ and print."""
    params = load_params()
    import pandas as pd

    if not Path("reports/leaderboard.csv").exists():
        raise UserError("reports/leaderboard.csv: no such file; run `make repro` first")
    board = pd.read_csv("reports/leaderboard.csv")
    primary = {name: one.metric for name, one in params.experiments.items()}
    chosen = board[board["metric"] == board["experiment"].map(primary)].to_dict("records")
    print(f"\n{'experiment':<16}{'loss':<20}{'metric':<18}{'mean':>8}  {'interval':<18}{'replicates':>10}")
    for row in chosen:
        interval = f"{row['ci_low']:.4f} to {row['ci_high']:.4f}" if row["n"] > 1 else "(one seed)"
        who = f"{row['experiment']:<16}{row['loss']:<20}{row['metric']:<18}"
        print(f"{who}{row['mean']:>8.4f}  {interval:<18}{row['n']:>10}")
    verdicts = json.loads(Path("reports/verdicts.json").read_bytes())
    print()
    for one in verdicts["verdicts"]:
        print(one["sentence"])
    for one in verdicts["hypotheses"]:
        print(f"Claim: {one['claim'] or one['name']} → {one['answer']}")
    print(f"\n{Path('reports/index.html').resolve()}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(exit_code(main))
