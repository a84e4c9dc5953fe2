"""Backup and restore of what git and DVC do not hold: MLflow's store, its artifacts, the records."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from lossbench.errors import GateError, UserError
from lossbench.lock import REPRO_LOCK, HeldError, only_one
from lossbench.retraining.contents import file_digest
from lossbench.tracking import artifacts
from lossbench.tracking.artifacts import FOLDER as ARTIFACTS
from lossbench.tracking.outs import home_of
from lossbench.tracking.server import RefusedError, ServerGoneError, connect, remove_store
from lossbench.tracking.store import STORE, store_of

RECORDS = "reports/retraining*"
INVENTORY = "backup.json"
LOCKS = {"retraining.lock": "retraining", REPRO_LOCK: "`lossbench run`"}
Say = Callable[[str], None]


def backup(root: Path, into: Path, say: Say = print) -> None:
    """Back a study's store, artifacts and records up; the folder appears whole or not at all.

    Of a tracking server the records alone: its store is backed up where it runs.

    Args:
        root: the study's folder.
        into: a folder that does not exist yet.
        say: hears what was written.

    Raises:
        UserError: the folder exists, or lies in what is backed up.
        GateError: a retraining or `lossbench run` is at work.

    """
    if into.exists():
        raise UserError(f"{into}: exists already; name a folder that does not")
    if (root / ARTIFACTS).resolve() in into.resolve().parents:
        raise UserError(f"{into}: lies in {ARTIFACTS}, which is backed up; name a folder elsewhere")
    part = into.with_name(f".{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with _undisturbed(root):
            _copy_store(root, part, say)
            for file in sorted(root.glob(RECORDS)):
                _copy(file, part / file.relative_to(root))
        _write_inventory(root, part)
        part.replace(into)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    count = sum(one.is_file() for one in into.rglob("*"))
    say(f"{into}: {count} files; `lossbench restore {into}` puts them back")


def _copy_store(root: Path, part: Path, say: Say) -> None:
    named = store_of(root)
    store = artifacts.database(named.uri)
    if store is None:
        say(f"{named.shown}: a server's store is backed up where it runs; here: records")
        return
    if not store.is_file():
        say(f"{store}: there is none yet; here the records alone")
        return
    try:
        connect(root)  # where the study was moved to, the store's files are looked up from then on
    except (ServerGoneError, RefusedError) as error:
        raise GateError(f"{named.shown}: {error}") from None
    with (
        closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as source,
        closing(sqlite3.connect(part / STORE)) as target,
    ):
        source.backup(target)  # one moment of the store, whoever writes to it meanwhile
    files = store.parent / ARTIFACTS
    if files.is_dir():
        shutil.copytree(files, part / ARTIFACTS, symlinks=True)


def _write_inventory(root: Path, part: Path) -> None:
    files = {
        str(file.relative_to(part)): file_digest(file)
        for file in sorted(part.rglob("*"))
        if file.is_file() and not file.is_symlink()
    }
    content = {
        "lossbench": "backup",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": str(root.resolve()),
        "files": files,
    }
    (part / INVENTORY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def restore(root: Path, source: Path, say: Say = print) -> None:
    """Put a backup back, into any study's folder: addresses of files are rewritten to where they are now.

    Args:
        root: the study's folder, whatever it is called now.
        source: what :func:`backup` wrote.
        say: hears what was put back.

    Raises:
        UserError: this is no backup, a file of it is missing or damaged, or there is a store here already.
        GateError: a retraining or `lossbench run` is at work.

    """
    files = _inventory(source)
    if not (root / "params.yaml").is_file():
        raise UserError(f"{root / 'params.yaml'}: no such file; run from a study's folder")
    with _undisturbed(root):
        for name in (STORE, ARTIFACTS):
            if (root / name).exists() and any(Path(one).parts[0] == name for one in files):
                raise UserError(f"{root / name}: is there already; move it away first")
        # The store last, complete and with its new addresses: without it nothing was restored.
        for name in (one for one in files if one != STORE):
            _keep_aside(root / name, files[name], say)
            _copy(source / name, root / name)
        if STORE in files:
            part = root.resolve() / f".{STORE}.part"
            _copy(source / STORE, part)
            artifacts.follow(part)
            remove_store(root / STORE)  # the log of a store that is gone would be read into this one
            part.replace(root / STORE)
    say(f"{len(files)} files are back; `lossbench track` completes the record, `lossbench retrain` goes on")


def _inventory(source: Path) -> dict[str, str]:
    file = source / INVENTORY
    try:
        content = json.loads(file.read_bytes())
        files = {str(name): str(digest) for name, digest in content["files"].items()}
        if content["lossbench"] != "backup":
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: not there, or not what `lossbench backup` writes") from None
    for name, digest in files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{file}: names a file outside of the backup: {name}")
        if not (source / name).is_file():
            raise UserError(f"{source / name}: missing from the backup")
        if file_digest(source / name) != digest:
            raise UserError(f"{source / name}: damaged (another SHA-256 than {INVENTORY} says)")
    return files


def _keep_aside(file: Path, digest: str, say: Say) -> None:
    """Rename a record that is there and is another: what was decided since the backup stands in it alone."""
    if not file.is_file() or file_digest(file) == digest:
        return
    number = 1
    while (aside := file.with_name(f"{file.name}.before-restore-{number}")).exists():
        number += 1
    file.replace(aside)
    say(f"{file}: was there, and another than the backup's; kept as {aside.name}")


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


@contextmanager
def _undisturbed(root: Path) -> Iterator[None]:
    """Hold what retraining and `lossbench run` hold while they are at work."""
    with ExitStack() as held:
        try:
            for name, what in LOCKS.items():
                held.enter_context(only_one(home_of(root) / name, what))
        except HeldError as error:
            raise GateError(f"{error}; try again when it has ended") from None
        yield
