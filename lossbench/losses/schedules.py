"""Numbers of a loss that change over the epochs: ``{from: 0.01, to: 1.0, over: 0.5}`` in its block."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, Final

from lossbench.errors import UserError

LEARNED: Final = "learned"
"""The weight of a sum's part that is trained along with the network."""


@dataclass(frozen=True)
class Change:
    """A number on its way.

    Attributes:
        first: its value in the first epoch.
        last: its value in the end.
        end: the share of the training after which it has its last value.
        step: it jumps there, instead of going in a straight line.

    """

    first: float
    last: float
    end: float = 1.0
    step: bool = False

    def at(self, progress: float) -> float:
        """Return the value at a share of the training: 0 is the first epoch, 1 the last."""
        if progress >= self.end:
            return self.last
        return self.first if self.step else self.first + (self.last - self.first) * progress / self.end


def progress_of(epoch: int, epochs: int) -> float:
    """Say how far the training is in an epoch, from 1: 0 in the first, 1 in the last and in an only one."""
    return 1.0 if epochs == 1 else (epoch - 1) / (epochs - 1)


def is_change(value: object) -> bool:
    """Whether a value of params.yaml says how a number changes."""
    return isinstance(value, Mapping) and bool({"from", "to"} & set(value))


def read_change(value: Mapping[str, Any], key: str) -> Change:
    """Read ``{from, to, over}`` or ``{from, to, at}``.

    Raises:
        UserError: naming the key below ``key``.

    """
    allowed = "from, to, and over (a straight line) or at (a step)"
    unknown = next((str(name) for name in value if name not in ("from", "to", "over", "at")), None)
    if unknown is not None:
        raise UserError(f"{key}.{unknown} is no key of a number that changes; allowed: {allowed}")
    missing = next((name for name in ("from", "to") if name not in value), None)
    if missing is not None or ("over" in value and "at" in value):
        found = "over beside at" if missing is None else f"no {missing}"
        raise UserError(f"{key} has {found}; allowed: {allowed}")
    step = "at" in value
    end = value["at"] if step else value.get("over", 1.0)
    if not (_finite(end) and 0 < end <= 1):
        raise UserError(
            f"{key}.{'at' if step else 'over'} is {end!r}; allowed: a share of the epochs in (0, 1]"
        )
    for name in ("from", "to"):
        if not _finite(value[name]):
            raise UserError(f"{key}.{name} is {value[name]!r}; allowed: a finite number")
    return Change(float(value["from"]), float(value["to"]), float(end), step)


def _finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def number_at(value: Any, progress: float, key: str) -> Any:
    """Return what a value is at a share of the training: itself, unless it changes."""
    return read_change(value, key).at(progress) if is_change(value) else value


def is_scheduled(spec: Mapping[str, Any]) -> bool:
    """Whether anything in a loss's block changes over the epochs."""
    return any(True for _ in _changes(spec))


def is_learned(spec: Mapping[str, Any]) -> bool:
    """Whether a loss's block has weights that are trained."""
    parts = spec.get("sum")
    blocks = parts.values() if isinstance(parts, Mapping) else ()
    return any((one.get("weight") if isinstance(one, Mapping) else one) == LEARNED for one in blocks)


def changes_stated(spec: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return all numbers that change, by their path within the block, as they were written."""
    return {path: dict(value) for path, value in _changes(spec)}


def marks(spec: Mapping[str, Any], key: str) -> list[float]:
    """Shares of the training, the ends first, at which a block has to hold, for it to hold at all of them.

    Every number is linear between two neighbours of the ends and the kinks: a range that holds both holds all
    between, and weights that are not all 0 in the middle are so nowhere between.
    """
    ends = {read_change(value, f"{key}.{path}").end for path, value in _changes(spec)}
    if not ends:
        return [1.0]
    kinks = sorted({0.0, 1.0, *ends})
    return list(dict.fromkeys([0.0, 1.0, *kinks, *((a + b) / 2 for a, b in pairwise(kinks))]))


def _changes(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in spec.items():
        if is_change(value):
            yield str(name), value
    parts = spec.get("sum")
    for item, block in parts.items() if isinstance(parts, Mapping) else ():
        if is_change(block):
            yield f"sum.{item}", block
        elif isinstance(block, Mapping):
            yield from ((f"sum.{item}.{path}", one) for path, one in _changes(block))
