"""What one arm should look like in MLflow: plain values, before any of them is sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossbench.tracking.identity import digest

PARAM_LENGTH = 500
SETTINGS = "params_hash"
"""The tag with the hash of what an arm was trained with."""


@dataclass(frozen=True)
class Point:
    """One metric value: its time in milliseconds since the epoch."""

    key: str
    value: float
    step: int
    time: int


@dataclass(frozen=True)
class Run:
    """One run: times in milliseconds since the epoch."""

    name: str
    start: int
    end: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[Point, ...]

    def content(self) -> list[Any]:
        """List what the run says, leaving out when and where it came to be."""
        points = sorted((point.key, point.step, repr(point.value)) for point in self.points)
        said = [point for point in points if not point[0].startswith(("seconds", "system/"))]
        return [self.name, dict(self.params), said]


@dataclass(frozen=True)
class ArmRecord:
    """A parent run, its children (replicates by seed, then trials), and what tells it apart.

    Attributes:
        key: hash of the arm's outs: equal for equal outs, wherever and whenever they were made.
        attempt: the journal that tells the same history, if one is here.

    """

    experiment: str
    arm: str
    key: str
    parent: Run
    seeds: Mapping[int, Run]
    trials: tuple[Run, ...] = ()
    attempt: str | None = None

    def digest(self) -> str:
        """Hash the content of all runs: a run that carries it is whole."""
        replicates = {str(seed): run.content() for seed, run in self.seeds.items()}
        return digest(self.key, self.parent.content(), replicates, [run.content() for run in self.trials])


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn nested settings into MLflow params: dotted keys, short strings."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif value is not None:
            flat[name] = str(value)[:PARAM_LENGTH]
    return flat
