"""`lossbench summary`."""

import argparse

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> None:
    """Run."""
    enter_study(chosen.study)
    from stages.summary import main as verb

    verb()
