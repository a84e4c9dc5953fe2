"""On how many examples a law is tried: on some beside the quick tests, on all beside the slow ones."""

from hypothesis import settings

FULL = "full"
"""The profile of ``make test-slow``, which tries every law again on all its examples."""
SHARE, LEAST = 5, 5
"""A fifth of them, and never fewer than five, is what the quick tests try."""


def register() -> None:
    """Make both profiles known. How long an example takes says how busy the machine is, and nothing of the code."""
    settings.register_profile("quick", deadline=None, max_examples=100 // SHARE)
    settings.register_profile(FULL, deadline=None)
    settings.load_profile("quick")


def examples(count: int) -> int:
    """Return how many of a law's examples are tried under the profile in force."""
    return count if settings.get_current_profile_name() == FULL else min(count, max(count // SHARE, LEAST))
