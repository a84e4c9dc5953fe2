"""Exceptions that travel from one process to another."""

import pickle
import traceback


def in_words(error: Exception) -> Exception:
    """Return an exception that can travel: itself, or what it says."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    except Exception:  # an exception that cannot travel is told in words
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
