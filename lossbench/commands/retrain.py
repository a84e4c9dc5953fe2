"""Retrain if anything is new, judge the winner, promote it or keep the champion.

Any scheduler may call it at any time.
"""

import argparse
from pathlib import Path

from lossbench.chain import without_git
from lossbench.commands.study import enter_study, study_argument
from lossbench.execution.identity import use_own_code
from lossbench.installed import refresh
from lossbench.params import load_params


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.epilog = (
        "Exit codes: 0 done, nothing new, or another retraining is at work; 1 data, training or registry "
        "failed and the champion stays; 2 params.yaml, or what was said by hand, has to be corrected."
    )
    parser.add_argument("--allow", metavar="VERSION", help="let a version in again that was rolled back")
    parser.add_argument(
        "--move-store", action="store_true", help="go on in the store that MLFLOW_TRACKING_URI names now"
    )
    parser.add_argument(
        "--new-reference", action="store_true", help="the reference split is right as it is now: freeze it so"
    )


def main(chosen: argparse.Namespace) -> int:
    """Enter the study's folder and do it."""
    root = enter_study(chosen.study)
    from lossbench.checking import check
    from lossbench.editing import write_out_homes
    from lossbench.retraining.run import Told, retrain

    params = load_params()
    use_own_code(params, root)
    params = write_out_homes(params, Path())
    without_git(Path())
    refresh(params, Path())
    check(params)
    told = Told(chosen.allow, chosen.move_store, chosen.new_reference)
    return retrain(params, root, told=told)
