"""Jobs: what a worker needs to compute an entry of the store, on this machine or another."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from lossbench.params import Params
from lossbench.recipe import Recipe
from lossbench.training.member import Member

TRAIN, SCORES, SHOWN, FLOORS, GALLERY, COSTS = (
    "replicates",
    "scores",
    "shown",
    "floors",
    "galleries",
    "costs",
)
"""Kinds of entries in the store."""
WEIGHTS = "state.safetensors"
"""A replicate's file."""


@dataclass(frozen=True)
class Where:
    """Where a study lies, and what its results are put into."""

    study: Path
    home: Path
    store: str
    share: int = 1
    """Among how many workers the memory is shared."""


@dataclass(frozen=True)
class Train:
    """Train members of an arm: one, or a population; and score them where they are replicates.

    ``keys`` are the driver's; a worker that computes others has other code, data or kernels, and refuses.
    """

    where: Where
    params: Params
    arm: str
    recipe: Recipe
    members: tuple[Member, ...]
    keys: tuple[str, ...]
    scoring: str = ""
    """The driver's key of the scores of no weights: what scores the replicates is its code too."""
    trial: bool = False
    """Whether it is no replicate to be recorded: a point of a search, or a smaller budget."""
    shown: frozenset[int] = field(default_factory=frozenset)
    budget: bool = False
    fold: int = 0
    """Of the data, where these are divided several times."""

    @property
    def group(self) -> str:
        """Jobs of a group take as much memory as one another."""
        return f"{self.params.arms[self.arm].experiment} {self.recipe.batch_size}"

    @property
    def label(self) -> str:
        """What it is, for a person."""
        seeds = ", ".join(str(one.seed) for one in self.members)
        what = f"training for {self.recipe.epochs} epochs" if self.budget else "training"
        return f"{'tuning' if self.trial and not self.budget else what} of '{self.arm}' with seed {seeds}"

    @property
    def epochs(self) -> int:
        """How many there are to train."""
        return self.recipe.epochs * len(self.members)


@dataclass(frozen=True)
class Score:
    """Score a replicate from its weights: in ``models/``, or in the store under their replicate's key."""

    where: Where
    params: Params
    arm: str
    seed: int
    weights: Path | str
    key: str
    shown: bool
    epochs: int = 0
    fold: int = 0
    """On which the replicate was trained."""

    @property
    def group(self) -> str:
        """Jobs of a group take as much memory as one another."""
        return f"{self.params.arms[self.arm].experiment} scores"

    @property
    def label(self) -> str:
        """What it is, for a person."""
        return f"scoring of '{self.arm}' with seed {self.seed}"


@dataclass(frozen=True)
class Floors:
    """Score an experiment's predictors that need no training."""

    where: Where
    params: Params
    experiment: str
    key: str
    epochs: int = 0
    fold: int = 0

    @property
    def group(self) -> str:
        """Jobs of a group take as much memory as one another."""
        return f"{self.experiment} floors"

    @property
    def label(self) -> str:
        """What it is, for a person."""
        return f"floors of '{self.experiment}'"


@dataclass(frozen=True)
class Gallery:
    """Choose the test samples on which an experiment's arms disagree most."""

    where: Where
    params: Params
    experiment: str
    seed: int
    shown: tuple[tuple[str, str], ...]
    """Arm and key of what is shown of its replicate."""
    key: str
    epochs: int = 0

    @property
    def group(self) -> str:
        """Jobs of a group take as much memory as one another."""
        return f"{self.experiment} gallery"

    @property
    def label(self) -> str:
        """What it is, for a person."""
        return f"gallery of '{self.experiment}'"


@dataclass(frozen=True)
class Measure:
    """Train an arm's first replicate for a few steps, to tell how long an epoch takes and how much memory."""

    where: Where
    params: Params
    arm: str
    epochs: int = 0

    @property
    def group(self) -> str:
        """Jobs of a group take as much memory as one another."""
        return f"{self.params.arms[self.arm].experiment} measured"

    @property
    def label(self) -> str:
        """What it is, for a person."""
        return f"first steps of '{self.arm}'"


Job = Train | Score | Floors | Gallery | Measure


@dataclass(frozen=True)
class Event:
    """What an executor tells of a job.

    ``progress`` while it runs, then once ``done`` or ``failed`` (``content`` is the exception).
    """

    job: Job
    kind: Literal["progress", "done", "failed"]
    content: Any = None


class Executor(Protocol):
    """Where jobs are computed; their results are in the store, events say how they went."""

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs; they are begun in this order."""

    def next(self) -> Event | None:
        """Wait for news; None when nothing is left to wait for."""

    def cancel(self) -> None:
        """End what runs, checkpoints written, and take nothing more."""
