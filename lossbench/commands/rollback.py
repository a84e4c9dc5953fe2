"""Give the former champion its place back."""

import argparse

from lossbench.commands.study import enter_study, study_argument
from lossbench.params import load_params


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    from lossbench.retraining.run import rollback

    root = enter_study(chosen.study)
    rollback(load_params(), root)
