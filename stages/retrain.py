"""Retrain if anything is new, judge the winner, promote it or keep the champion.

Any scheduler may call it at any time.
"""

import argparse
import sys
from pathlib import Path

from lossbench.chain import without_git
from lossbench.errors import exit_code
from lossbench.params import load_params


def main() -> int:
    """Retrain the study in the current folder; returns the exit code."""
    from lossbench.retraining.run import retrain

    params = load_params()
    from lossbench.checking import check
    from lossbench.editing import write_out_homes

    params = write_out_homes(params, Path())
    without_git(Path())
    check(params)
    return retrain(params, Path.cwd())


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__,
        epilog="Exit codes: 0 done, nothing new, or another retraining is at work; 1 data, training or "
        "registry failed and the champion stays; 2 params.yaml has to be corrected.",
    ).parse_args()
    codes: list[int] = []
    refused = exit_code(lambda: codes.append(main()))
    sys.exit(refused or codes[0])
