"""Losses that know how many training samples each class has."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.base import Loss, Pointwise
from lossbench.losses.batch import Batch
from lossbench.losses.counts import COUNTS, counts_at_least_one, given_counts
from lossbench.losses.declare import numbers, real
from lossbench.losses.distribution import SmoothedCrossEntropy
from lossbench.losses.registry import register


def _keep_prior(loss: Loss, counts: Sequence[float] | Tensor | None) -> None:
    """Keep log of each class's share as a buffer; a class without samples counts as one."""
    at_least_one = counts_at_least_one(loss, counts)
    loss.per_class("_log_prior", (at_least_one / at_least_one.sum()).log().tolist())


@register("balanced_softmax")
class BalancedSoftmax(SmoothedCrossEntropy):
    """Cross-entropy of a softmax that knows the training prior, so that the logits need not.

    Formula: ℓ = −log (n_y e^{z_y} / Σ_k n_k e^{z_k}).
    Paper: Ren et al. 2020, arXiv 2007.10740, sec. 3 (balanced softmax).

    Use it for: long-tailed training data and a test set where every class counts the same.
    Fails when: the test data have the training prior: its probabilities are for a uniform one.

    Example:
        >>> loss = BalancedSoftmax(class_counts=[3, 1])
        >>> loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor(1.3863)
    """

    class_counts: Sequence[float] | Tensor | None = numbers(default=None, doc=COUNTS)

    def setup(self) -> None:
        """Keep the prior."""
        super().setup()
        _keep_prior(self, self.class_counts)

    def adjusted(self, batch: Batch) -> Tensor:
        """Log-softmax of z + log n."""
        prior = self.classwise("_log_prior", batch)
        return (batch.logits + prior.view(1, -1, 1)).log_softmax(1)


@register("logit_adjusted")
class LogitAdjusted(SmoothedCrossEntropy):
    """Cross-entropy with the log prior, times τ, added to the logits.

    Formula: ℓ = −log softmax(z + τ log π)_y. τ = 1 is the balanced softmax, τ = 0 cross-entropy.
    Paper: Menon et al. 2021, arXiv 2007.07314, the section on the logit-adjusted loss.

    Use it for: long-tailed data scored by balanced accuracy; τ says how far to go.
    Fails when: like the balanced softmax.

    Example:
        >>> loss = LogitAdjusted(class_counts=[3, 1], tau=0.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6931)
    """

    tau: float = real(default=1.0, low=0.0, tunable=(0.0, 2.0, "linear"), doc="τ")
    class_counts: Sequence[float] | Tensor | None = numbers(default=None, doc=COUNTS)

    def setup(self) -> None:
        """Keep the prior."""
        super().setup()
        _keep_prior(self, self.class_counts)

    def adjusted(self, batch: Batch) -> Tensor:
        """Log-softmax of z + τ log π."""
        prior = self.classwise("_log_prior", batch)
        return (batch.logits + self.tau * prior.view(1, -1, 1)).log_softmax(1)


@register("ldam")
class LabelDistributionAwareMargin(SmoothedCrossEntropy):
    """Cross-entropy in which the true class must win by a margin, larger for rarer classes.

    Formula: ℓ = −log softmax(s z')_y, z'_y = z_y − Δ_y, Δ_k ∝ n_k^{−1/4}, the largest Δ being ``margin``.
    Paper: Cao et al. 2019, arXiv 1906.07413, sec. 3; there the logits are cosines and s = 30. Its deferred
        re-weighting is class_weights: class_balanced in a second phase.

    Use it for: long-tailed classification.
    Fails when: logits are not normalised and s is large: it then saturates at once.

    Example:
        >>> loss = LabelDistributionAwareMargin(class_counts=[16, 1], margin=0.5)
        >>> loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.9741)
    """

    margin: float = real(default=0.5, low=0.0, open_low=True, tunable=(0.1, 2.0, "log"), doc="the largest Δ")
    scale: float = real(default=1.0, low=0.0, open_low=True, doc="s; 30 behind a normalised last layer")
    class_counts: Sequence[float] | Tensor | None = numbers(default=None, doc=COUNTS)

    def setup(self) -> None:
        """Keep the margins."""
        super().setup()
        raw = counts_at_least_one(self, self.class_counts).pow(-0.25)
        self.per_class("_margins", (raw * self.margin / raw.max()).tolist())

    def adjusted(self, batch: Batch) -> Tensor:
        """Log-softmax of the scaled logits less the true class's margin."""
        margins = self.classwise("_margins", batch)
        shift = torch.where(batch.is_true(), margins.view(1, -1, 1), 0.0)
        return (self.scale * (batch.logits - shift)).log_softmax(1)

    def of_distribution(self, batch: Batch, weights: Tensor | None) -> Tensor:
        """Return the mean over the classes: which logit has the margin depends on the true class."""
        return torch.stack(
            [batch.labels[:, k] * self.each(batch.of_class(k)) for k in range(batch.classes)], 1
        ).sum(1)


@register("equalization")
class Equalization(Pointwise):
    """A sigmoid per class in which rare classes are spared the gradient of other classes' samples.

    Formula: ℓ = −Σ_k w_k (t_k log σ(z_k) + (1 − t_k) log σ(−z_k)), w_k = 1 − [f_k < λ] (1 − t_k), f_k the
        class's share of the training samples. With one label a position it is summed over classes.
    Paper: Tan et al. 2020, arXiv 2003.05176, sec. 3 (without its exception for background proposals).

    Use it for: very many classes, most of them rare.
    Fails when: no class is rarer than λ (it is then plain binary cross-entropy) or all are (nothing says no).

    Example:
        >>> loss = Equalization(class_counts=[99, 1], rare=0.05)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """

    family = "distribution"
    multi = True
    link = "sigmoid"

    rare: float = real(
        default=0.05,
        low=0.0,
        high=1.0,
        tunable=(1e-4, 0.5, "log"),
        doc="λ, the share below which a class is rare",
    )
    class_counts: Sequence[float] | Tensor | None = numbers(default=None, doc=COUNTS)

    def setup(self) -> None:
        """Keep which classes are rare, as 0 and 1."""
        counts = given_counts(self, self.class_counts).tolist()
        total = sum(counts)
        self.per_class("_rare", [float(count / total < self.rare) for count in counts])

    def each(self, batch: Batch) -> Tensor:
        """Binary cross-entropy with the rare classes' negatives left out."""
        rare = self.classwise("_rare", batch)
        labels = batch.dense
        entropy = F.binary_cross_entropy_with_logits(batch.logits, labels, reduction="none")
        each = entropy * (1 - rare.view(1, -1, 1) * (1 - labels))
        return each if batch.multilabel else each.sum(1)
