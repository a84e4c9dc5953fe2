"""The store: what was computed once, by the hash of all that made it.

An entry is a JSON file that names its files by their SHA-256; it is written last, so it is there whole or not
at all, on a disk as on an object store, and several may write it at once. What was damaged since is noticed
when it is read, told, and computed anew.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lossbench.errors import GateError, UserError, shown
from lossbench.system import write_atomically

STORE = "LOSSBENCH_STORE"
FRESH = "LOSSBENCH_FRESH"


class DamagedError(Exception):
    """An entry's bytes are not those that were written."""


class Place(Protocol):
    """Where bytes lie: a folder, or anything that fsspec has a name for."""

    def read(self, path: str) -> bytes:
        """Read a file; FileNotFoundError where there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file that others see whole or not at all."""

    def list(self, folder: str) -> list[str]:
        """Names of what lies in a folder; empty where there is none."""

    def remove(self, folder: str) -> None:
        """Remove a folder and what it holds."""


@dataclass(frozen=True)
class Folder:
    """A place on this machine's disk."""

    root: Path

    def read(self, path: str) -> bytes:
        """Read a file."""
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically."""
        write_atomically(self.root / path, content)

    def list(self, folder: str) -> list[str]:
        """List a folder; what a writer has not finished is not there."""
        where = self.root / folder
        return sorted(one.name for one in where.iterdir() if one.name[0] != ".") if where.is_dir() else []

    def remove(self, folder: str) -> None:
        """Remove a folder."""
        shutil.rmtree(self.root / folder, ignore_errors=True)


class Remote:
    """A place that fsspec reaches: ``s3://bucket/folder``, ``gs://…``, ``memory://…``."""

    def __init__(self, address: str) -> None:
        import fsspec

        self._address = address
        try:
            self._files, self._root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise UserError(f"{STORE} is '{shown(address)}': {error}") from None
        except ValueError as error:
            raise UserError(
                f"{STORE} is '{shown(address)}': {error}; allowed: a folder, or an address"
            ) from None

    def read(self, path: str) -> bytes:
        """Read a file."""
        with self._reaching():
            content: bytes = self._files.cat_file(f"{self._root}/{path}")
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a file; object stores show it when it is whole."""
        where = f"{self._root}/{path}"
        with self._reaching():
            self._files.makedirs(where.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(where, content)

    def list(self, folder: str) -> list[str]:
        """List a folder."""
        where = f"{self._root}/{folder}".rstrip("/")
        try:
            with self._reaching():
                self._files.invalidate_cache(where)
                found = self._files.ls(where, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def remove(self, folder: str) -> None:
        """Remove a folder, if it is there."""
        with suppress(FileNotFoundError), self._reaching():
            self._files.rm(f"{self._root}/{folder}", recursive=True)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Say in a sentence what stands in the way: no network, no right, a full bucket.

        Raises:
            GateError: naming the address.
            FileNotFoundError: if there is no such file.

        """
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # every file system has errors of its own
            told = str(error).partition("\n")[0] or type(error).__name__
            raise GateError(
                f"{STORE} is '{shown(self._address)}': {told}; what was finished is kept: run the same "
                "command again when that is mended"
            ) from error


@dataclass(frozen=True)
class Entry:
    """What an entry says, and its files, read when they are asked for.

    Raises:
        DamagedError: when a file is read whose bytes are not those that were written.

    """

    place: Place
    folder: str
    content: Mapping[str, Any]
    files: Mapping[str, str]

    def read(self, name: str) -> bytes:
        """Read one of the files and hold it against its hash."""
        digest = self.files[name]
        try:
            content = self.place.read(f"{self.folder}/{digest}")
        except FileNotFoundError:
            raise DamagedError(f"{self.folder}: its file '{name}' is gone") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise DamagedError(f"{self.folder}: its file '{name}' is not what was written")
        return content


