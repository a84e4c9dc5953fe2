"""Begin a study in your own repository: params.yaml, dvc.yaml and all that `lossbench run` needs."""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("name", help="of the dataset and its experiment")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a folder per class, images/ and masks/, VOC, COCO or labels.csv",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="write the study there, not into the current folder"
    )
    parser.add_argument(
        "--script",
        type=Path,
        help="your own training script, which trains in place of our networks (task: command); where no such "
        "file is, an example is written",
    )


def main(chosen: argparse.Namespace) -> None:
    """Make it."""
    from lossbench.project import Wanted, new_project

    new_project(Wanted(chosen.name, chosen.data, chosen.folder, chosen.script))
    where = "" if chosen.folder == Path() else f"cd {chosen.folder}, "
    print(
        f"next: {where}look at params.yaml; `lossbench plan` says what a run takes, `lossbench run` (or "
        "`dvc repro`) runs it, `lossbench ui` shows the runs"
    )
