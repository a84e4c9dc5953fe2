"""`lossbench look`: the next declared look, for what is undecided."""

import argparse

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--jobs", help="trainings side by side (default: what processors and memory allow)")


def main(chosen: argparse.Namespace) -> None:
    """Look."""
    study = enter_study(chosen.study)
    from lossbench.running import run

    run(study, chosen.jobs, looks="next")
