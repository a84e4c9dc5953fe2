"""The two ways in which Lossbench says no, and the exit codes that go with them."""

import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


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


def exit_code(main: Callable[[], None]) -> int:
    """Run an entry point; turn the errors above into a sentence on stderr and an exit code."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except GateError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0
