"""Write down what is installed (lossbench.lock), for `dvc repro`; `lossbench run` does so itself."""

import argparse

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)


def main(chosen: argparse.Namespace) -> None:
    """Compare and write."""
    study = enter_study(chosen.study)
    from lossbench.errors import UserError
    from lossbench.installed import LOCK, lock_of, refresh
    from lossbench.params import load_params

    params = load_params()
    lock = lock_of(params, study)
    if lock is None:
        raise UserError(
            f"dvc.yaml: its stages depend on Lossbench's own source, not on {LOCK}: nothing to write"
        )
    refresh(params, study)
    print(f"{LOCK}: names what is installed")
