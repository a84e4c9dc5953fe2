"""Who is writing a run at the moment: a tag of each writer, renewed while it lives and taken off at the end.

Each writer has a tag of its own, so that one who comes too late cannot write over the other's.
"""

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from uuid import uuid4

from lossbench.identity import Owner

WRITER = "lossbench.writer."
"""The tag's name, before the claim's."""
LEASE = 120.0
"""Seconds without renewal after which a writer counts as dead that cannot be seen or stands still."""
LONG = 900.0
"""The same while a model is uploaded."""
RENEWAL = 10.0
"""Seconds between two renewals."""
SKEW = 20
"""Leases after which a claim has run out by any clock, so that nobody need watch it for as long as one."""

_HELD: set[str] = set()
"""Claims that this process holds at the moment."""


class Claim:
    """A writer's hold on the runs that it is writing, for as long as the block runs."""

    def __init__(self) -> None:
        self._id = uuid4().hex[:16]
        self.tag = WRITER + self._id
        self._renew = 0.0

    def __enter__(self) -> "Claim":
        _HELD.add(self._id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        _HELD.discard(self._id)

    @property
    def due(self) -> bool:
        """Whether it is time to write the tags again."""
        return time.monotonic() >= self._renew

    def tags(self, lease: float = LEASE) -> dict[str, str]:
        """Make the tag anew; ``lease``: for how long nothing may be heard of the writer."""
        self._renew = time.monotonic() + RENEWAL
        content = {"owner": str(Owner.me()), "lease": lease, "at": time.time()}
        return {self.tag: json.dumps(content)}


class Claims:
    """Others' claims, watched.

    Clocks of machines differ, so what counts is how long a claim has been seen unchanged by our own.
    """

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def living(self, tags: Mapping[str, str]) -> bool:
        """Say of a run whether a writer is at work on it, as far as can be known."""
        return any(self._living(tag, text) for tag, text in tags.items() if tag.startswith(WRITER))

    def before(self, claim: Claim, tags: Mapping[str, str]) -> bool:
        """Say of a run whether a writer is at work on it who comes before another, in an order all share."""
        return self.living({tag: text for tag, text in tags.items() if tag < claim.tag})

    def _living(self, tag: str, text: str) -> bool:
        if tag.removeprefix(WRITER) in _HELD:
            return True
        content: dict[str, Any] = json.loads(text)
        owner = Owner.read(content["owner"])
        if owner == Owner.me() or owner.dead():
            return False
        since = self._seen.setdefault(tag + text, time.monotonic())
        lease = float(content["lease"])
        return time.monotonic() - since < lease and time.time() - content["at"] < SKEW * lease
