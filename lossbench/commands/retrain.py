"""Retrain if anything is new, judge the winner, promote it or keep the champion.

Any scheduler may call it at any time.
"""

import argparse
from pathlib import Path

from lossbench.chain import without_git
from lossbench.commands.study import enter_study, study_argument
from lossbench.params import load_params


def retrain_here() -> int:
    """Retrain the study in the current folder; returns the exit code."""
    from lossbench.retraining.run import retrain

    params = load_params()
    from lossbench.checking import check
    from lossbench.editing import write_out_homes

    params = write_out_homes(params, Path())
    without_git(Path())
    check(params)
    return retrain(params, Path.cwd())


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> int:
    """Enter the study's folder and do it."""
    enter_study(chosen.study)
    return retrain_here()
