"""The store: what was computed once, by the hash of all that made it.

An entry is a JSON file that names its files by their SHA-256; it is written last, so it is there whole or not
at all, on a disk as on an object store, and several may write it at once. What was damaged since is noticed
when it is read, told, and computed anew.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lossbench.backing import ALLOWED, STORE, File, Place, folder_of, place_of
from lossbench.errors import UserError
from lossbench.telling import shown

FRESH = "LOSSBENCH_FRESH"
MARKER = "store.json"
"""At the root of a store that several machines share: its format, and an id of its own."""
FORMAT = 1
IN_ENTRY = re.compile(r"(?P<kind>[^/]+)/(?P<start>[^/]+)/(?P<key>(?P=start)[^/]*)/(?P<name>[^/]+)")


class DamagedError(Exception):
    """An entry's bytes are not those that were written."""


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

    @cached_property
    def place(self) -> Place:
        """Where it lies."""
        return place_of(self.address)

    def identify(self) -> str:
        """Return the store's id, which is written when it is asked for first: so a place is tried, too.

        Raises:
            UserError: if a later Lossbench wrote it, or there is no such place.
            GateError: if it cannot be reached, or must not be written.

        """
        for _ in range(2):
            if (known := self.known()) is not None:
                return known
            fresh = json.dumps({"format": FORMAT, "id": uuid.uuid4().hex}).encode()
            self.place.create(MARKER, fresh)  # or somebody else just did
        return str(json.loads(self.place.read(MARKER))["id"])

    def known(self) -> str | None:
        """Return the store's id; None where there is no store yet.

        Raises:
            UserError: if a later Lossbench wrote it.

        """
        try:
            told = json.loads(self.place.read(MARKER))
            if told["format"] > FORMAT:
                raise UserError(f"{STORE} is '{self.shown}', which a later version of Lossbench wrote")
            return str(told["id"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            self.say(f"{self.shown}: {MARKER} is not what was written; it is written anew")
            self.place.remove(MARKER)
            return None

    def prove(self) -> None:
        """Write where results will be written, before hours are spent on them.

        Raises:
            UserError: if there is no such place.
            GateError: if it cannot be written.

        """
        probe = f"probes/{uuid.uuid4().hex}"
        self.place.write(probe, b"")
        self.place.remove(probe)

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
        body = json.dumps({"content": content, "files": digests, "of": folder})
        sealed = json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})
        place.write(f"{folder}/entry.json", sealed.encode())
        return Entry(place, folder, json.loads(body)["content"], digests)

    def drop(self, kind: str, key: str) -> None:
        """Forget an entry."""
        folder = _folder(kind, key)
        self.place.remove(f"{folder}/entry.json")  # first: whoever looks finds it whole or not at all
        self.place.remove(folder)

    def contents(self) -> dict[tuple[str, str], list[File]]:
        """List the files of all entries, by kind and key, those that have no entry.json included."""
        found: dict[tuple[str, str], list[File]] = {}
        for file in self.place.files():
            if named := IN_ENTRY.fullmatch(file.path):
                found.setdefault((named["kind"], named["key"]), []).append(file)
        return found

    def entries(self) -> Iterator[tuple[str, str]]:
        """List kind and key of all entries."""
        yield from self.contents()

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
        if read.get("of", folder) != folder:
            raise DamagedError(f"{folder}: entry.json is that of {read['of']}")
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
        store = Store(_reachable(os.environ.get(STORE) or str(home / "store")))
        if folder_of(store.address) is None:
            store.identify()  # what cannot be reached is told now, not after the first training
        yield store
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
    if address.startswith("memory:"):
        raise UserError(f"{STORE} is '{address}', which each process has for itself; {ALLOWED}")
    folder = folder_of(address)
    if folder is None:
        return address
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{STORE} is '{address}', which is no folder; {ALLOWED}")
    return str(folder)


def hashed(content: Any) -> str:
    """Hash JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()
