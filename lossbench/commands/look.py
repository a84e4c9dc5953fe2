"""`lossbench look`: the next declared look, for what is undecided."""

import argparse

from lossbench.commands.study import choose_site, enter_study, site_arguments, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    site_arguments(parser)


def main(chosen: argparse.Namespace) -> None:
    """Look."""
    choose_site(chosen)
    study = enter_study(chosen.study)
    from lossbench.running import run

    run(study, chosen.jobs, looks="next")
