"""Several labels with a long tail: weights from how often labels occur, and with which others."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.counts import COUNTS, counts_at_least_one
from lossbench.losses.declare import choice, integer, numbers, real
from lossbench.losses.registry import register


@register("distribution_balanced")
class DistributionBalanced(Weighted):
    """Binary cross-entropy that undoes how often a label is drawn, and lets negatives rest early.

    Formula: ℓ = r̂_k (t_k ℓ⁺ + (1 − t_k) ℓ⁻ / λ), ℓ⁺ = softplus(−(z_k − ν_k)), ℓ⁻ = softplus(λ (z_k − ν_k)),
        each times (1 − e^{−ℓ±})^γ. r̂_k = α + σ(β (r_k − μ)), r_k = n_k⁻¹ / Σ_j t_j n_j⁻¹ of the position;
        ν_k = κ log(N / n_k − 1), N the training positions.
    Paper: Wu et al. 2020, arXiv 2007.09654, sec. 3 (γ = 0; with γ = 2 it is DB-focal).

    Use it for: many labels that occur together, most of them rare.
    Fails when: labels are balanced: the weights then only scale the loss.

    Example:
        >>> loss = DistributionBalanced(class_counts=[3, 1], alpha=0.0, beta=0.0, lambda_=1.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.3466)
    """

    family = "multi-label"
    single = False
    multi = True
    link = "sigmoid"
    reduces = "weighted mean over valid elements (r̂ is in ℓ)"

    alpha: float = real(default=0.1, low=0.0, doc="α, the least weight")
    beta: float = real(
        default=10.0, low=0.0, tunable=(1.0, 20.0, "log"), doc="β, how steeply weights rise with r"
    )
    mu: float = real(
        default=0.2, low=0.0, high=1.0, tunable=(0.05, 0.5, "linear"), doc="μ, the r of half the rise"
    )
    kappa: float = real(default=0.05, low=0.0, tunable=(0.0, 0.5, "linear"), doc="κ, how far logits shift")
    lambda_: float = real(
        default=2.0, low=0.0, open_low=True, tunable=(1.0, 5.0, "log"), doc="λ, how early negatives rest"
    )
    gamma: float = real(default=0.0, low=0.0, tunable=(0.0, 4.0, "linear"), doc="γ of a focal factor")
    class_counts: Sequence[float] | Tensor | None = numbers(default=None, doc=f"n, {COUNTS}")
    positions: int | None = integer(
        default=None,
        low=1,
        optional=True,
        doc="N, training positions; params.yaml need not give them; none leaves the logits unshifted",
    )
    labels: str = choice(default="independent", options=("independent",), doc="a label a class")

    def setup(self) -> None:
        """Keep 1 / n and ν of each class."""
        super().setup()
        counts = counts_at_least_one(self, self.class_counts)
        self.per_class("_inverse", counts.reciprocal().tolist())
        shift = torch.zeros_like(counts)
        if self.positions is not None:
            odds = (self.positions / counts - 1).clamp_min(1 / self.positions)  # a label set everywhere
            shift = self.kappa * odds.log()
        self.per_class("_shift", shift.tolist())

    def each(self, batch: Batch) -> Tensor:
        """Return the re-balanced, negative-tolerant binary cross-entropy of each label."""
        shifted = batch.logits - self.classwise("_shift", batch).view(1, -1, 1)
        positive = self.faded(F.softplus(-shifted))
        negative = self.faded(F.softplus(self.lambda_ * shifted)) / self.lambda_
        each = functional.multilabel_expectation(batch.logits, batch.labels, positive, negative)
        return each * self.rebalancing(batch)

    def faded(self, entropy: Tensor) -> Tensor:
        """ℓ (1 − e^−ℓ)^γ: the focal factor, p being e^−ℓ."""
        return functional.focal(-entropy, self.gamma)

    def rebalancing(self, batch: Batch) -> Tensor:
        """r̂ of each label; 1 + α, its limit, where a position has no label at all."""
        inverse = self.classwise("_inverse", batch).view(1, -1, 1)
        drawn = (self.counted(batch) * inverse).sum(1, keepdim=True)
        none = drawn == 0
        ratio = inverse / drawn.masked_fill(none, 1.0)
        return self.alpha + (self.beta * (ratio - self.mu)).sigmoid().masked_fill(none, 1.0)
