"""Put a backup back into a study, wherever that lies now."""

import argparse

from lossbench.commands.study import enter_study_beside, folder_arguments


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    folder_arguments(parser, "that `lossbench backup` wrote")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    from lossbench.retraining.backup import restore

    restore(*enter_study_beside(chosen))
