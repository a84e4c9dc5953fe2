"""How far a replicate has come: its epochs, its history, its best weights so far."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lossbench.recipe import Recipe
from lossbench.training.replicate import Record

State = dict[str, Tensor]


@dataclass
class Progress:
    """Of one replicate, at the end of an epoch."""

    epoch: int = 0
    history: list[Record] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = -math.inf
    best_state: State | None = None
    diverged: bool = False

    def over(self, recipe: Recipe) -> bool:
        """Whether all epochs are done, or going on makes no sense."""
        patience = recipe.early_stopping
        stale = patience is not None and self.best_epoch > 0 and self.epoch - self.best_epoch >= patience
        return self.epoch >= recipe.epochs or self.diverged or stale

    def note(
        self, values: Mapping[str, float], monitor: str, finite: bool, keep: Callable[[], State] | None
    ) -> None:
        """Take down an epoch.

        Args:
            values: ``split/metric`` → value.
            monitor: the validation metric that says which epoch is best.
            finite: whether loss and outputs are; if not, the replicate has diverged.
            keep: copies the weights, where the best ones are wanted.

        """
        self.epoch += 1
        for key, value in values.items():
            split, _, metric = key.partition("/")
            self.history.append(Record(self.epoch, split, metric, value))
        self.diverged = not finite
        score = values.get(f"validation/{monitor}", math.nan)
        if finite and score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best_state = keep() if keep is not None else None

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        rows = [(one.epoch, one.split, one.metric, one.value) for one in self.history]
        best = (self.best_epoch, self.best_score, self.best_state)
        return {"epoch": self.epoch, "history": rows, "best": best, "diverged": self.diverged}

    @classmethod
    def restored(cls, content: Mapping[str, Any]) -> "Progress":
        """Go on from a checkpoint."""
        history = [Record(*row) for row in content["history"]]
        best_epoch, best_score, best_state = content["best"]
        return cls(content["epoch"], history, best_epoch, best_score, best_state, content["diverged"])
