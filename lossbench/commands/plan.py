"""`lossbench plan`: what a run would do."""

import argparse

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> None:
    """Print it."""
    study = enter_study(chosen.study)
    from lossbench.running import plan

    plan(study)
