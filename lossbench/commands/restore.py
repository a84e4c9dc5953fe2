"""Put a backup back into a study, wherever that lies now."""

import argparse
from pathlib import Path

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("folder", type=Path, help="that `lossbench backup` wrote")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    from lossbench.retraining.backup import restore

    folder = chosen.folder.absolute()
    restore(enter_study(chosen.study), folder)
