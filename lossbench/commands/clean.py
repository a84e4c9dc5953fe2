"""Remove a study's outs and stores; MLflow's record, DVC's cache and what is yours stay."""

import argparse

from lossbench.commands.study import study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="only list what would be removed")


def main(chosen: argparse.Namespace) -> None:
    """Clean."""
    from lossbench.cleaning import clean

    clean(chosen.study, chosen.dry_run)
