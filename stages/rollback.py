"""Give the former champion its place back."""

import argparse
import sys
from pathlib import Path

from lossbench.errors import exit_code
from lossbench.params import load_params


def main() -> None:
    """Roll the study in the current folder back."""
    from lossbench.retraining.run import rollback

    rollback(load_params(), Path.cwd())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(exit_code(main))
