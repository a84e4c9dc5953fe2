"""Removing what the chain wrote: named outs and stores, and nothing that is not the chain's."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from lossbench import written
from lossbench.errors import GateError
from lossbench.lock import REPRO_LOCK, HeldError, only_one
from lossbench.originals import keep_apart, present
from lossbench.params import load_params

Say = Callable[[str], None]


def clean(study: Path, dry: bool, say: Say = print) -> None:
    """Remove a study's outs and stores; MLflow's record, DVC's cache and what git has stay.

    Args:
        study: its folder.
        dry: only say what would be removed.
        say: hears a line for each thing.

    Raises:
        UserError: where a path that the user named meets one of those; nothing was removed.
        GateError: while `lossbench run` is at work.

    """
    keep_apart(load_params(study / "params.yaml"), study)
    with nullcontext() if dry else _alone(study):
        _clean(study, dry, say)


@contextmanager
def _alone(study: Path) -> Iterator[None]:
    """Refuse to remove what `lossbench run` is at work on."""
    home = written.home(study)
    try:
        with only_one(home / REPRO_LOCK, "`lossbench run`") if home.is_dir() else nullcontext():
            yield
    except HeldError as held:
        raise GateError(f"{held}; try again when it has ended") from None


def _clean(study: Path, dry: bool, say: Say) -> None:
    removed = 0
    for path, found in (*_outs(study), *written.private(study)):
        if found:
            say(f"left: {path}: {found}")
            continue
        say(f"{'would remove' if dry else 'removed'}: {path}")
        removed += 1
        if not dry:
            _remove(path, study)
    if not removed:
        say("nothing to remove")


def _outs(study: Path) -> Iterator[tuple[Path, str | None]]:
    """List the outs that are there, halves too, each with what is not the chain's about it."""
    yield from ((path, found) for out, path, found in present(study) if out.cached)
    for out in written.outs(study):
        half = written.half(study / out.path)
        if written.layout_of(out.path) is written.DATA and os.path.lexists(half):
            yield half, written.foreign(half, written.UNFINISHED, known=True)


def _remove(path: Path, study: Path) -> None:
    """Remove a file, a folder or a link (what that leads to stays), and the folders it leaves empty."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == study or study not in parent.parents or parent.is_symlink() or any(parent.iterdir()):
            break
        parent.rmdir()
