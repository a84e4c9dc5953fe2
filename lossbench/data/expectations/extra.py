"""A user's own expectations, read from YAML: any Great Expectations class by its name."""

from pathlib import Path
from typing import Any

from lossbench.data.expectations.suite import Expected
from lossbench.documents import read_document
from lossbench.errors import UserError, brief, nearest


def extra_file(text: str, study: Path = Path()) -> Path:
    """Find the file that ``expectations.extra`` names, from the study's folder; ``~`` is the home folder.

    Raises:
        UserError: where it names nobody's home.

    """
    try:
        return study / Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"'expectations.extra' is {brief(text)}: {error}") from None


def read_extra(file: Path) -> list[Expected]:
    """Read a user's expectations: a YAML list of {name, table, type, arguments, sentence, severity}.

    Raises:
        UserError: naming the file, the entry and what is missing or unknown.

    """
    entries = read_document(file, " (named by 'expectations.extra')")
    if not isinstance(entries, list):
        raise UserError(f"{file}: expected a list of expectations, found {type(entries).__name__}")
    return [_read_entry(entry, file, number) for number, entry in enumerate(entries, 1)]


def _read_entry(entry: Any, file: Path, number: int) -> Expected:
    allowed = {"name", "table", "type", "arguments", "sentence", "severity"}
    if not isinstance(entry, dict):
        raise UserError(
            f"{file}: entry {number} is {brief(entry)}; expected a mapping with name, type and arguments"
        )
    for key in entry:
        if key not in allowed:
            raise UserError(
                f"{file}: entry {number} has an unknown key '{key}'; {nearest(str(key), allowed)}"
            )
    for key in ("name", "type", "arguments"):
        if key not in entry:
            raise UserError(f"{file}: entry {number} has no '{key}'")
    severity = entry.get("severity", "critical")
    if severity not in ("critical", "warning", "info"):
        raise UserError(f"{file}: entry {number}: severity is '{severity}'; allowed: critical, info, warning")
    table = entry.get("table", "samples")
    if table not in ("samples", "classes", "drift"):
        raise UserError(f"{file}: entry {number}: table is '{table}'; allowed: classes, drift, samples")
    if not isinstance(entry["arguments"], dict):
        raise UserError(
            f"{file}: entry {number}: arguments are {brief(entry['arguments'])}; expected a mapping"
        )
    return Expected(
        str(entry["name"]),
        table,
        str(entry["type"]),
        entry["arguments"],
        str(entry.get("sentence", entry["name"])),
        severity,
    )
