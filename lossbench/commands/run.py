"""`lossbench run`: the whole comparison, with all trainings of all arms at once."""

import argparse
import os

from lossbench.commands.study import enter_study, study_argument


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--jobs", help="trainings side by side (default: what processors and memory allow)")
    parser.add_argument(
        "--on",
        choices=["local", "ray", "slurm"],
        help="where to train: here, on the Ray cluster at RAY_ADDRESS, or by Slurm (default: "
        "LOSSBENCH_EXECUTOR, or here)",
    )
    parser.add_argument(
        "--device",
        help="write compute.device to params.yaml first: cpu or cuda; cuda:1 or cuda:GPU-… takes that GPU",
    )


def main(chosen: argparse.Namespace) -> None:
    """Run."""
    if chosen.on is not None:
        os.environ["LOSSBENCH_EXECUTOR"] = chosen.on  # stages that DVC runs train there, too
    study = enter_study(chosen.study)
    from lossbench.running import run

    run(study, chosen.jobs, chosen.device)
