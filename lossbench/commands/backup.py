"""Back up what git and DVC do not hold: MLflow's store, its artifacts, the records of retraining."""

import argparse
from pathlib import Path

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("folder", type=Path, help="that does not exist yet")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    from lossbench.retraining.backup import backup

    folder = chosen.folder.absolute()
    backup(enter_study(chosen.study), folder)
