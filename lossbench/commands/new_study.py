"""Turn a folder of images into a study, ready to run."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("name", help="of the study: studies/NAME")
    parser.add_argument("data", type=Path, help="one folder per class, or images/ and masks/")


def main(chosen: argparse.Namespace) -> None:
    """Make the study."""
    from lossbench.studies import new_study

    folder = new_study(chosen.name, chosen.data, Path())
    print(f"{folder}: ready. Look at {folder / 'params.yaml'}, then run: lossbench run --study {folder}")
