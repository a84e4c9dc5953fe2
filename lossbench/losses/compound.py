"""Weighted sums of losses: one log-softmax, one mask and one gather for all parts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.losses.base import Loss
from lossbench.losses.batch import Batch


class Sum(Loss):
    """A weighted sum of losses, which share what they have in common.

    Formula: Σ_i λ_i ℓ_i.

    Args:
        parts: the losses by name; all with the same ``ignore_index`` and ``labels``.
        weights: λ of each part, 1 where not given.

    Use it for: cross-entropy with Dice; a boundary loss beside a region loss.
    Fails when: the parts are of different size: weigh them by hand.

    Example:
        >>> from lossbench.losses import CrossEntropy, Dice
        >>> loss = Sum({"cross_entropy": CrossEntropy(), "dice": Dice()}, {"dice": 0.5})
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.9954)
    """

    name = "sum"
    family = "compound"
    reduces = "each part as it does alone"

    def __init__(self, parts: Mapping[str, Loss], weights: Mapping[str, float] | None = None) -> None:
        if not parts:
            raise ValueError("Sum: it has no parts; allowed: one or more")
        shared: dict[str, Any] = {}
        for name in ("ignore_index", "labels"):
            found = {getattr(part, name) for part in parts.values() if name in part.agrees}
            if len(found) > 1:
                raise ValueError(
                    f"Sum: the parts have {name} {sorted(map(str, found))}; allowed: one for all parts"
                )
            if found:
                shared[name] = found.pop()
        super().__init__(**shared)
        for part in parts.values():
            if getattr(part, "reduction", "mean") == "none":
                raise ValueError(f"Sum: {part.name} has reduction 'none'; allowed in a sum: mean, sum")
        self.parts = nn.ModuleList(parts.values())  # by number, as a ModuleDict does not take every name
        self.part_weights = {name: float((weights or {}).get(name, 1.0)) for name in parts}
        losses = list(parts.values())
        # Instance attributes over the class's: what a sum can take is what all of its parts can.
        self.single = all(part.single for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.multi = all(part.multi for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.auxiliary = any(part.auxiliary for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.spatial = max(part.spatial for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.background = any(part.background for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.ordered = any(part.ordered for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.link = losses[0].link  # type: ignore[misc]  # a ClassVar elsewhere

    @property
    def reads_summary(self) -> bool:
        """A sum reads what its parts read."""
        return all(part.reads_summary for part in self._losses().values())

    def value(self, batch: Batch) -> Tensor:
        """Sum the parts' values of the same batch."""
        batch.share()
        maps, kinds, terms = batch.auxiliary, self.kinds_of_maps(), []
        for name, part in self._losses().items():
            if maps is not None and part.auxiliary:
                batch.auxiliary = maps.chunk(len(kinds), 1)[kinds.index(part.maps)]
            terms.append(self.part_weights[name] * part.value(batch))
        batch.auxiliary = maps
        return torch.stack(terms).sum()

    def kinds_of_maps(self) -> list[str]:
        """Return the kinds of maps that the parts need, each once."""
        return list(dict.fromkeys(part.maps for part in self._losses().values() if part.auxiliary))

    @property
    def maps_of_class(self) -> int:
        """One of each kind."""
        return len(self.kinds_of_maps())

    def prepare(  # type: ignore[override]  # a question to its parts, not to its class
        self, target: Tensor, classes: int, multilabel: bool | None = None
    ) -> Tensor:
        """Return what the auxiliary parts need, of each kind a map a class: (N, kinds × C, *spatial)."""
        preparing = {part.maps: part.prepare for part in self._losses().values() if part.auxiliary}
        if not preparing:
            raise TypeError("no part of this sum needs more than logits and target")
        return torch.cat([preparing[kind](target, classes, multilabel) for kind in self.kinds_of_maps()], 1)

    def parameters_stated(self) -> dict[str, Any]:
        """Return the parameters of each part and its weight."""
        parts = {
            name: {"weight": self.part_weights[name], **part.parameters_stated()}
            for name, part in self._losses().items()
        }
        return {"name": self.name, "sum": parts, "reduces": self.reduces}

    def _losses(self) -> dict[str, Loss]:
        return dict(zip(self.part_weights, self.parts, strict=True))  # type: ignore[arg-type]  # forgotten
