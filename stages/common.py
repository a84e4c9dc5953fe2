"""What every stage script shares: its one argument, its params, its exit code, and the way to the store."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.errors import GateError, UserError, nearest
from lossbench.execution.identity import use_own_code
from lossbench.installed import expect_locked
from lossbench.lifetime import collect_rarely, die_with_parent
from lossbench.params import Params, load_params
from lossbench.telling import exit_code

if TYPE_CHECKING:
    from lossbench.execution.fill import Filling
    from lossbench.execution.sites import Site
    from lossbench.store import Store


Part = tuple[str, ...]
"""A key of params.yaml, and a name under it."""


def run_stage(
    main: Callable[[Params, str], None],
    what: str,
    known: Callable[[Params], dict[str, Any]],
    reads: Callable[[Params, str], Sequence[Part]],
) -> None:
    """Run a stage for the dataset, arm or experiment named on the command line.

    Args:
        main: the stage.
        what: of a dataset, an arm or an experiment.
        known: those there are.
        reads: what the stage reads of params.yaml, as in dvc.yaml.

    """
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__)
    parser.add_argument(what, help=f"a name under '{what}s' in params.yaml")
    name = getattr(parser.parse_args(), what)

    def stage() -> None:
        params = load_params()
        if name not in known(params):
            raise UserError(f"params.yaml: '{what}s' has no '{name}'; {nearest(name, known(params))}")
        expect_locked(params, Path())
        use_own_code(params, Path())
        main(params, name)
        expect_as_read(params, reads(params, name))

    die_with_parent()  # a killed dvc leaves nothing that still writes
    collect_rarely()
    sys.exit(exit_code(stage))


def expect_as_read(params: Params, parts: Sequence[Part]) -> None:
    """Refuse what was made while its params were edited: DVC notes those that stand there when a stage ends.

    Raises:
        GateError: if other values stand there now than were read.

    """
    try:
        now = load_params()
        edited = [part for part in parts if _at(now, part) != _at(params, part)]
    except UserError:  # half written, say
        edited = list(parts)
    if edited:
        raise GateError(
            f"params.yaml: '{'.'.join(edited[0])}' was edited while the stage was at work: dvc.lock would "
            "name it beside what was made of the old one; run again (what was trained is in the store)"
        )


def _at(params: Params, part: Part) -> Any:
    found = getattr(params, part[0])
    return found if len(part) == 1 else found.get(part[1])


def whole() -> Sequence[Part]:
    """All of params.yaml."""
    return [(key,) for key in Params.model_fields]


def from_store(
    params: Params,
    store: "Store",
    place: "Site",
    add: Callable[["Filling"], None],
    collect: Callable[[], None],
    label: str,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Compute what the store lacks, then write outs from it; no torch where it lacks nothing.

    Args:
        params: of the study.
        store: that is filled.
        place: where what it lacks is computed.
        add: adds the flows that compute what is wanted.
        collect: writes the outs.
        label: of the progress bar.
        before: is called before anything is computed, and not where nothing is; what it raises ends it.

    """
    from lossbench.execution.collect import filled_and_collected
    from lossbench.execution.fill import Filling
    from lossbench.training.interruption import ending_on_sigterm

    def fill() -> None:
        filling = Filling(lambda: _executor(place, before), _watch(params, store, label))
        add(filling)
        with ending_on_sigterm():
            filling.run()

    filled_and_collected(fill, collect)


def _executor(place: "Site", before: Callable[[], None]) -> Any:
    before()
    return place.executor()


def _watch(params: Params, store: "Store", label: str) -> Any:
    from lossbench.outs import Outs
    from lossbench.tracking.watch import Watcher

    return Watcher(params, Outs(Path.cwd()), store, label)