@dataclass(frozen=True)
class Store:
    """Entries by kind and key.

    Attributes:
        address: a folder, or an address that fsspec knows.
        say: hears a sentence for each entry that was damaged.

    """

    address: str
    say: Callable[[str], None] = lambda sentence: print(f"warning: {sentence}", file=sys.stderr)

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Remote(self.address) if "://" in self.address else Folder(Path(self.address))

    def get(self, kind: str, key: str) -> Entry | None:
        """Look an entry up; one that is damaged is told, and is none."""
        folder = _folder(kind, key)
        try:
            written = self.place.read(f"{folder}/entry.json")
        except FileNotFoundError:
            return None
        try:
            return _entry(self.place, folder, written)
        except DamagedError as error:
            self.say(f"{self.shown}: {error}; it is computed anew")
            return None

    def put(
        self, kind: str, key: str, content: Mapping[str, Any], files: Mapping[str, bytes] | None = None
    ) -> Entry:
        """Keep an entry; whoever looks sees it whole or not at all."""
        folder, place = _folder(kind, key), self.place
        digests = {}
        for name, written in (files or {}).items():
            digests[name] = hashlib.sha256(written).hexdigest()
            place.write(f"{folder}/{digests[name]}", written)
        body = json.dumps({"content": content, "files": digests})
        sealed = json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})
        place.write(f"{folder}/entry.json", sealed.encode())
        return Entry(place, folder, json.loads(body)["content"], digests)

    def drop(self, kind: str, key: str) -> None:
        """Forget an entry."""
        self.place.remove(_folder(kind, key))

    def entries(self) -> Iterator[tuple[str, str]]:
        """List kind and key of all entries."""
        for kind in self.place.list(""):
            for start in self.place.list(kind):
                for key in self.place.list(f"{kind}/{start}"):
                    yield kind, key

    def damaged(self) -> list[tuple[str, str, str]]:
        """Read everything; list kind, key and a sentence for each entry that is not what was written."""
        found = []
        for kind, key in self.entries():
            folder = _folder(kind, key)
            try:
                entry = _entry(self.place, folder, self.place.read(f"{folder}/entry.json"))
                for name in entry.files:
                    entry.read(name)
            except FileNotFoundError:
                found.append((kind, key, f"{folder}: it has no entry.json: its writer was killed"))
            except DamagedError as error:
                found.append((kind, key, str(error)))
        return found

    @property
    def shown(self) -> str:
        """The address without a password."""
        return shown(self.address)


def _entry(place: Place, folder: str, written: bytes) -> Entry:
    try:
        sealed = json.loads(written)
        body = sealed["body"]
        if hashlib.sha256(body.encode()).hexdigest() != sealed["sha256"]:
            raise DamagedError(f"{folder}: entry.json is not what was written")
        read = json.loads(body)
        return Entry(place, folder, read["content"], read["files"])
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeError):
        raise DamagedError(f"{folder}: entry.json cannot be read") from None


def _folder(kind: str, key: str) -> str:
    return f"{kind}/{key[:2]}/{key}"


@contextmanager
def opened(home: Path) -> Iterator[Store]:
    """Open the study's store: ``LOSSBENCH_STORE``, or ``store`` in its private folder.

    ``LOSSBENCH_FRESH=1`` makes it an empty one for as long as the block runs, for the processes that it
    starts too.
    """
    if os.environ.get(FRESH) != "1":
        yield Store(_reachable(os.environ.get(STORE) or str(home / "store")))
        return
    home.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.get(name) for name in (STORE, FRESH)}
    with tempfile.TemporaryDirectory(prefix="fresh-", dir=home, ignore_cleanup_errors=True) as folder:
        os.environ[STORE] = str(Path(folder).resolve())
        del os.environ[FRESH]
        try:
            yield Store(os.environ[STORE])
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _reachable(address: str) -> str:
    """Refuse what other processes would not find anything in, before hours are spent.

    Raises:
        UserError: naming the variable.

    """
    allowed = "allowed: a folder, or an address that all processes reach, such as s3://bucket/folder"
    if address.startswith("memory:"):
        raise UserError(f"{STORE} is '{address}', which each process has for itself; {allowed}")
    if "://" not in address and Path(address).exists() and not Path(address).is_dir():
        raise UserError(f"{STORE} is '{address}', which is no folder; {allowed}")
    return address


def hashed(content: Any) -> str:
    """Hash JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()
