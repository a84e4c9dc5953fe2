"""More losses for noisy labels: bounded, normalised or linear relatives of cross-entropy."""

import math

import torch
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, real
from lossbench.losses.distribution import TrueClass
from lossbench.losses.registry import register


@register("jensen_shannon")
class JensenShannon(TrueClass):
    """Weighted Jensen–Shannon divergence from label to prediction: between cross-entropy and MAE.

    Formula: ℓ = (π KL(t ‖ m) + (1 − π) KL(p ‖ m)) / Z, m = π t + (1 − π) p, Z = −(1 − π) log(1 − π). Of a
        one-hot t it reads p_y alone: π KL(t ‖ m) = −π log m_y, KL(p ‖ m) = p_y log(p_y / m_y) − (1 − p_y)
        log(1 − π).
    Paper: Englesson & Azizpour 2021, arXiv 2105.04522, the section on its divergences (GJS adds augmented
        views).

    Use it for: noisy labels; π → 0 is cross-entropy, π → 1 half the absolute error.
    Fails when: π is near 1 and there are many classes: training hardly starts.

    Example:
        >>> loss = JensenShannon(pi=0.5)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6226)
    """

    pi: float = real(
        default=0.5,
        low=0.0,
        high=1.0,
        open_low=True,
        open_high=True,
        tunable=(0.1, 0.9, "linear"),
        doc="π, the label's share of the mixture m",
    )

    def of(self, log_p: Tensor) -> Tensor:
        """The divergence as a function of log p_y, over Z."""
        p, rest = log_p.exp(), -math.log1p(-self.pi)
        log_mixed = torch.log1p(torch.expm1(log_p) * (1 - self.pi))  # log(π + (1 − π) p)
        of_label = -self.pi * log_mixed
        of_prediction = p * (log_p - log_mixed) - torch.expm1(log_p) * rest
        return (of_label + (1 - self.pi) * of_prediction) / ((1 - self.pi) * rest)


def normalized_cross_entropy(true: Tensor, batch: Batch) -> Tensor:
    """Return log p_y / Σ_k log p_k (N, L); 0 where a single class leaves nothing to say."""
    total = batch.log_probs.sum(1)
    return true / total.masked_fill(total == 0, -1.0)


@register("normalized_cross_entropy")
class NormalizedCrossEntropy(Weighted):
    """Cross-entropy as a share of what it would be summed over all possible labels.

    Formula: ℓ = log p_y / Σ_k log p_k, in [0, 1].
    Paper: Ma et al. 2020, arXiv 2006.13554, sec. 3.

    Use it for: noisy labels: it is symmetric, so uniform noise does not move its minimum.
    Fails when: alone it under-fits: other classes' probabilities falling lowers it too; take active_passive.

    Example:
        >>> loss = NormalizedCrossEntropy()
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5000)
    """

    family = "distribution"

    def each(self, batch: Batch) -> Tensor:
        """Log p_y as a share of Σ log p_k."""
        return normalized_cross_entropy(self.at_truth(batch, batch.log_probs), batch)


@register("active_passive")
class ActivePassive(Weighted):
    """Normalised cross-entropy with a loss that lowers the other classes: NCE + RCE or NCE + MAE.

    Formula: ℓ = α log p_y / Σ_k log p_k + β P; P = −A (1 − p_y) (reverse_cross_entropy, A in place of log 0)
        or 2 (1 − p_y) (mae).
    Paper: Ma et al. 2020, arXiv 2006.13554, sec. 3 and 4 (its code takes A = log 10⁻⁴ and halves the MAE).

    Use it for: noisy labels, 40 % and more.
    Fails when: labels are clean: cross-entropy learns faster and better.

    Example:
        >>> loss = ActivePassive(alpha=1.0, beta=1.0, passive="mae")
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(1.5000)
    """

    family = "distribution"

    alpha: float = real(
        default=1.0, low=0.0, open_low=True, tunable=(0.1, 10.0, "log"), doc="α, weight of the active loss"
    )
    beta: float = real(default=1.0, low=0.0, tunable=(0.1, 10.0, "log"), doc="β, weight of the passive loss")
    passive: str = choice(
        default="reverse_cross_entropy",
        options=("reverse_cross_entropy", "mae"),
        doc="which loss lowers the other classes",
    )
    log_zero: float = real(
        default=-4.0, high=0.0, open_high=True, doc="A, what stands for log 0 in the reverse cross-entropy"
    )

    def each(self, batch: Batch) -> Tensor:
        """α of the normalised cross-entropy and β of the passive loss."""
        scale = -self.log_zero if self.passive == "reverse_cross_entropy" else 2.0
        true = self.at_truth(batch, batch.log_probs)
        passive = -scale * self.at_truth(batch, torch.expm1(batch.log_probs))
        return self.alpha * normalized_cross_entropy(true, batch) + self.beta * passive


