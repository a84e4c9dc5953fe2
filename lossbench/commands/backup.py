"""Back up what git and DVC do not hold: MLflow's store, its artifacts, the records of retraining."""

import argparse

from lossbench.commands.study import enter_study_beside, folder_arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    folder_arguments(parser, "that does not exist yet")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    from lossbench.retraining.backup import backup

    backup(*enter_study_beside(chosen))
