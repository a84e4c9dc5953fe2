"""Write verdicts, tables and the page."""

import argparse
import sys
from pathlib import Path

from lossbench.installed import expect_locked
from lossbench.lifetime import collect_rarely, die_with_parent
from lossbench.outs import Outs
from lossbench.params import load_params
from lossbench.telling import exit_code

from .common import expect_as_read, whole


def main() -> None:
    """Read all outs, write reports/."""
    params = load_params()
    expect_locked(params, Path())
    from lossbench.reporting.write import write_report
    from lossbench.store import Store

    home = Outs().home
    # Our own store, which can be written to: a team's may not be, and the script is the same for everybody.
    write_report(params, Path(), home, Store(str(home / "store")))
    expect_as_read(params, whole())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    die_with_parent()
    collect_rarely()
    sys.exit(exit_code(main))
