"""Where a store's bytes lie: a folder of this machine, a shared one, or whatever fsspec has a name for.

A file is seen whole or not at all, on every kind of them: object stores show one when it is uploaded, and on
file systems it is written beside its place and renamed.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, unquote_to_bytes

from lossbench.errors import GateError, UserError
from lossbench.identity import part_name
from lossbench.system import write_atomically
from lossbench.telling import SHORTEST_SECRET, shown

STORE = "LOSSBENCH_STORE"
ALLOWED = "allowed: a folder, or an address that all processes reach, such as s3://bucket/folder"
LOCAL = ("file", "local")
"""Schemes of addresses that are folders."""
OBJECTS = frozenset(
    {"abfs", "abfss", "az", "gcs", "gs", "http", "https", "memory", "oci", "oss", "r2", "s3", "s3a"}
)
"""Protocols whose files are there when they are whole, and that have no folders to be made."""
CACHES = frozenset({"blockcache", "cached", "filecache", "simplecache"})
"""Protocols that would go on showing what was there before."""
NO_USERINFO = frozenset({"gcs", "gs", "s3", "s3a"})
"""Protocols whose addresses have no room for a name and a password."""
DATES = ("LastModified", "last_modified", "mtime", "updated", "created", "modified")
"""What file systems call the time at which a file was written."""
SECRET_NAMES = ("KEY", "KEY_ID", "PASSWORD", "SECRET", "TOKEN")
"""How variables end that hold what nobody is told."""
TRIES = 3
"""At writing into a folder that somebody removes at the same time."""


@dataclass(frozen=True)
class File:
    """A file of a place.

    Attributes:
        path: from the place's root.
        size: in bytes.
        written: seconds since the epoch.

    """

    path: str
    size: int
    written: float


class Place(Protocol):
    """Where bytes lie: a folder, or anything that fsspec has a name for."""

    def read(self, path: str) -> bytes:
        """Read a file; FileNotFoundError where there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file that others see whole or not at all."""

    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one; says whether it was written."""

    def files(self) -> Iterator[File]:
        """List all files, but for those that are being written."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder and what it holds; nothing, where there is none."""


@dataclass(frozen=True)
class Folder:
    """A place on this machine's disk, or on one that several machines share."""

    root: Path

    def read(self, path: str) -> bytes:
        """Read a file."""
        return (self.root / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """Write a file atomically."""
        for attempt in range(TRIES):
            try:
                return write_atomically(self.root / path, content)
            except FileNotFoundError:  # its folder was removed meanwhile: damaged entries are dropped whole
                if attempt == TRIES - 1:
                    raise
        return None

    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one: linking fails where the name is taken."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{part_name(file.name)}")
        try:
            part.write_bytes(content)
            os.link(part, file)
        except FileExistsError:
            return False
        finally:
            part.unlink(missing_ok=True)
        return True

    def files(self) -> Iterator[File]:
        """List all files; what a writer has not finished is not there."""
        for folder, below, names in os.walk(self.root):
            below.sort()
            for name in sorted(one for one in names if one[0] != "."):
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # it was removed while we were looking
                    found = path.stat()
                    yield File(path.relative_to(self.root).as_posix(), found.st_size, found.st_mtime)

    def remove(self, path: str) -> None:
        """Remove a file or a folder."""
        where = self.root / path
        if where.is_dir():
            shutil.rmtree(where, ignore_errors=True)
        else:
            where.unlink(missing_ok=True)


