"""Retrain if anything is new, judge the winner, promote it or keep the champion.

Any scheduler may call it at any time.
"""

import argparse
import sys
from pathlib import Path

from lossbench.errors import exit_code
from lossbench.params import load_params

EPILOG = (
    "Exit codes: 0 done, nothing new, or another retraining is at work; 1 data, training or registry failed "
    "and the champion stays; 2 params.yaml, or what was said by hand, has to be corrected."
)


def main(given: argparse.Namespace) -> int:
    """Retrain the study in the current folder; returns the exit code."""
    from lossbench.retraining.run import Told, retrain

    params = load_params()
    from lossbench.checking import check

    check(params)
    told = Told(given.allow, given.move_store, given.new_reference)
    return retrain(params, Path.cwd(), told=told)


def options(parser: argparse.ArgumentParser) -> None:
    """Add what somebody may say by hand."""
    parser.add_argument("--allow", metavar="VERSION", help="let a version in again that was rolled back")
    parser.add_argument(
        "--move-store", action="store_true", help="go on in the store that MLFLOW_TRACKING_URI names now"
    )
    parser.add_argument(
        "--new-reference", action="store_true", help="the reference split is right as it is now: freeze it so"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    options(parser)
    chosen = parser.parse_args()
    codes: list[int] = []
    refused = exit_code(lambda: codes.append(main(chosen)))
    sys.exit(refused or codes[0])
