"""Listing a user's folder: every file is accounted for, none is passed over in silence."""

import codecs
import csv
import io
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from lossbench.errors import UserError, brief

IGNORED = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""What file managers leave behind; so are names that begin with a dot."""
SIDES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


DELIMITERS = (",", ";", "\t")
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks and what they say, the longer first."""


def nfc(name: str) -> str:
    """Spell a name as names are compared: an accent may be a character of its own, or part of its letter."""
    return unicodedata.normalize("NFC", name)


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ValueError(f"'{twice[0]}' stands twice; each name may stand once")
    return names


Name = Annotated[str, Field(min_length=1), AfterValidator(nfc)]
"""A name in params.yaml that is held against names in the user's files."""
ClassNames = Annotated[tuple[Name, ...], AfterValidator(_once)]
"""Names in params.yaml, each once."""


def decoded(content: bytes, where: str) -> str:
    """Decode a text: UTF-8, or what its byte order mark says.

    Raises:
        UserError: beginning with ``where``.

    """
    mark = next((one for one in MARKS if content.startswith(one)), None)
    encoding = "utf-8" if mark is None else MARKS[mark]
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise UserError(f"{where}: not {name} text ({error.reason} at byte {error.start})") from None


def contents(file: Path) -> bytes:
    """Read a file.

    Raises:
        UserError: naming the file, if it cannot be read.

    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None


def read_text(file: Path) -> str:
    """Read a list or a table.

    Raises:
        UserError: naming the file, if it cannot be read or decoded.

    """
    return decoded(contents(file), str(file))


def csv_entries(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a table of text with a header, as CSV or as spreadsheets save it: separated by ``;`` or tabs.

    A first line ``sep=;``, which tells Excel what separates, is no row; nor are blank lines. Columns without
    a name and without a cell, which spreadsheets add on the right, are left out.

    Returns:
        the columns, and each row's number in the file with its cells.

    Raises:
        UserError: naming file and row.

    """
    (head, columns), *below = _csv_rows(file)
    columns = [name.strip() for name in columns]
    for number, row in below:
        if len(row) != len(columns):
            raise UserError(f"{file}, row {number}: more or fewer fields than the header has columns")
    bare = {place for place, name in enumerate(columns) if not (name or any(row[place] for _, row in below))}
    kept = [place for place in range(len(columns)) if place not in bare]
    names = [columns[place] for place in kept]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise UserError(f"{file}, row {head}: column {brief(twice)} stands twice; each name may stand once")
    if not below:
        raise UserError(f"{file}: no row below its header; expected one per image")
    return names, [(number, {columns[place]: row[place] for place in kept}) for number, row in below]


def _csv_rows(file: Path) -> list[tuple[int, list[str]]]:
    """Read the rows that are not blank, the header first, each with its number in the file."""
    text = nfc(read_text(file))
    if (place := text.find("\0")) >= 0:
        raise UserError(
            f"{file}, row {text.count(chr(10), 0, place) + 1}: a NUL, as binary files have; expected text, "
            "in UTF-8 or with a byte order mark"
        )
    skipped, separator, text = _told_separator(text)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
        return [(skipped + rows.line_num, row) for row in rows if row] or [(1, [])]
    except csv.Error as error:
        raise UserError(f"{file}: cannot be read as CSV: {error}") from None


TOLD = re.compile(r'\A((?:[ \t]*\r?\n)*)"?sep=(.)[^\w\r\n]*(?:\r\n|\r|\n)', re.IGNORECASE)
"""The line by which a table tells Excel what separates, perhaps in quotes or filled up with separators."""


def _told_separator(text: str) -> tuple[int, str, str]:
    """Read what separates cells: as the table's first line tells, else as its header shows.

    Returns:
        how many lines tell nothing else, the separator, and the lines after these.

    """
    if told := TOLD.match(text):
        return len(told[0].splitlines()), told[2], text[told.end() :]
    lines = text.splitlines(keepends=True)
    blank = next((place for place, line in enumerate(lines) if line.strip()), 0)
    head = lines[blank] if lines else ""
    return blank, next((one for one in DELIMITERS if one in head), ","), "".join(lines[blank:])


def user_path(path: str, key: str) -> Path:
    """Read a path of params.yaml; ``~`` is the home folder.

    Raises:
        UserError: naming the key, if no file can have this name.

    """
    if not path.strip() or "\0" in path:
        raise UserError(f"'{key}.path' is {brief(path)}, which names nothing; expected a file or folder")
    try:
        found = Path(path).expanduser()
        found.stat()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"'{key}.path' is {brief(path)}: {error}") from None
    except FileNotFoundError:
        pass  # the caller says what was expected there
    except OSError as error:
        raise UserError(f"'{key}.path' is {brief(path)}: {error.strerror or error}") from None
    return found


def existing_folder(path: str, key: str) -> Path:
    """Return the user's folder.

    Raises:
        UserError: naming the key, if it is missing or no folder.

    """
    folder = user_path(path, key)
    if not folder.exists():
        raise UserError(f"'{key}.path' is '{path}': no such folder")
    if not folder.is_dir():
        raise UserError(f"'{key}.path' is '{path}', a file; expected a folder")
    return folder


def natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by name that puts 2 before 10."""
    parts = re.split(r"([0-9]+)", path.name)
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts if part]
    return key, path.name


def entries(folder: Path) -> list[Path]:
    """List what a folder holds, in natural order, without what file managers leave behind."""
    try:
        found = sorted(folder.iterdir(), key=natural)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    kept = [one for one in found if not one.name.startswith(".") and one.name not in IGNORED]
    for one in kept:
        if not _is_text(one.name):  # neither a report nor a manifest could hold it
            raise UserError(f"{folder}: holds a name that is not UTF-8: {os.fsencode(one.name)!r}; rename it")
    return kept


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def files_in(folder: Path, what: str) -> list[Path]:
    """List a folder's files.

    Raises:
        UserError: if it is empty, or holds a folder.

    """
    found = entries(folder)
    for one in found:
        if one.is_dir():
            raise UserError(f"{one}: a folder inside {what}; its images must lie directly in {folder}")
        if not one.is_file():  # reading a pipe would wait for ever
            raise UserError(
                f"{one}: no file of an image (a broken link, a pipe or a device); move it elsewhere"
            )
    if not found:
        raise UserError(f"{folder}: {what} is empty; add images or remove the folder")
    return found


def below(folder: Path, name: str, where: str) -> Path:
    """Find a file or folder that a stranger's file names, below ``folder``.

    Raises:
        UserError: beginning with ``where``, if there is none, it lies elsewhere, or it is a pipe or a device.

    """
    try:
        named = as_spelled(folder, name)
        found = named.resolve()
        there = found.is_file() or found.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL byte, a loop of links
        raise UserError(f"{where}: {brief(name)} names no file: {error}") from None
    if not found.is_relative_to(folder.resolve()):
        raise UserError(f"{where}: {brief(name)} leads out of {folder}")
    if not there:
        raise UserError(f"{where}: {brief(name)} is not in {folder}")
    return named


def as_spelled(folder: Path, name: str) -> Path:
    r"""Find ``folder / name`` where it is spelled otherwise: an accent, a letter's case, ``\`` for ``/``.

    A name is found as it stands if it can be; else by what it is alike to, if there is one such.
    """
    whole = folder / name
    if whole.exists():
        return whole
    for plain in (nfc, _loose):
        here = folder
        for part in PurePosixPath(name.replace("\\", "/")).parts:
            here = _alike(here, part, plain)
        if here.exists():
            return here
    return whole


def _alike(folder: Path, part: str, plain: Callable[[str], str]) -> Path:
    there = folder / part
    if there.exists() or not folder.is_dir():
        return there
    names = _names(folder, folder.stat().st_mtime_ns).get(_loose(part), ())
    found = [one for one in names if plain(one) == plain(part)]
    return folder / found[0] if len(found) == 1 else there


def _loose(name: str) -> str:
    return nfc(name).casefold()


@lru_cache(maxsize=16)
def _names(folder: Path, changed: int) -> Mapping[str, Sequence[str]]:
    """What a folder holds, by names without case: listed once, for a table may name all of it."""
    del changed  # when the folder was; it is a part of the key alone
    found: dict[str, list[str]] = {}
    for one in folder.iterdir():
        found.setdefault(_loose(one.name), []).append(one.name)
    return found


def split_folders(folder: Path) -> Mapping[str, Path] | None:
    """Find train/val/test folders, if the user's folder is divided so.

    Returns:
        split → folder, or None where no sub-folder is named like a split.

    Raises:
        UserError: for a folder beside them that is no split, a split twice, or none to train on.

    """
    below = [one for one in entries(folder) if one.is_dir()]
    if not any(one.name.lower() in SIDES for one in below):
        return None
    found: dict[str, Path] = {}
    for one in below:
        split = SIDES.get(one.name.lower())
        if split is None:
            raise UserError(f"{one}: beside a train folder only {_allowed()} may stand")
        if split in found:
            raise UserError(f"{one} and {found[split]} are both the {split} split; keep one")
        found[split] = one
    if "train" not in found:
        raise UserError(f"{folder}: no train folder beside {', '.join(one.name for one in below)}")
    return found


def split_lists(folder: Path, names: Mapping[str, str] = SIDES) -> dict[str, Path]:
    """Find a folder's ``train.txt``, ``val.txt`` and ``test.txt``, in any case: split → the list.

    Args:
        folder: which need not be there.
        names: a list's name, in lower case, without its ending → the split.

    Raises:
        UserError: for two lists of one split.

    """
    found: dict[str, Path] = {}
    for one in entries(folder) if folder.is_dir() else ():
        split = names.get(one.stem.lower()) if one.suffix.lower() == ".txt" and one.is_file() else None
        if split is not None and found.setdefault(split, one) != one:
            raise UserError(f"{found[split]} and {one.name} are both lists of the {split} split; keep one")
    return {split: found[split] for split in dict.fromkeys(names.values()) if split in found}


def _allowed() -> str:
    return ", ".join(f"'{name}'" for name in SIDES)


def by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Index files by their name without its ending.

    Raises:
        UserError: if two share it.

    """
    found: dict[str, Path] = {}
    for file in files:
        twin = found.setdefault(nfc(file.stem), file)
        if twin != file:
            same = "ending" if twin.stem == file.stem else "spelling of accents"
            raise UserError(f"{file} and {twin.name} differ in their {same} only; keep one")
    return found
