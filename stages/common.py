"""What every stage script shares: its one argument, its params, its exit code, and the way to the store."""

import argparse
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.errors import UserError, exit_code, nearest
from lossbench.lifetime import collect_rarely, die_with_parent
from lossbench.params import Params, load_params

if TYPE_CHECKING:
    from lossbench.execution.fill import Filling
    from lossbench.execution.sites import Site
    from lossbench.store import Store

CHECKED = "LOSSBENCH_CHECKED"
"""The hash of the params.yaml that whoever calls checks itself, before and after there are data."""

ATTEMPTS = 3
"""At filling the store and writing outs from it: an entry may turn out to be damaged."""


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


def checked_by_caller() -> bool:
    """Whether `lossbench run` called, which checks itself, in a process where torch is imported already."""
    return os.environ.get(CHECKED) == sha256(Path("params.yaml").read_bytes()).hexdigest()


def from_store(
    params: Params,
    store: "Store",
    place: "Site",
    add: Callable[["Filling"], None],
    collect: Callable[[], None],
    label: str,
) -> None:
    """Compute what the store lacks, then write outs from it; no torch where it lacks nothing.

    Args:
        params: of the study.
        store: that is filled.
        place: where what it lacks is computed.
        add: adds the flows that compute what is wanted.
        collect: writes the outs.
        label: of the progress bar.

    """
    from lossbench.execution.collect import LostError
    from lossbench.execution.fill import Filling
    from lossbench.training.interruption import ending_on_sigterm

    for attempt in range(ATTEMPTS):
        filling = Filling(place.executor, _watch(params, store, label))
        add(filling)
        with ending_on_sigterm():
            filling.run()
        try:
            collect()
        except LostError as lost:
            if attempt == ATTEMPTS - 1:
                raise
            print(f"warning: {lost}; it is computed anew", file=sys.stderr)
        else:
            return


def _watch(params: Params, store: "Store", label: str) -> Any:
    from lossbench.outs import Outs
    from lossbench.tracking.watch import Watcher

    return Watcher(params, Outs(Path.cwd()), store, label)
