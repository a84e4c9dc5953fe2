"""Who is trained: a replicate's seed, and what it has of its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Member:
    """One replicate to be trained: its seed, and what it has of its own (a tuning grid's point)."""

    seed: int
    learning_rate: float | None = None
    weight_decay: float | None = None
    loss: Mapping[str, Any] | None = None

    @property
    def own(self) -> list[Any]:
        """What tells it from the arm's other members."""
        return [self.seed, self.learning_rate, self.weight_decay, self.loss and dict(self.loss)]


def populations(loss: Mapping[str, Any], members: Sequence[Member]) -> list[list[int]]:
    """Divide an arm's members (by number) into populations: one per loss."""
    spec = [json.dumps(dict(one.loss or loss), sort_keys=True, default=list) for one in members]
    numbers = sorted(range(len(members)), key=lambda number: (spec[number], number))
    return [list(same) for _, same in groupby(numbers, key=lambda number: spec[number])]


def at_most(numbers: Sequence[int], most: int | None) -> list[list[int]]:
    """Divide a population's members into populations of ``most``, the last of fewer; None: they stay one.

    In order, so that a further seed leaves those that are full as they are.
    """
    size = most or max(1, len(numbers))
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]
