"""`lossbench track`."""

import argparse

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--lenient", action="store_true", help="a dead tracking server is just a warning")


def main(chosen: argparse.Namespace) -> None:
    """Run."""
    enter_study(chosen.study)
    from stages.track import main as verb

    verb(chosen.lenient)
