"""What verbs on a study have in common: its folder, entered."""

import argparse
import os
from pathlib import Path

from lossbench.errors import UserError


def study_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--study``."""
    parser.add_argument("--study", type=Path, default=Path(), help="folder with a params.yaml")


def site_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says where is trained, and how much at a time."""
    parser.add_argument("--jobs", help="trainings side by side (default: what processors and memory allow)")
    parser.add_argument(
        "--on",
        choices=["local", "ray", "slurm"],
        help="where to train: here, on the Ray cluster at RAY_ADDRESS, or by Slurm (default: "
        "LOSSBENCH_EXECUTOR, or here)",
    )


def choose_site(chosen: argparse.Namespace) -> None:
    """Have stages that DVC runs train where ``--on`` says, too."""
    if chosen.on is not None:
        os.environ["LOSSBENCH_EXECUTOR"] = chosen.on


def folder_arguments(parser: argparse.ArgumentParser, told: str) -> None:
    """Add ``--study`` and a folder elsewhere, of which ``told`` says more."""
    study_argument(parser)
    parser.add_argument("folder", type=Path, help=told)


def enter_study_beside(chosen: argparse.Namespace) -> tuple[Path, Path]:
    """Go to a study's folder; returns it, and the folder that was named, seen from where we came."""
    folder = chosen.folder.absolute()
    return enter_study(chosen.study), folder


def enter_study(study: Path) -> Path:
    """Go to a study's folder; returns it, absolute.

    Raises:
        UserError: if there is no params.yaml.

    """
    if not (study / "params.yaml").is_file():
        raise UserError(
            f"{study / 'params.yaml'}: no such file; a study is a folder with a params.yaml, and "
            "`lossbench new NAME --data FOLDER` begins one"
        )
    os.chdir(study)
    return Path.cwd()
