"""What every stage script shares: its one argument, its params, its exit code."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lossbench import written
from lossbench.errors import UserError, exit_code, nearest
from lossbench.lifetime import collect_rarely, die_with_parent
from lossbench.params import Params, load_params


def home() -> Path:
    """Return the study's folder for what is no out: stores, checkpoints, journals."""
    return written.home(Path())


def run_stage(
    main: Callable[[Params, str], None], what: str, known: Callable[[Params], dict[str, Any]]
) -> None:
    """Run a stage for the dataset, arm or experiment named on the command line."""
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument(what, help=f"a name under '{what}s' in params.yaml")
    name = getattr(parser.parse_args(), what)

    def stage() -> None:
        params = load_params()
        if name not in known(params):
            raise UserError(f"params.yaml: '{what}s' has no '{name}'; {nearest(name, known(params))}")
        main(params, name)

    die_with_parent()  # a killed dvc leaves nothing that still writes
    collect_rarely()
    sys.exit(exit_code(stage))