class Remote:
    """A place that fsspec reaches: ``s3://bucket/folder``, ``gs://…``, ``memory://…``.

    Args:
        address: of it.

    Raises:
        UserError: if the address cannot be one.

    """

    def __init__(self, address: str) -> None:
        import fsspec

        self._address = address
        protocol = _protocol(address)
        if protocol in CACHES:
            raise UserError(
                f"{STORE} is '{shown(address)}': '{protocol}' would show others' results too late; {ALLOWED}"
            )
        if protocol in NO_USERINFO and "@" in address:
            raise UserError(
                f"{STORE} is '{shown(address)}' with a name or password before it; allowed: the address "
                "alone, with credentials where their own tools look for them (such as AWS_ACCESS_KEY_ID)"
            )
        try:
            self._files, self._root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            told = without_secrets(str(error), address)
            raise UserError(
                f"{STORE} is '{shown(address)}', which needs a package: {told} (for s3:// it is in "
                "requirements-services.lock)"
            ) from None
        except Exception as error:  # every file system has errors of its own
            told = without_secrets(str(error), address)
            raise UserError(f"{STORE} is '{shown(address)}': {told}; {ALLOWED}") from None
        self._root = self._root.rstrip("/")
        self._objects = _kinds(self._files) <= OBJECTS

    def read(self, path: str) -> bytes:
        """Read a file."""
        with self._reaching():
            self._files.invalidate_cache()  # a listing from before may not know what others have written
            content: bytes = self._files.cat_file(self._at(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a file; object stores show it when it is whole, elsewhere it is renamed."""
        with self._reaching(writing=True):
            if self._objects:
                self._files.pipe_file(self._at(path), content)
            else:
                self._rename(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one, by a conditional put where there is such a thing."""
        try:
            with self._reaching(writing=True):
                if self._objects:
                    self._files.pipe_file(self._at(path), content, mode="create")
                elif self._files.exists(self._at(path)):
                    return False
                else:  # two at once: the later counts
                    self._rename(path, content)
        except FileExistsError:
            return False
        return True

    def _rename(self, path: str, content: bytes) -> None:
        """Write a file beside its place, then put it there."""
        where = self._at(path)
        folder, _, name = where.rpartition("/")
        part = f"{folder}/.{part_name(name)}"
        self._files.makedirs(folder, exist_ok=True)
        try:
            self._files.pipe_file(part, content)
            self._files.mv(part, where)
        except BaseException:
            with suppress(Exception):  # what went wrong is told; this would hide it
                self._files.rm_file(part)
            raise

    def files(self) -> Iterator[File]:
        """List all files, by as few requests as there can be."""
        with self._reaching():
            self._files.invalidate_cache()
            found = self._files.find(self._root, detail=True)
        start = len(self._root) + 1
        for name, told in sorted(found.items()):
            path = name[start:]
            if path.rpartition("/")[2][:1] != ".":
                yield File(path, int(told.get("size") or 0), self._written(name, told))

    def remove(self, path: str) -> None:
        """Remove a file or a folder, if it is there."""
        with suppress(FileNotFoundError), self._reaching():
            self._files.invalidate_cache()
            self._files.rm(self._at(path), recursive=True)

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if self._root else path

    def _written(self, name: str, told: Mapping[str, Any]) -> float:
        found = next((told[key] for key in DATES if told.get(key) is not None), None)
        if found is None:
            with self._reaching():
                found = self._files.modified(name)
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        return float(found)

    @contextmanager
    def _reaching(self, writing: bool = False) -> Iterator[None]:
        """Say in a sentence what stands in the way: no network, no right, no or a full bucket.

        Raises:
            GateError: naming the address.
            UserError: if there is no such bucket or server's folder to write to.
            FileNotFoundError: if there is no such file to read.
            FileExistsError: if a file is there that was not to be overwritten.

        """
        try:
            yield
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            if not writing:
                raise
            raise UserError(
                f"{STORE} is '{shown(self._address)}': {self._told(error)}; allowed: a place that is there"
            ) from None
        except Exception as error:  # every file system has errors of its own
            raise GateError(
                f"{STORE} is '{shown(self._address)}': {self._told(error)}; what was finished is kept: run "
                "the same command again when that is mended"
            ) from error

    def _told(self, error: Exception) -> str:
        said = without_secrets(str(error), self._address).strip().partition("\n")[0]
        if isinstance(error, PermissionError):
            return f"no right to read or write there ({said or 'the server refuses'})"
        return said or type(error).__name__


def place_of(address: str) -> Place:
    """Find where an address leads; a folder, also as ``file:///…``, is one.

    Raises:
        UserError: if the address cannot be one, or leads below a file.

    """
    folder = folder_of(address)
    if folder is None:
        return Remote(address)
    there = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), None)
    if there is not None and not there.is_dir():
        raise UserError(f"{STORE} is '{address}', but {there} is no folder; {ALLOWED}")
    return Folder(folder)


def folder_of(address: str) -> Path | None:
    """The folder that an address means; None for what fsspec alone reaches.

    Raises:
        UserError: if it names a folder as seen from nowhere.

    """
    scheme, found, rest = address.partition(":")
    if found and scheme.lower() in LOCAL:
        path = rest.removeprefix("//").removeprefix("localhost")
        if not path.startswith("/"):
            raise UserError(f"{STORE} is '{address}'; allowed: {scheme}:/// and a folder's whole path")
        return Path(os.fsdecode(unquote_to_bytes(path)))
    if "://" in address:
        return None
    try:
        return Path(address).expanduser()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{STORE} is '{address}': {error}") from None


def folder_behind(address: str) -> Path | None:
    """The folder of this machine in which an address ends, be it a chain of fsspec's; None for any other.

    Example:
        >>> folder_behind("dir://b::file:///a")
        PosixPath('/a/b')

    """
    first, *chained = address.split("::")
    if not chained:
        return folder_of(address)
    for one in chained:
        if one.partition(":")[0].lower() in LOCAL:
            base = folder_of(one)
            if base is not None and first.startswith("dir://"):
                return base / first.removeprefix("dir://")
            return base
    return None


def absolute(address: str) -> str:
    """The address as any working directory sees it."""
    folder = folder_of(address)
    return address if folder is None else str(folder.resolve())


def without_secrets(text: str, address: str) -> str:
    """Take an address's name and password, and what the environment keeps secret, out of a text.

    Example:
        >>> without_secrets("no route to me:hunter2@host", "ftp://me:hunter2@host/x")
        'no route to ***@host'

    """
    secrets = set()
    if "@" in address:
        info = address.partition("://")[2].rpartition("@")[0]
        secrets |= {info, unquote(info), info.partition(":")[2], unquote(info.partition(":")[2])}
    secrets |= {value for name, value in os.environ.items() if name.upper().endswith(SECRET_NAMES)}
    for one in sorted(secrets, key=len, reverse=True):
        if len(one) >= SHORTEST_SECRET:
            text = text.replace(one, "***")
    return text


def _protocol(address: str) -> str:
    return address.partition("::")[0].partition("://")[0].lower()


def _kinds(files: Any) -> frozenset[str]:
    """Protocols of a file system; of one that only adds a folder to another's, the other's."""
    inner = getattr(files, "fs", None)
    if inner is not None and hasattr(inner, "protocol"):
        return _kinds(inner)
    names = files.protocol
    return frozenset([names] if isinstance(names, str) else names)
