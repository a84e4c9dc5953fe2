"""A file of scores as programs write them: its encoding, its separator, its lines, into a mapping a row."""

import codecs
import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossbench.errors import UserError
from lossbench.verdicts.table import LONG, WIDE, check_header

SEPARATOR = re.compile(r"(?i)sep=.")
COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
REMARK = "#"
MOST_BYTES = 256 * 2**20
STDIN = Path("-")
GZIP = b"\x1f\x8b"
OTHERS = {
    b"PAR1": ("a Parquet file", "pandas.read_parquet"),
    b"ARROW1": ("a Feather file", "pandas.read_feather"),
    b"PK\x03\x04": ("a workbook (.xlsx, .ods) or another archive", "pandas.read_excel"),
    b"\xd0\xcf\x11\xe0": ("an old workbook (.xls)", "pandas.read_excel"),
    b"\x89HDF": ("an HDF5 file", "pandas.read_hdf"),
    b"BZh": ("a bzip2 file", "pandas.read_csv"),
    b"\xfd7zXZ": ("an xz file", "pandas.read_csv"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "pandas.read_csv"),
    b"SQLite format 3": ("a SQLite database", "pandas.read_sql"),
}
"""First bytes of tables that are no text: what they are, and what reads them."""


@dataclass(frozen=True)
class Line:
    """A row of cells, and the number of the line on which it begins, as an editor counts."""

    number: int
    cells: list[str]


def read_csv(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a CSV file (comma, semicolon or tab; gzip too) into one mapping a row, each with its line's name.

    Blank lines count but hold nothing, nor do lines that begin with ``#`` and do not look like a row.

    Args:
        file: to read; ``-`` is standard input.

    Returns:
        A row each: where it stands ("line 7"), and header → cell.

    Raises:
        UserError: naming the file, and the line, and what is wrong with it.

    """
    what = named(file)
    lines = _lines(_text(_content(file, what), what))
    delimiter, rows = _rows(lines, what)
    header, *rest = rows
    names = [name.strip() for name in header.cells]
    for row in rest:
        if len(row.cells) != len(names):
            raise UserError(f"{what}: line {row.number} has {len(row.cells)} cells, the header {len(names)}")
    check_header(names, what)
    cells = [[cell.strip() for cell in row.cells] for row in rest]
    if delimiter != ",":
        cells = _decimal_points(cells)
    return [
        (f"line {row.number}", dict(zip(names, each, strict=True)))
        for row, each in zip(rest, cells, strict=True)
    ]


def named(file: Path) -> str:
    """Name a file in messages."""
    return "standard input" if file == STDIN else str(file)


def _content(file: Path, what: str) -> bytes:
    try:
        if file == STDIN:
            content = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with file.open("rb") as stream:
                content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{what}: no such file") from None
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{what}: cannot be read: {said}") from None
    if content.startswith(GZIP):
        content = _unpacked(content, what)
    if len(content) > MOST_BYTES:
        raise UserError(f"{what}: larger than {MOST_BYTES >> 20} MB; a table of scores is expected")
    for first, (kind, reader) in OTHERS.items():
        if content.startswith(first):
            raise UserError(
                f"{what}: {kind}, and a CSV file is read here; save it as CSV, or in Python: "
                f"lossbench.verdict({reader}(…), …)"
            )
    return content


def _unpacked(content: bytes, what: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{what}: begins as a gzip file and cannot be unpacked: {error}") from None


def _text(content: bytes, what: str) -> str:
    """Decode UTF-8, or the UTF-16 in which spreadsheets save "Unicode text" and which says so itself."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f'{what}: not UTF-8 text ({error.reason} at byte {error.start}); save it as "CSV UTF-8"'
        ) from None
    if "\0" in text:
        raise UserError(f'{what}: holds NUL bytes, as UTF-16 without its mark does; save it as "CSV UTF-8"')
    return text


def _lines(text: str) -> list[str]:
    """Split where editors begin a line: Python would at a form feed or U+2028 too, within a name."""
    lines = list(io.StringIO(text, newline=""))
    if lines and SEPARATOR.fullmatch(lines[0].strip()):  # what Excel writes for itself; the header shows it
        lines[0] = "\n"
    return lines


def _rows(lines: Sequence[str], what: str) -> tuple[str, list[Line]]:
    """Give the delimiter, and all rows with the header first."""
    first = next((number for number, line in enumerate(lines) if _holds(line) and not _remark(line)), None)
    headed = None if first is not None and _names_seeds(lines[first]) else _headed_by_remark(lines[:first])
    if headed is not None:  # as numpy writes a header
        lines = [*lines[:headed], lines[headed].lstrip().removeprefix(REMARK), *lines[headed + 1 :]]
        first = headed
    if first is None:
        raise UserError(f"{what}: empty; expected a header, {LONG} or {WIDE}, and a row per score")
    delimiter = _delimiter(lines[first])
    rows = list(_numbered([*["\n"] * first, *lines[first:]], delimiter, what))
    if not rows:
        raise UserError(f"{what}: no cell holds anything; expected a header, {LONG} or {WIDE}")
    width = len(rows[0].cells)
    kept = rows[:1]
    for row in rows[1:]:
        if not _remark(lines[row.number - 1]):
            kept.append(row)
        elif len(row.cells) == width:
            raise UserError(
                f"{what}: line {row.number} begins with '#' and has as many cells as the header: is it left "
                "out, or does a name begin so? Take the line out, or put the name in quotation marks"
            )
    return delimiter, kept


def _numbered(lines: Iterable[str], delimiter: str, what: str) -> Iterator[Line]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begun = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield Line(begun, cells)
            begun = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{what}: line {begun}: not a table of comma-separated values: {error}") from None


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _holds(line: str) -> bool:
    return bool(line.strip(",;\t\r\n "))


def _remark(line: str) -> bool:
    return line.lstrip().startswith(REMARK)


def _headed_by_remark(before: Sequence[str]) -> int | None:
    """Find the last remark before the table that names a seed: it is the header."""
    return next((n for n in reversed(range(len(before))) if _names_seeds(before[n])), None)


def _names_seeds(line: str) -> bool:
    cells = line.lstrip().removeprefix(REMARK).split(_delimiter(line))
    return len(cells) > 1 and "seed" in {cell.strip().strip('"').lower() for cell in cells}


def _decimal_points(cells: list[list[str]]) -> list[list[str]]:
    """Write 0,5 as 0.5 where commas part no cells, and no number has a point: else one could be thousands."""
    if not any(COMMA.fullmatch(cell) for row in cells for cell in row):
        return cells
    if any(POINT.fullmatch(cell) for row in cells for cell in row):
        return cells
    return [[cell.replace(",", ".") if COMMA.fullmatch(cell) else cell for cell in row] for row in cells]
