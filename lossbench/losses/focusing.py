"""Cross-entropy bent further: polynomial terms, exponents per side, logarithms to a power."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Weighted, weighted_mean
from lossbench.losses.batch import Batch
from lossbench.losses.counts import COUNTS, counts_at_least_one
from lossbench.losses.declare import Parameter, choice, numbers, real
from lossbench.losses.distribution import TrueClass
from lossbench.losses.functional import Overlap
from lossbench.losses.region import Smoothed, dice_score
from lossbench.losses.registry import register


def coefficients(*, default: Sequence[float], doc: str) -> Any:
    """Declare a list of ε_j, j = 1, 2, ..., each at least −1 / j."""

    def accept(value: object) -> tuple[float, ...]:
        given = value.tolist() if isinstance(value, Tensor) else value
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise TypeError(value)
        read = tuple(float(number) for number in given if not isinstance(number, (bool, str)))
        whole = len(read) == len(given) and bool(torch.tensor(read).isfinite().all())
        if not whole or any(number < -1 / j for j, number in enumerate(read, 1)):
            raise ValueError(value)
        return read

    return Parameter(tuple(default), "a list of finite numbers, the j-th ≥ −1 / j", accept, doc)


@register("poly")
class Poly(TrueClass):
    """Cross-entropy (or focal loss) with its leading polynomial coefficients changed.

    Formula: ℓ = −(1 − p_y)^γ log p_y + Σ_j ε_j (1 − p_y)^(γ + j), j = 1..len(ε): the coefficient 1 / j of
        (1 − p)^j in −log p becomes 1 / j + ε_j.
    Paper: Leng et al. 2022, arXiv 2204.12511, sec. 4 (Poly-N); one ε is poly1.

    Use it for: choosing how strongly near-right (small j) and wrong positions pull.
    Fails when: there are many coefficients: one is about as good, and tuned sooner.

    Example:
        >>> loss = Poly(epsilons=[1.0, -0.5])
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(1.0681)
    """

    epsilons: Sequence[float] = coefficients(default=(1.0,), doc="ε_1, ε_2, ...")
    gamma: float = real(
        default=0.0, low=0.0, tunable=(0.0, 5.0, "linear"), doc="γ of a focal loss; 0 is cross-entropy"
    )

    def of(self, log_p: Tensor) -> Tensor:
        """−(1 − p)^γ log p + Σ ε_j (1 − p)^(γ + j)."""
        wrong = -torch.expm1(log_p)
        total = functional.focal(log_p, self.gamma)
        for j, epsilon in enumerate(self.epsilons, 1):
            total = total + epsilon * functional.safe_power(wrong, self.gamma + j)
        return total


@register("asymmetric_single")
class AsymmetricSingle(Weighted):
    """The asymmetric loss for one label a position: smoothed cross-entropy, each side faded by its exponent.

    Formula: ℓ = −(1 − ε + ε / C) (1 − p_y)^γ⁺ log p_y − ε / C Σ_{k≠y} p_k^γ⁻ log p_k. ε = 0 is focal.
    Paper: Ben-Baruch et al. 2020, arXiv 2009.14119, the part on single-label classification; formula as in
        its code.

    Use it for: classification with smoothed labels in which classes already ruled out should rest.
    Fails when: probabilities are wanted: it is no proper scoring rule.

    Example:
        >>> loss = AsymmetricSingle(gamma_positive=1.0, label_smoothing=0.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.3466)
    """

    family = "distribution"

    gamma_positive: float = real(
        default=1.0, low=0.0, tunable=(0.0, 4.0, "linear"), doc="γ⁺, exponent of the true class"
    )
    gamma_negative: float = real(
        default=4.0, low=0.0, tunable=(0.0, 6.0, "linear"), doc="γ⁻, exponent of the others"
    )
    label_smoothing: float = real(
        default=0.1, low=0.0, high=1.0, open_high=True, tunable=(0.0, 0.3, "linear"), doc="ε"
    )

    def each(self, batch: Batch) -> Tensor:
        """The faded cross-entropy of the true class, and of the share that smoothing gives the others."""
        share = self.label_smoothing / batch.classes
        if batch.mixed:
            true = self.at_truth(batch, functional.focal(batch.log_probs, self.gamma_positive))
        else:
            true = functional.focal(batch.true_log_probs, self.gamma_positive)
        if share == 0:
            return true
        faded = functional.safe_power(batch.probs, self.gamma_negative) * -batch.log_probs
        others = faded.sum(1) - self.at_truth(batch, faded)
        return (1 - self.label_smoothing + share) * true + share * others


@register("exponential_logarithmic")
class ExponentialLogarithmic(Smoothed):
    """Logarithms of Dice and of the true class's probability, each raised to a power.

    Formula: λ mean_c (−ln Dice_c)^γ_D + (1 − λ) mean w_y (−ln p_y)^γ_C, w_k = √(Σ_j n_j / n_k), Dice = (2I +
        s) / (P + G + s).
    Paper: Wong et al. 2018, arXiv 1809.00076, sec. 2 (λ = 0.8, γ_D = γ_C = 0.3).

    Use it for: segmentation with structures of very unequal size.
    Fails when: γ < 1 near a perfect overlap: the slope grows without bound.

    Example:
        >>> loss = ExponentialLogarithmic(class_counts=[1, 1], dice_weight=0.0, gamma_cross=1.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.9803)
    """

    family = "compound"
    multi = False
    reduces = "cross-entropy over valid positions; Dice over classes and, with over=image, images, as in dice"

    dice_weight: float = real(
        default=0.8, low=0.0, high=1.0, tunable=(0.1, 0.9, "linear"), doc="λ, share of the Dice part"
    )
    gamma_dice: float = real(
        default=0.3,
        low=0.0,
        high=10.0,
        open_low=True,
        tunable=(0.2, 2.0, "log"),
        doc="γ_D, exponent of −ln Dice",
    )
    gamma_cross: float = real(
        default=0.3,
        low=0.0,
        high=10.0,
        open_low=True,
        tunable=(0.2, 2.0, "log"),
        doc="γ_C, exponent of −ln p",
    )
    class_counts: Sequence[float] | Tensor | None = numbers(default=None, doc=f"n, {COUNTS}")
    reduction: str = choice(default="mean", options=("mean",), doc="its parts are averaged apart")

    def setup(self) -> None:
        """Keep w of each class."""
        super().setup()
        counts = counts_at_least_one(self, self.class_counts)
        self.per_class("_rarity", (counts.sum() / counts).sqrt().tolist())

    def of(self, counts: Overlap) -> Tensor:
        """(−ln Dice)^γ_D."""
        score = dice_score(counts, self.smooth, self.below).clamp(1e-8, 1.0)
        return functional.safe_power(-score.log(), self.gamma_dice)

    def value(self, batch: Batch) -> Tensor:
        """Return λ of the Dice part and 1 − λ of the cross-entropy part."""
        batch.share()
        weights = self.weights_of_classes(batch)
        of_truth = None if weights is None else batch.weights_of_truth(weights)
        entropy = weighted_mean(self.entropy(batch, weights), batch.weighed(of_truth, 2), batch.valid)
        return self.dice_weight * super().value(batch) + (1 - self.dice_weight) * entropy

    def entropy(self, batch: Batch, weights: Tensor | None) -> Tensor:
        """Return w (−ln p)^γ_C of each position, (N, L)."""
        rarity = self.classwise("_rarity", batch)
        if not batch.mixed:
            return rarity[batch.index] * functional.safe_power(-batch.true_log_probs, self.gamma_cross)
        each = rarity.view(1, -1, 1) * functional.safe_power(-batch.log_probs, self.gamma_cross)
        return batch.of_truth(each, weights)
