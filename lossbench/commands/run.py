"""`lossbench run`: the whole comparison, with all trainings of all arms at once."""

import argparse

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--jobs", help="trainings side by side (default: what processors and memory allow)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="write compute.device to params.yaml first")
    parser.add_argument(
        "--looks",
        action="store_true",
        help="take the looks that comparison.looks declares, one after another, until all is decided",
    )


def main(chosen: argparse.Namespace) -> None:
    """Run."""
    study = enter_study(chosen.study)
    from lossbench.running import run

    run(study, chosen.jobs, chosen.device, "all" if chosen.looks else "")
