"""YAML that a user wrote, read safely: small, shallow, without tags that construct objects, without bombs."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

from lossbench.errors import UserError

MAX_BYTES = 2**21
MAX_DEPTH = 50
"""Of brackets and indentation; the parser's own recursion would end the process far beyond it."""
MAX_NODES = 200_000
"""Values, once every alias is written out: a few lines of aliases to aliases can stand for billions."""

LONG_NUMBER = re.compile(r"[-+]?(0[xob])?[0-9a-fA-F_,:]{100,}")
"""Python refuses to write out integers of thousands of digits, in messages too."""

# What the constructors of scalars raise beside YAMLError: `!!int abc`, `!!bool abc`, 2001-99-99.
UNFIT = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


def read_document(file: Path, missing: str) -> Any:
    """Read a YAML document.

    Args:
        file: the document, UTF-8.
        missing: what to say of a file that is not there.

    Raises:
        UserError: naming the file and why it cannot be read, or is not what we read.

    """
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{file}: no file; expected a file of YAML")
        content = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: no such file{missing}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{file}: {len(content)} bytes of YAML; at most {MAX_BYTES} are read")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    return _parsed(text, file)


def _parsed(text: str, file: Path) -> Any:
    try:
        _refuse_bombs(YAML(typ="safe").parse(text), file)
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    except UNFIT as error:
        raise UserError(f"{file}: not valid YAML: a value does not fit its type: {error}") from None


def _refuse_bombs(events: Iterable[Any], file: Path) -> None:
    """Measure depth, and size with aliases written out, before anything is constructed."""
    sizes = [0]  # of the collections around the present event, the document first
    names: list[str | None] = [None]
    known: dict[str, int] = {}
    for event in events:
        if isinstance(event, CollectionStartEvent):
            sizes.append(1)
            names.append(event.anchor)
            known.pop(event.anchor, None)  # open: an alias to it from inside would never end
            if len(sizes) > MAX_DEPTH:
                raise UserError(f"{file}: values nested more than {MAX_DEPTH} deep (line {_line(event)})")
            continue
        if isinstance(event, CollectionEndEvent):
            size, name = sizes.pop(), names.pop()
        elif isinstance(event, AliasEvent):
            if event.anchor in names:
                raise UserError(f"{file}: '*{event.anchor}' stands inside itself (line {_line(event)})")
            size, name = known.get(event.anchor, 1), None
        elif isinstance(event, NodeEvent):
            _refuse_long_number(event, file)
            size, name = 1, event.anchor
        else:
            continue
        if name is not None:
            known[name] = size
        sizes[-1] += size
        if sum(sizes) > MAX_NODES:
            raise UserError(f"{file}: more than {MAX_NODES} values once its aliases are written out")


def _refuse_long_number(event: Any, file: Path) -> None:
    """Refuse integers beyond any use; a quoted text of digits is none."""
    if (not event.style or event.tag) and LONG_NUMBER.fullmatch(event.value):
        raise UserError(f"{file}: a number of {len(event.value)} digits (line {_line(event)})")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
