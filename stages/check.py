"""Refuse a params.yaml that makes no sense, before anything else runs."""

import argparse
import sys
from pathlib import Path

from lossbench.errors import exit_code
from lossbench.lifetime import collect_rarely, die_with_parent
from lossbench.params import load_params


def main() -> None:
    """Check; the out is constant, so that a valid edit reruns nothing for it."""
    die_with_parent()  # a killed dvc leaves nothing that still writes
    params = load_params()
    from lossbench.checking import check

    check(params)
    out = Path("reports/checked.txt")
    out.parent.mkdir(exist_ok=True)
    out.write_text("params.yaml makes sense\n", encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    collect_rarely()
    sys.exit(exit_code(main))
