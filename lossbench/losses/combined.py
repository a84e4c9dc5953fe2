"""Published combinations that are more than a sum: combo loss and unified focal loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import weighted_mean
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, real
from lossbench.losses.functional import Overlap
from lossbench.losses.region import Counted, Smoothed, dice_score
from lossbench.losses.registry import register


@register("combo")
class Combo(Smoothed):
    """Binary cross-entropy of every class, weighed for misses or alarms, with Dice.

    Formula: −α mean(β t log p + (1 − β)(1 − t) log(1 − p)) + (1 − α)(1 − Dice), the mean over positions and
        classes. The paper subtracts α's complement times Dice; the constant 1 − α makes a perfect prediction
        0.
    Paper: Taghanaki et al. 2018, arXiv 1805.02798, the section on the combo loss.

    Use it for: segmentation with unequal regions, where β sets misses against false alarms.
    Fails when: β is at an end: one kind of error costs nothing in the cross-entropy.

    Example:
        >>> loss = Combo(alpha=1.0, beta=0.5)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.3466)
    """

    family = "compound"
    reduces = (
        "cross-entropy over valid positions and classes; Dice over classes as over, average and absent say"
    )

    alpha: float = real(
        default=0.5, low=0.0, high=1.0, tunable=(0.1, 0.9, "linear"), doc="α, share of cross-entropy"
    )
    beta: float = real(
        default=0.5, low=0.0, high=1.0, tunable=(0.1, 0.9, "linear"), doc="β, weight of misses"
    )

    def of(self, counts: Overlap) -> Tensor:
        """The Dice loss."""
        return 1 - dice_score(counts, self.smooth, self.below)

    reduction: str = choice(default="mean", options=("mean",), doc="its parts are averaged apart")

    @property
    def reads_summary(self) -> bool:
        """The cross-entropy reads every class."""
        return False

    def value(self, batch: Batch) -> Tensor:
        """Return α of the cross-entropy and 1 − α of the Dice loss."""
        batch.share()
        log_p = batch.log_probs
        log_not = (
            F.logsigmoid(-batch.logits)
            if batch.multilabel
            else functional.log_one_minus_softmax(batch.logits, batch.log_probs)
        )
        labels, weights = batch.dense, self.weights_of_classes(batch)
        each = -self.beta * labels * log_p - (1 - self.beta) * (1 - labels) * log_not
        weights = batch.weighed(None if weights is None else weights.view(1, -1, 1), each.ndim)
        entropy = weighted_mean(each, weights, batch.everywhere)
        return self.alpha * entropy + (1 - self.alpha) * super().value(batch)


@register("unified_focal")
class UnifiedFocal(Counted):
    """Focal and focal Tversky loss with shared parameters; class 0 is the background.

    Formula: λ L_F + (1 − λ) L_T. L_F: −δ log p on foreground, −(1 − δ)(1 − p)^γ log p on background. L_T:
        mean over classes of 1 − TI (background) and (1 − TI)^(1 − γ) (foreground), TI = (I + s) / (I + δ FN +
        (1 − δ) FP + s). ``symmetric`` applies the background's focal factor and the foreground's exponent to
        all classes.
    Paper: Yeung et al. 2021, arXiv 2102.04525, section on the unified focal loss; exponents as in its code.

    Use it for: small foreground in segmentation; one γ enhances rare and suppresses frequent classes.
    Fails when: class 0 is no background.

    Example:
        >>> loss = UnifiedFocal(focal_weight=1.0, delta=0.6, gamma=0.5)
        >>> loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
        tensor(0.3060)
    """

    family = "compound"
    multi = False
    background = True
    reduces = "focal part over valid positions; Tversky part over classes and, with over=image, images"

    focal_weight: float = real(
        default=0.5, low=0.0, high=1.0, tunable=(0.1, 0.9, "linear"), doc="λ, share of the focal part"
    )
    delta: float = real(
        default=0.6, low=0.0, high=1.0, tunable=(0.3, 0.9, "linear"), doc="δ, weight of the foreground"
    )
    gamma: float = real(
        default=0.5, low=0.0, high=1.0, tunable=(0.1, 0.9, "linear"), doc="γ, how much is suppressed"
    )
    variant: str = choice(default="asymmetric", options=("asymmetric", "symmetric"), doc="see the formula")
    smooth: float = real(default=1e-7, low=0.0, open_low=True, doc="s of the Tversky index")
    reduction: str = choice(default="mean", options=("mean",), doc="its parts are averaged apart")

    @property
    def reads_summary(self) -> bool:
        """Keep to autograd."""
        return False

    def value(self, batch: Batch) -> Tensor:
        """Return λ of the focal and 1 − λ of the Tversky part."""
        batch.share()
        weights = self.weights_of_classes(batch)
        weights = None if weights is None else batch.weights_of_truth(weights)
        focal = weighted_mean(self.focal(batch), batch.weighed(weights, 2), batch.valid)
        return self.focal_weight * focal + (1 - self.focal_weight) * super().value(batch)

    def focal(self, batch: Batch) -> Tensor:
        """Return the focal part of each position, (N, L)."""
        if batch.mixed:
            faded = functional.focal(batch.log_probs, self.gamma)
            foreground = faded if self.variant == "symmetric" else -batch.log_probs
            each = torch.cat([(1 - self.delta) * faded[:, :1], self.delta * foreground[:, 1:]], 1)
            return (batch.labels * each).sum(1)
        log_p = batch.true_log_probs
        faded = functional.focal(log_p, self.gamma)
        foreground = faded if self.variant == "symmetric" else -log_p
        return torch.where(batch.index == 0, (1 - self.delta) * faded, self.delta * foreground)

    def of(self, counts: Overlap) -> Tensor:
        """Return each class's Tversky loss, raised to 1 − γ where the variant says so."""
        false = self.delta * (counts.true - counts.both) + (1 - self.delta) * (counts.predicted - counts.both)
        loss = (1 - (counts.both + self.smooth) / (counts.both + false + self.smooth)).clamp_min(0.0)
        raised = functional.safe_power(loss, 1 - self.gamma)
        if self.variant == "symmetric":
            return raised
        return torch.cat([loss[:, :1], raised[:, 1:]], 1)
