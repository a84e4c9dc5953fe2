"""On how many examples a law is tried: on some beside the quick tests, on all beside the slow ones."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")
FULL = "full"
"""The profile of ``make test-slow``, which tries every law again on all its examples."""
SHARE, LEAST = 10, 5
"""A tenth of them, and never fewer than five, is what the quick tests try."""


def register() -> None:
    """Make both profiles known. How long an example takes says how busy the machine is, and nothing of the code."""
    settings.register_profile("quick", deadline=None, max_examples=100 // SHARE)
    settings.register_profile(FULL, deadline=None)
    settings.load_profile("quick")


def full() -> bool:
    """Whether all are tried."""
    return settings.get_current_profile_name() == FULL


def examples(count: int) -> int:
    """Return how many of a law's examples are tried under the profile in force."""
    return count if full() else min(count, max(count // SHARE, LEAST))


shared = pytest.mark.hypothesis
"""Of a law without drawn examples that goes through :func:`some` of what it holds for: tried again, on all."""


def some(cases: Iterable[T]) -> Iterable[T]:
    """Return the first of the cases, which is the default, and a tenth of the others; all beside the slow tests."""
    return cases if full() else islice(cases, 0, None, SHARE)


def mostly_slow(cases: Iterable[Any], every: int) -> list[Any]:
    """Mark cases that are alike as slow, but for the first and each ``every``-th after it."""
    marks = [pytest.mark.slow]
    return [pytest.param(one, marks=marks if at % every else []) for at, one in enumerate(cases)]
