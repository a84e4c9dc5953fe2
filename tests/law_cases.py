"""Laws: over which cases one is held in one test, and on how many examples: some beside the quick tests, all beside the slow."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import wraps
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


def some(cases: Iterable[T], every: int = SHARE) -> Iterable[T]:
    """Return the first of the cases, which is the default, and a tenth of the others; all beside the slow tests."""
    return cases if full() else islice(cases, 0, None, every)


def mostly_slow(cases: Iterable[Any], every: int) -> list[Any]:
    """Mark cases that are alike as slow, but for the first and each ``every``-th after it."""
    marks = [pytest.mark.slow]
    return [pytest.param(one, marks=marks if at % every else []) for at, one in enumerate(cases)]


def tried(test: Callable[..., None], cases: Sequence[Mapping[str, Any]], fixtures: Mapping[str, Any]) -> None:
    """Hold a test over cases, each with patches and a folder of its own; all that fail are told."""
    failures: list[BaseException] = []
    for number, case in enumerate(cases):
        own = dict(fixtures)
        try:
            with ExitStack() as stack:
                if "monkeypatch" in own:
                    own["monkeypatch"] = stack.enter_context(own["monkeypatch"].context())
                if "tmp_path" in own:
                    own["tmp_path"] = own["tmp_path"] / str(number)
                    own["tmp_path"].mkdir()
                if "capsys" in own:
                    own["capsys"].readouterr()
                test(**case, **own)
        except (Exception, pytest.fail.Exception) as error:
            error.add_note("with " + ", ".join(f"{name}={value!r:.200}" for name, value in case.items()))
            failures.append(error)
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} of {len(cases)} fail", failures)


def held(test: Callable[..., None], run: Callable[..., None], named: Sequence[str]) -> Callable[..., None]:
    """Give ``run`` the test's name and marks, and its fixtures: all of its parameters that are not ``named``."""
    made = wraps(test)(run)
    fixtures = [one for name, one in inspect.signature(test).parameters.items() if name not in named]
    made.__signature__ = inspect.Signature(fixtures)  # type: ignore[attr-defined]  # read by pytest
    return made


def each(
    names: str | Sequence[str], values: Iterable[Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hold a test over all values, as ``pytest.mark.parametrize`` does, but as one test: a law, and its table."""
    named = [one.strip() for one in names.split(",")] if isinstance(names, str) else list(names)
    cases = [dict(zip(named, one if len(named) > 1 else (one,), strict=True)) for one in values]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        return held(test, lambda **fixtures: tried(test, cases, fixtures), named)

    return decorate


def few(
    names: str | Sequence[str], values: Iterable[Any], every: int = 4
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hold a test as :func:`each` does over what tries one mechanism again and again: beside the quick ones, over some."""
    return lambda test: shared(each(names, some(values, every))(test))
