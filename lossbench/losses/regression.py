"""Losses of regression, applied to probabilities or logits."""

import torch  # noqa: F401  # the examples use it
from torch import Tensor

from lossbench.losses.base import Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, real
from lossbench.losses.registry import register


class OverClasses(Weighted):
    """A loss that adds up over the classes of a position."""

    family = "regression"
    multi = True

    classes: str = choice(
        default="sum",
        options=("sum", "mean"),
        doc="whether a position's classes are summed or averaged; several labels are always averaged",
    )

    def over_classes(self, batch: Batch, total: Tensor) -> Tensor:
        """Return the sum over classes (N, L), divided by C if so wished."""
        return total / batch.classes if self.classes == "mean" else total


@register("brier")
class Brier(OverClasses):
    """Squared error of the probabilities: the article's MSE for classification.

    Formula: ℓ = Σ_k (p_k − t_k)² (Brier, scikit-learn), or its mean over classes (``mse_loss`` of softmax and
        one-hot).
    Paper: Brier 1950, Monthly Weather Review 78, p. 1–3.

    Use it for: a bounded proper scoring rule: calibrated probabilities, some tolerance of wrong labels.
    Fails when: predictions are confidently wrong: the softmax's flat ends leave almost no gradient.

    Example:
        >>> loss = Brier(classes="sum")
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5000)
    """

    def each(self, batch: Batch) -> Tensor:
        """Σp² − 2p_y + 1, or (p − t)² of each label."""
        if batch.multilabel:
            return (batch.probs - batch.labels.to(batch.logits.dtype)).square()
        if batch.mixed:
            return self.over_classes(batch, (batch.probs - batch.labels).square().sum(1))
        wrong = 1 - batch.pick(batch.probs)
        others = batch.probs.square().sum(1) - (1 - wrong).square()
        return self.over_classes(batch, wrong.square() + others)


@register("mae")
class MeanAbsoluteError(OverClasses):
    """Absolute error of the probabilities.

    Formula: ℓ = Σ_k |p_k − t_k| = 2 (1 − p_y), or its mean over classes.
    Paper: Ghosh et al. 2017, arXiv 1712.09482, the part on the mean absolute error.

    Use it for: noisy labels: symmetric, hence robust to uniform noise.
    Fails when: there are many classes: training from scratch hardly starts.

    Example:
        >>> loss = MeanAbsoluteError()
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(1.)
    """

    def each(self, batch: Batch) -> Tensor:
        """2(1 − p_y), or |p − t| of each label."""
        if batch.multilabel:
            return (batch.probs - batch.labels.to(batch.logits.dtype)).abs()
        if batch.mixed:
            return self.over_classes(batch, (batch.probs - batch.labels).abs().sum(1))
        return self.over_classes(batch, 2 * (1 - batch.pick(batch.probs)))


@register("squared_logits")
class SquaredLogits(Weighted):
    """Squared error of the logits themselves, without a softmax.

    Formula: ℓ = (k (z_y − M)² + Σ_{j≠y} z_j²) / C. With several labels k (z − M)² on positives, (z + M)² on
        negatives, so that 0 stays the border.
    Paper: Hui & Belkin 2021, arXiv 2006.07322, the rescaled square loss (k = 15, M = 30 for many classes).

    Use it for: as good as cross-entropy in many tasks, contrary to belief.
    Fails when: there are many classes and k = M = 1: the one true class is outvoted.

    Example:
        >>> loss = SquaredLogits()
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5000)
    """

    family = "regression"
    multi = True
    link = "margin"

    true_weight: float = real(
        default=1.0, low=0.0, open_low=True, tunable=(1.0, 30.0, "log"), doc="k, weight of the true class"
    )
    target_logit: float = real(
        default=1.0,
        low=0.0,
        open_low=True,
        tunable=(1.0, 60.0, "log"),
        doc="M, the logit the true class should have",
    )

    def each(self, batch: Batch) -> Tensor:
        """Distance of the logits from M on the true class and 0 elsewhere."""
        if batch.multilabel:
            labels = batch.labels.to(batch.logits.dtype)
            yes, no = (batch.logits - self.target_logit).square(), (batch.logits + self.target_logit).square()
            return self.true_weight * labels * yes + (1 - labels) * no
        if batch.mixed:
            yes, no = (batch.logits - self.target_logit).square(), batch.logits.square()
            return (self.true_weight * batch.labels * yes + (1 - batch.labels) * no).sum(1) / batch.classes
        true = batch.pick(batch.logits)
        others = batch.logits.square().sum(1) - true.square()
        return (self.true_weight * (true - self.target_logit).square() + others) / batch.classes
