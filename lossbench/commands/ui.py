"""Serve the MLflow UI on 127.0.0.1 and print where to look; Ctrl-C ends it."""

import argparse
import signal
from pathlib import Path
from types import FrameType

from lossbench.commands.study import enter_study, study_argument
from lossbench.errors import GateError
from lossbench.params import Params, load_params


def show(port: int) -> None:
    """Serve the study's store and print the pages of its experiments."""
    params = load_params()
    from lossbench.tracking import artifacts
    from lossbench.tracking.outs import home_of
    from lossbench.tracking.server import ServerGoneError, connect
    from lossbench.tracking.store import store_of
    from lossbench.tracking.ui import mlflow_server

    signal.signal(signal.SIGTERM, _stop)
    root = Path.cwd()
    store = store_of(root)
    try:
        connect(root)  # makes the tables of a fresh store, under the lock
    except ServerGoneError as error:
        raise GateError(f"MLflow at {store.shown}: {error}") from None
    if store.served:
        _print_pages(params, root, store.shown)
        return
    try:
        log, files = home_of(root) / "ui.log", artifacts.folder(store.uri)
        with mlflow_server(store.uri, log, port, files) as base:
            _print_pages(params, root, base)
            print("\nCtrl-C ends it.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print()


def _print_pages(params: Params, root: Path, base: str) -> None:
    from lossbench.tracking.server import connect
    from lossbench.tracking.ui import addresses

    print(f"MLflow: {base}")
    pages = list(addresses(connect(root), params, root, base))
    for page in pages:
        print(f"\n{page.experiment}")
        for what, address in (("runs", page.table), ("charts", page.charts), ("compare", page.compare)):
            print(f"  {what:<8} {address}")
    if not pages:
        print("nothing is recorded yet; run `lossbench run` (or `lossbench track`)")


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    study_argument(parser)
    parser.add_argument("--port", type=int, default=5000, help="another one is chosen where it is taken")


def main(chosen: argparse.Namespace) -> None:
    """Enter the study's folder and do it."""
    enter_study(chosen.study)
    show(chosen.port)
