"""`lossbench run`: the whole comparison, with all trainings of all arms at once."""

import argparse

from lossbench.commands.study import choose_site, enter_study, site_arguments, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    site_arguments(parser)
    parser.add_argument(
        "--device",
        help="write compute.device to params.yaml first: cpu or cuda; cuda:1 or cuda:GPU-… takes that GPU",
    )
    parser.add_argument(
        "--looks",
        action="store_true",
        help="take the looks that comparison.looks declares, one after another, until all is decided",
    )


def main(chosen: argparse.Namespace) -> None:
    """Run."""
    choose_site(chosen)
    study = enter_study(chosen.study)
    from lossbench.running import run

    run(study, chosen.jobs, chosen.device, looks="all" if chosen.looks else "")
