"""Weighted sums of losses: one log-softmax, one mask and one gather for all parts."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lossbench.losses.base import Loss
from lossbench.losses.batch import Batch
from lossbench.losses.schedules import LEARNED

Weight = float | Literal["learned"]


class Sum(Loss):
    """A weighted sum of losses, which share what they have in common.

    Formula: Σ_i λ_i ℓ_i; a part with a learned weight adds e^(−s_i) ℓ_i + s_i / 2 instead, s_i trained along
        with the network from 0.
    Paper: Kendall et al. 2018, arXiv 1705.07115, eq. 10, for learned weights: s = log σ².

    Args:
        parts: the losses by name; all with the same ``ignore_index`` and ``labels``.
        weights: λ of each part, 1 where not given, or "learned". Of parts of weight 0 nothing is computed.

    Use it for: cross-entropy with Dice; a boundary loss beside a region loss.
    Fails when: the parts are of different size: weigh them by hand. A part with a learned weight that can be
        brought near 0 gets a weight without end.

    Example:
        >>> from lossbench.losses import CrossEntropy, Dice
        >>> loss = Sum({"cross_entropy": CrossEntropy(), "dice": Dice()}, {"dice": 0.5})
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.9954)
    """

    name = "sum"
    family = "compound"
    reduces = "each part as it does alone"

    log_variances: nn.Parameter | None
    """s of each part with a learned weight."""

    def __init__(self, parts: Mapping[str, Loss], weights: Mapping[str, Weight] | None = None) -> None:
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
        self.part_weights = {name: _weight((weights or {}).get(name, 1.0)) for name in parts}
        losses = list(parts.values())
        self._keep_learned(parts)
        # Instance attributes over the class's: what a sum can take is what all of its parts can.
        self.single = all(part.single for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.multi = all(part.multi for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.auxiliary = any(part.auxiliary for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.spatial = max(part.spatial for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.background = any(part.background for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.ordered = any(part.ordered for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
        self.weighs = all(part.weighs for part in losses)  # type: ignore[misc]  # a ClassVar elsewhere
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
            if self.part_weights[name]:
                terms.append(self._weighed(name, part.value(batch)))
        batch.auxiliary = maps
        return torch.stack(terms).sum()

    def _keep_learned(self, parts: Mapping[str, Loss]) -> None:
        """Begin with weights of 1; refuse those of losses that may be negative: they grow without end."""
        self._learned = [name for name, weight in self.part_weights.items() if weight == LEARNED]
        if self._learned and len(parts) == 1:
            raise ValueError(
                f"Sum: the weight of {self._learned[0]} alone cannot be learned, as there is nothing to "
                "weigh it against; allowed: a number, or a further part"
            )
        for name in self._learned:
            if parts[name].signed:
                raise ValueError(
                    f"Sum: {parts[name].name} may be negative, so that no weight of it can be learned; "
                    "allowed: a number"
                )
        start = nn.Parameter(torch.zeros(len(self._learned))) if self._learned else None
        self.register_parameter("log_variances", start)

    def _weighed(self, name: str, value: Tensor) -> Tensor:
        weight = self.part_weights[name]
        if self.log_variances is None or weight != LEARNED:
            return float(weight) * value
        spread = self.log_variances[self._learned.index(name)]
        return (-spread).exp() * value + spread / 2

    @property
    def learned(self) -> list[nn.Parameter]:
        """The logarithms of the variances, where there are any."""
        return [] if self.log_variances is None else [self.log_variances]

    def weights_learned(self) -> dict[str, float]:
        """Return the present weight of each part whose weight is learned."""
        spreads = [] if self.log_variances is None else self.log_variances.detach().tolist()
        return {name: math.exp(-spread) for name, spread in zip(self._learned, spreads, strict=True)}

    def go_on_from(self, before: Loss) -> None:
        """Share the learned weights of the same sum at an earlier time."""
        if isinstance(before, Sum):
            self.register_parameter("log_variances", before.log_variances)

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


def _weight(given: Weight) -> Weight:
    return LEARNED if given == LEARNED else float(given)
