"""Refuse a params.yaml that makes no sense, before anything else runs; say what each stage depends on."""

import argparse
import sys
from pathlib import Path

from lossbench.checked import checked_by_caller
from lossbench.installed import expect_locked
from lossbench.lifetime import collect_rarely, die_with_parent
from lossbench.outs import Outs
from lossbench.params import load_params
from lossbench.telling import exit_code

from .common import expect_as_read, whole


def main() -> None:
    """Check; a valid edit changes the outs of what it concerns, and so reruns nothing else."""
    die_with_parent()  # a killed dvc leaves nothing that still writes
    params = load_params()
    expect_locked(params, Path())
    if not checked_by_caller():
        from lossbench.checking import check

        check(params)
    from lossbench.execution.lineage import write_lineage

    write_lineage(params, Outs(Path.cwd()))
    expect_as_read(params, whole())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    collect_rarely()
    sys.exit(exit_code(main))
