"""The `lossbench` command: new-study."""

import argparse
import sys
from pathlib import Path

from lossbench.errors import exit_code


def main() -> None:
    """Parse the command line and run a command."""
    parser = argparse.ArgumentParser(
        prog="lossbench", description="Which loss should I train with, on my data?"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser(
        "new-study", help="turn a folder of images into a study, ready for `dvc repro`"
    )
    study.add_argument("name", help="of the study: studies/NAME")
    study.add_argument("data", type=Path, help="one folder per class, or images/ and masks/")
    chosen = parser.parse_args()
    sys.exit(exit_code(lambda: _new_study(chosen.name, chosen.data)))


def _new_study(name: str, data: Path) -> None:
    from lossbench.studies import new_study

    folder = new_study(name, data, Path())
    print(f"{folder}: ready. Look at {folder / 'params.yaml'}, then run: make repro STUDY={folder}")


if __name__ == "__main__":
    main()
