"""What is left of the level: one test split judges many challengers, and each look at it costs.

At a constant level some of two hundred challengers that are no better get in by luck, each with a score that
this very split flatters. So the k-th look gets level · 6/(π² k²): all looks together never more than the
level. When the split holds at least as many examples that no earlier look has seen as it held at the first,
a new period begins, with the whole level.
"""

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lossbench.errors import UserError
from lossbench.system import write_atomically

FILE = "reports/retraining-looks.json"
SHORT = 16
"""Hex digits that an example's hash is kept with."""


@dataclass
class Looks:
    """The looks at one dataset's test split.

    Attributes:
        root: the study's folder.
        dataset: its name.
        examples: of the test split when the period began, by hash.
        taken: what was judged in this period: (fingerprint of challenger and champion) → number of the look.

    """

    root: Path
    dataset: str
    examples: set[str] = field(default_factory=set)
    taken: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, dataset: str) -> "Looks":
        """Read what was looked at before.

        Raises:
            UserError: the file is damaged; without it the level would be spent anew.

        """
        found = _content(root).get(dataset)
        if found is None:
            return cls(root, dataset)
        return cls(root, dataset, set(found["examples"]), dict(found["taken"]))

    def spend(self, what: str, now: Collection[str], level: float) -> float:
        """Take one more look, written down before it is taken; the same look again costs nothing.

        Args:
            what: fingerprint of challenger and champion.
            now: hashes of the test split's examples.
            level: of all looks of a period together.

        """
        short = {one[:SHORT] for one in now}
        if len(short - self.examples) >= len(self.examples):
            self.examples, self.taken = short, {}
        number = self.taken.setdefault(what, len(self.taken) + 1)
        content = _content(self.root)
        content[self.dataset] = {"examples": sorted(self.examples), "taken": self.taken}
        write_atomically(self.root / FILE, json.dumps(content, indent=0) + "\n", durable=True)
        return share(number) * level


def share(number: int) -> float:
    """Share of the level for a look, counted from 1; all shares sum to 1."""
    return 6 / (math.pi * number) ** 2


def _content(root: Path) -> dict[str, Any]:
    file = root / FILE
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
        if not all(map(_whole, content.values())):
            raise ValueError
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"{file}: not what a retraining wrote; restore it from git or a backup, or delete it: the level "
            "of the gate is then spent anew"
        ) from None
    return dict(content)


def _whole(one: Any) -> bool:
    """Say whether this is what one dataset's looks are written as."""
    numbers = one["taken"].values()
    return (
        isinstance(one["examples"], list)
        and all(isinstance(example, str) for example in one["examples"])
        and all(type(number) is int and number > 0 for number in numbers)
    )
