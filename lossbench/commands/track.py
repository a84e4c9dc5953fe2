"""Complete the record in MLflow from outs and journals: nothing lost, nothing doubled."""

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.commands.study import enter_study, study_argument
from lossbench.errors import GateError
from lossbench.execution.identity import use_own_code
from lossbench.lifetime import collect_rarely
from lossbench.outs import Outs
from lossbench.params import Params, load_params

if TYPE_CHECKING:
    from lossbench.tracking.track import Charts, Drawn


def record(lenient: bool = False, reported: Callable[[], bool] = lambda: True) -> None:
    """Record every trained arm of the study in the current folder.

    Args:
        lenient: a tracking server that does not answer is a warning, not an error.
        reported: waits for the report, or says that there will be none; called when the rest is recorded.

    """
    params = load_params()
    use_own_code(params, Path.cwd())
    from lossbench.lock import LockedError
    from lossbench.tracking.server import RefusedError, ServerGoneError
    from lossbench.tracking.store import check_driver, store_of

    root = Path.cwd()
    store = store_of(root)
    check_driver(store)  # before anything else: what is no address cannot be completed later
    try:
        _track(params, root, reported)
    except LockedError:
        raise GateError("another `lossbench track` of this study is at work; nothing to do here") from None
    except OSError as error:
        raise GateError(f"{error.filename or root}: {error.strerror or error}") from None
    except (ServerGoneError, RefusedError) as error:
        sentence = (
            f"MLflow at {store.shown}: {error}; nothing is lost, `lossbench track` will complete the record"
        )
        if not lenient:
            raise GateError(sentence) from None
        print(f"warning: {sentence}", file=sys.stderr)


def _track(params: Params, root: Path, reported: Callable[[], bool]) -> None:
    from lossbench.outs import seen_from_top
    from lossbench.serving.logged import log_model
    from lossbench.tracking.store import store_of
    from lossbench.tracking.track import track

    tracked = track(
        params, root, say=print, charts=_charts(params, root), reported=reported, log_model=log_model
    )
    if not tracked.written and not tracked.present:
        print("MLflow: no arm has been trained yet; run `lossbench run`")
        return
    study = seen_from_top(root.resolve(), params)
    print(
        f"MLflow: {len(tracked.written)} arms recorded now, {len(tracked.present)} were there"
        + (f", {len(tracked.missing)} not trained yet" if tracked.missing else "")
        + f" ({store_of(root).shown}; `lossbench ui{f' --study {study}' if study else ''}` shows them)"
    )


def _charts(params: Params, root: Path) -> "Charts":
    from lossbench.reporting.drawn import anew, kept

    draw = cache(lambda: anew(params, root))  # once for all experiments, and only if something is to be drawn

    def drawn(experiment: str) -> "Drawn":
        from lossbench.tracking.track import Drawn

        found = kept(experiment, root, Outs(root).home) or draw()(experiment)
        return Drawn(found["charts"], found["colours"])

    return drawn


def live() -> None:
    """Show running arms until none is alive; training starts this by itself in long runs."""
    from lossbench.tracking.live import ship_live

    params = load_params()
    use_own_code(params, Path.cwd())
    ship_live(params, Path.cwd())


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--live", action="store_true", help="follow running trainings until they end")
    parser.add_argument("--lenient", action="store_true", help="a dead tracking server is just a warning")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    enter_study(chosen.study)
    collect_rarely()
    if chosen.live:
        live()
    else:
        record(chosen.lenient)
