"""Give the former champion its place back."""

import argparse
from pathlib import Path

from lossbench.commands.study import enter_study, study_argument
from lossbench.params import load_params


def roll_back_here() -> None:
    """Roll the study in the current folder back."""
    from lossbench.retraining.run import rollback

    rollback(load_params(), Path.cwd())


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    enter_study(chosen.study)
    roll_back_here()
