"""What verbs on a study have in common: its folder, entered."""

import argparse
import os
from pathlib import Path

from lossbench.errors import UserError


def study_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--study``."""
    parser.add_argument("--study", type=Path, default=Path(), help="folder with a params.yaml")


def enter_study(study: Path) -> Path:
    """Go to a study's folder; returns it, absolute.

    Raises:
        UserError: if there is no params.yaml.

    """
    if not (study / "params.yaml").is_file():
        raise UserError(f"{study / 'params.yaml'}: no such file; a study is a folder with a params.yaml")
    os.chdir(study)
    return Path.cwd()