class PartiallyHuberised(TrueClass):
    """A loss of p that goes on as a straight line where its slope reaches −τ."""

    tau: float = real(
        default=10.0, low=1.0, open_low=True, tunable=(2.0, 30.0, "log"), doc="τ, the steepest slope in p"
    )

    def exponent(self) -> float:
        """Return q of the loss (1 − p^q) / q; 0 is −log p."""
        return 0.0

    def of(self, log_p: Tensor) -> Tensor:
        """(1 − p^q) / q above p₀ = τ^(1 / (q − 1)), its tangent below."""
        q = self.exponent()
        log_border = math.log(self.tau) / (q - 1)
        border = math.exp(log_border)
        at_border = -log_border if q == 0 else -math.expm1(q * log_border) / q
        curve = -log_p if q == 0 else functional.generalized_cross_entropy(log_p, q)
        line = at_border + self.tau * (border - log_p.exp())
        return torch.where(log_p > log_border, curve, line)


@register("phuber_cross_entropy")
class PartiallyHuberisedCrossEntropy(PartiallyHuberised):
    """Cross-entropy that is linear in the probability where it is below 1 / τ: gradient clipping as a loss.

    Formula: ℓ = −log p_y for p_y > 1 / τ, else 1 + log τ − τ p_y.
    Paper: Menon et al. 2020, ICLR, "Can gradient clipping mitigate label noise?", sec. 4.

    Use it for: noisy labels: a confident contradiction costs at most 1 + log τ.
    Fails when: τ is below the number of classes: positions at the start of training hardly move.

    Example:
        >>> loss = PartiallyHuberisedCrossEntropy(tau=4.0)
        >>> loss(torch.zeros(1, 8), torch.tensor([0]))
        tensor(1.8863)
    """


@register("phuber_generalized_cross_entropy")
class PartiallyHuberisedGeneralizedCrossEntropy(PartiallyHuberised):
    """Generalised cross-entropy that is linear in the probability where its slope would exceed τ.

    Formula: ℓ = (1 − p_y^q) / q for p_y > p₀ = τ^(1 / (q − 1)), else its tangent there.
    Paper: Menon et al. 2020, ICLR, "Can gradient clipping mitigate label noise?", sec. 4.

    Use it for: noisy labels, more strictly than phuber_cross_entropy.
    Fails when: like generalized_cross_entropy.

    Example:
        >>> loss = PartiallyHuberisedGeneralizedCrossEntropy(tau=2.0, q=0.5)
        >>> loss(torch.zeros(1, 8), torch.tensor([0]))
        tensor(1.2500)
    """

    q: float = real(
        default=0.7, low=0.0, high=1.0, open_high=True, tunable=(0.0, 0.9, "linear"), doc="q; 0 is −log p"
    )

    def exponent(self) -> float:
        """The exponent q."""
        return self.q


@register("unhinged")
class Unhinged(Weighted):
    """The hinge loss without its hinge: linear in the logits, without end.

    Formula: ℓ = 1 − (z_y − mean_{k≠y} z_k); with several labels 1 − s z, s = ±1.
    Paper: van Rooyen et al. 2015, arXiv 1505.07634, the section on the unhinged loss (two classes); the mean
        over the other classes is the same for two.

    Use it for: symmetric label noise: the only convex loss that no uniform noise misleads.
    Fails when: nothing bounds the logits: it has no minimum. Take weight decay or a normalised last layer.

    Example:
        >>> loss = Unhinged()
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        tensor(3.)
    """

    family = "margin"
    multi = True
    link = "margin"
    signed = True

    def each(self, batch: Batch) -> Tensor:
        """One minus the margin; soft labels weigh the losses of yes and no."""
        if batch.multilabel:
            return 1 - (2 * batch.labels.to(batch.logits.dtype) - 1) * batch.logits
        if batch.classes == 1:
            return batch.logits.sum(1) * 0.0
        true, total = self.at_truth(batch, batch.logits), batch.logits.sum(1)
        return 1 - true + (total - true) / (batch.classes - 1)
