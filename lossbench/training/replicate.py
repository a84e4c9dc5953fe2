"""What training gives back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Record:
    """One value of one replicate's history."""

    epoch: int
    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class Replicate:
    """An arm trained with one seed.

    Attributes:
        seed: drove initialisation, batch order and augmentation.
        state: the kept weights and buffers, on the CPU.
        history: a record per epoch, split and metric (the training loss stands under split "train").
        epoch: of the kept weights, counted from 1.
        diverged: the training loss or the weights became NaN or infinite.
        seconds: wall time; never written into an out.
        fresh: trained now, as opposed to taken from the store.

    """

    seed: int
    state: "dict[str, Tensor]"
    history: tuple[Record, ...]
    epoch: int
    diverged: bool
    seconds: float = 0.0
    fresh: bool = True
