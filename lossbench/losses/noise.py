"""Losses that trust the labels less: bounded or self-correcting relatives of cross-entropy."""

import torch
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, real
from lossbench.losses.distribution import TrueClass
from lossbench.losses.registry import register


@register("generalized_cross_entropy")
class GeneralizedCrossEntropy(TrueClass):
    """Between cross-entropy (q → 0) and mean absolute error (q = 1).

    Bounded, so that a wrong label has a limit.

    Formula: ℓ = (1 − p_y^q) / q.
    Paper: Zhang & Sabuncu 2018, arXiv 1805.07836, sec. 3 (L_q loss).

    Use it for: noisy labels.
    Fails when: there are many classes and q is near 1: positions at the start of training hardly move.

    Example:
        >>> loss = GeneralizedCrossEntropy(q=0.5)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5858)
    """

    q: float = real(default=0.7, low=0.0, high=1.0, open_low=True, tunable=(0.1, 1.0, "linear"), doc="q")

    def of(self, log_p: Tensor) -> Tensor:
        """(1 − p^q) / q."""
        return functional.generalized_cross_entropy(log_p, self.q)


@register("symmetric_cross_entropy")
class SymmetricCrossEntropy(TrueClass):
    """Cross-entropy plus its reverse, with log 0 of the one-hot target set to A.

    Formula: ℓ = −α log p_y − β A (1 − p_y).
    Paper: Wang et al. 2019, arXiv 1908.06112, the section on symmetric cross entropy learning.

    Use it for: noisy labels, where plain cross-entropy learns easy classes only or over-fits.
    Fails when: α is too small for many classes: the reverse term alone learns slowly.

    Example:
        >>> loss = SymmetricCrossEntropy(alpha=1.0, beta=1.0, log_zero=-4.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(2.6931)
    """

    alpha: float = real(default=0.1, low=0.0, tunable=(0.01, 10.0, "log"), doc="α, weight of cross-entropy")
    beta: float = real(default=1.0, low=0.0, tunable=(0.01, 10.0, "log"), doc="β, weight of its reverse")
    log_zero: float = real(default=-4.0, high=0.0, open_high=True, doc="A, what stands for log 0")

    def of(self, log_p: Tensor) -> Tensor:
        """−α log p − βA(1 − p)."""
        return -self.alpha * log_p + self.beta * self.log_zero * torch.expm1(log_p)


@register("bootstrapped")
class Bootstrapped(Weighted):
    """Cross-entropy against a mixture of the label and the model's own opinion.

    Formula: ℓ = −Σ_k (β t_k + (1 − β) q_k) log p_k; q = p (soft) or the one-hot of its largest entry (hard).
    Paper: Reed et al. 2015, arXiv 1412.6596, sec. 3 (β = 0.95 soft, 0.8 hard).

    Use it for: noisy or missing labels, after some training.
    Fails when: β is small from the start: the model agrees with itself.

    Example:
        >>> loss = Bootstrapped(beta=0.8, variant="hard")
        >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        tensor(1.7269)
    """

    family = "distribution"

    beta: float = real(
        default=0.95, low=0.0, high=1.0, tunable=(0.5, 1.0, "linear"), doc="β, trust in the label"
    )
    variant: str = choice(
        default="soft", options=("soft", "hard"), doc="whether the opinion is p or its largest entry"
    )

    def each(self, batch: Batch) -> Tensor:
        """Mix −log p of the label with the entropy, or with −log p of the largest."""
        own = batch.log_probs.amax(1) if self.variant == "hard" else (batch.probs * batch.log_probs).sum(1)
        true = self.at_truth(batch, batch.log_probs) if batch.mixed else batch.true_log_probs
        return -self.beta * true - (1 - self.beta) * own


@register("bi_tempered")
class BiTempered(Weighted):
    """Logistic loss with a tempered logarithm (bounded) and a tempered softmax (heavy tails).

    Formula: ℓ = Σ_k t_k (log_{t1} t_k − log_{t1} p_k) − (t_k^{2−t1} − p_k^{2−t1}) / (2 − t1), p = tempered
        softmax at t2, log_t x = (x^{1−t} − 1) / (1 − t). t1 = t2 = 1 is cross-entropy.
    Paper: Amid et al. 2019, arXiv 1906.03361, the section on the bi-tempered logistic loss.

    Use it for: outliers (t1 < 1 bounds the loss) and labels wrong near the border (t2 > 1).
    Fails when: t1 is near 0: hard positions stop learning. Its probabilities are tempered ones, not a
        softmax.

    Example:
        >>> loss = BiTempered(t1=0.5, t2=1.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.3905)
    """

    family = "distribution"
    link = "margin"

    t1: float = real(
        default=0.8, low=0.0, high=1.0, tunable=(0.2, 1.0, "linear"), doc="t1, below 1 bounds the loss"
    )
    t2: float = real(
        default=1.2, low=1.0, high=4.0, tunable=(1.0, 2.0, "linear"), doc="t2, above 1 heavy tails"
    )

    def each(self, batch: Batch) -> Tensor:
        """The Bregman divergence from the target; log_t 1 = 0 where it is one class."""
        log_p = functional.tempered_log_softmax(batch.logits, self.t2)
        spread = ((2 - self.t1) * log_p).exp().sum(1)
        if not batch.mixed:
            true = functional.log_tempered(batch.pick(log_p), self.t1)
            return -true - (1 - spread) / (2 - self.t1)
        t = batch.labels
        cross = (t * functional.log_tempered(log_p, self.t1)).sum(1)
        own = torch.xlogy(t, t) if self.t1 == 1 else (t.pow(2 - self.t1) - t) / (1 - self.t1)  # t log_t t
        return own.sum(1) - cross - (t.pow(2 - self.t1).sum(1) - spread) / (2 - self.t1)
