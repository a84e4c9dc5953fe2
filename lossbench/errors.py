"""The two ways in which Lossbench says no, and words of their sentences.

How a sentence reaches a person stands in :mod:`lossbench.telling`: what stands here is part of every
replicate's key, and changes rarely.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from reprlib import Repr

NO_MEMORY = re.compile(r"can't allocate memory|[Oo]ut of memory|not enough memory")
"""torch's words, which are RuntimeErrors."""


class UserError(Exception):
    """Bad input: one sentence that names file and key (or row), what was found and what is allowed.

    Entry points print it without a traceback and exit with code 2; so does a notebook.
    """

    def _render_traceback_(self) -> list[str]:
        """Say to IPython what it shows: the sentence."""
        return [f"error: {_told(str(self))}"]


class GateError(Exception):
    """A gate did not open (data validation, promotion): a sentence or several; exit code 1."""

    def _render_traceback_(self) -> list[str]:
        """Say to IPython what it shows: the sentences."""
        return [f"refused: {_told(str(self), kept=chr(10))}"]


class DiedError(GateError):
    """A process of a job has died, which says nothing against the job: it may be tried again."""


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


def _told(sentence: str, kept: str = "") -> str:
    """Write a sentence for a notebook, which shows errors without an entry point of ours."""
    telling = import_module("lossbench.telling")  # by its name: as an import it would stand in every key
    return str(telling.printable(telling.scrubbed(sentence), kept))
