"""The two ways in which Lossbench says no, and the exit codes that go with them."""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from reprlib import Repr


class UserError(Exception):
    """Bad input: one sentence that names file and key (or row), what was found and what is allowed.

    Entry points print it without a traceback and exit with code 2.
    """


class GateError(Exception):
    """A gate did not open (data validation, promotion): a sentence or several; exit code 1."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Say what is allowed in place of ``name``: the nearest name first, then all of them."""
    names = sorted(allowed)
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"


class _Brief(Repr):
    """Cuts long values short; numbers too long to be written say so."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 80, 80

    def repr_int(self, x: int, level: int) -> str:
        """Write a number of a sentence's length."""
        return super().repr_int(x, level) if x.bit_length() < 1024 else f"a number of {x.bit_length()} bits"


_BRIEF = _Brief()


def brief(value: object) -> str:
    """Write a value that a user gave so that it fits into a sentence."""
    return _BRIEF.repr(value)


def printable(text: str, kept: str = "") -> str:
    """Escape what would move a terminal's cursor or cannot be printed, but for the characters ``kept``."""
    return "".join(
        one if one.isprintable() or one in kept else ascii(one)[1:-1]  # ascii() escapes and adds quotes
        for one in text
    )


def exit_code(main: Callable[[], None]) -> int:
    """Run an entry point; turn the errors above into a sentence on stderr and an exit code."""
    try:
        main()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except GateError as error:
        print(f"refused: {printable(str(error), kept=chr(10))}", file=sys.stderr)
        return 1
    return 0
