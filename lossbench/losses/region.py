"""Overlap losses: Dice and its relatives, functions of soft counts per class."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.averaging import Averaged
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, flag, integer, numbers, real
from lossbench.losses.functional import Overlap
from lossbench.losses.registry import register


class Counted(Averaged):
    """A loss of soft counts per class, of each image or of the batch."""

    family = "region"
    multi = True
    reduces = "mean over classes and, with over=image, over images that have a valid position"

    over: str = choice(
        default="batch", options=("image", "batch"), doc="whether counts are per image or of the batch"
    )
    absent: str = choice(
        default="include",
        options=("include", "skip", "zero"),
        doc="a class without a true position counts like others, is left out, or counts as loss 0",
    )
    class_weights: Sequence[float] | Tensor | None = numbers(
        default=None, doc="weight of each class; params.yaml also takes balanced and class_balanced"
    )
    include_background: bool = flag(default=True, doc="whether class 0 counts; else it is as one of weight 0")

    def setup(self) -> None:
        """Keep the weights as a buffer."""
        self.per_class("_class_weights", self.class_weights)  # type: ignore[arg-type]  # a tuple, once checked

    @property
    def reads_summary(self) -> bool:
        """Plain counts are all that is read."""
        return self.exponent() == 1

    @property
    def by_image(self) -> bool:
        """Whether images are counted one by one."""
        return self.over == "image"

    def value(self, batch: Batch) -> Tensor:
        """Average the loss of each (image and) class."""
        return self.averaged(self.counts(batch), batch)

    def counts(self, batch: Batch) -> Overlap:
        """Return the soft counts, (N, C) or (1, C)."""
        return self.pooled(batch.overlap(self.exponent(), by_image=self.by_image))

    def pooled(self, counts: Overlap) -> Overlap:
        """Add the images up, unless they are counted one by one."""
        return counts if self.by_image else Overlap(*(part.sum(0, keepdim=True) for part in counts))

    def exponent(self) -> int:
        """Return the exponent of predicted and true counts, 1 or 2."""
        return 1

    def of(self, counts: Overlap) -> Tensor:
        """Return the loss of each (image and) class from its counts."""
        raise NotImplementedError

    def weights_of_classes(self, batch: Batch) -> Tensor | None:
        """Return how much each class counts, (C,); None for all alike."""
        weights = self.optional_classwise("_class_weights", batch)
        if self.include_background:
            return weights
        foreground = self.foreground(batch)
        return foreground if weights is None else weights * foreground

    def averaged(self, counts: Overlap, batch: Batch) -> Tensor:
        """Average over classes as ``absent`` says, then over images that have something to score."""
        each, shares = self.scored(counts, self.weights_of_classes(batch))
        images = self.images(shares.any(1), batch)
        return self.average_of(each, shares, images)

    def images(self, scored: Tensor, batch: Batch) -> Tensor:
        """Return the weight of each image, (N,) or (1,), in the average: 0 where nothing is ``scored``."""
        images = scored.to(batch.logits.dtype)
        by_sample = batch.sample_weights if self.by_image else None
        return images if by_sample is None else images * by_sample

    def scored(self, counts: Overlap, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss of each (image and) class and its share in the average over classes."""
        present = counts.true > 0
        shares = torch.ones_like(counts.true) if weights is None else weights.expand(counts.true.shape)
        shares = shares.masked_fill(counts.positions == 0, 0.0)
        each = self.of(counts)
        if self.absent == "skip":
            shares = shares.masked_fill(~present, 0.0)
        elif self.absent == "zero":
            each = torch.where(present, each, each * 0.0)  # times 0, so that NaN shows
        return each, shares


class Region(Counted):
    """A loss of soft counts per class, or of counts summed over classes."""

    average: str = choice(
        default="macro",
        options=("macro", "micro"),
        doc="a score per class, averaged; or one score of summed counts",
    )

    def averaged(self, counts: Overlap, batch: Batch) -> Tensor:
        """Average the classes' losses (macro), or sum their weighted counts first (micro)."""
        if self.average == "macro":
            return super().averaged(counts, batch)
        weights = self.weights_of_classes(batch)
        images = self.images((counts.positions > 0).any(1), batch)
        scale = 1.0 if weights is None else weights
        each = self.of(Overlap(*((part * scale).sum(1) for part in counts)))
        if self.reduction == "mean":
            return functional.masked_average(each, images)
        return self.reduced(each * images)


def dice_score(counts: Overlap, smooth: float, below: float | None = None) -> Tensor:
    """Return (2I + s) / (P + G + s'); 0, the limit, where P = G = s = s' = 0.

    s' is ``below``, or s where that is None.
    """
    total = counts.predicted + counts.true + (smooth if below is None else below)
    return (2 * counts.both + smooth) / total.clamp_min(1e-8)


#: Settings under which Dice equals what each library computes; keys are Dice's parameters.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "monai": {"over": "image", "average": "macro", "absent": "include", "smooth": 1e-5, "power": 1},
    "smp": {"over": "batch", "average": "macro", "absent": "zero", "smooth": 0.0, "power": 1},
    "kornia": {"over": "image", "average": "micro", "absent": "include", "smooth": 0.0, "power": 1},
    "nnunet": {
        "over": "image",
        "average": "macro",
        "absent": "include",
        "smooth": 1.0,
        "power": 1,
        "offset": 0.0,
    },
    "nnunet_trainer": {
        "over": "image",
        "average": "macro",
        "absent": "include",
        "smooth": 1e-5,
        "power": 1,
        "offset": 0.0,
        "include_background": False,
    },
    "nnunet_trainer_batch": {
        "over": "batch",
        "average": "macro",
        "absent": "include",
        "smooth": 1e-5,
        "power": 1,
        "offset": 0.0,
        "include_background": False,
    },
    "mmseg": {"over": "image", "average": "macro", "absent": "include", "smooth": 1.0, "power": 2},
}


class Smoothed(Region):
    """A region loss with a smoothing constant in numerator and denominator, or one in each."""

    smooth: float = real(
        default=1.0,
        low=0.0,
        tunable=(1e-5, 10.0, "log"),
        doc="s, added to numerator and denominator, in positions",
    )
    smooth_denominator: float | None = real(
        default=None, low=0.0, optional=True, doc="s of the denominator, where it is to be another"
    )

    @property
    def below(self) -> float:
        """The constant of the denominator."""
        return self.smooth if self.smooth_denominator is None else self.smooth_denominator


@register("dice")
class Dice(Smoothed):
    """One minus the Dice overlap of predicted and true regions.

    Formula: 1 − (2 Σpg + s) / (Σp^k + Σg^k + s) per class, k = ``power``; averaged as ``over``, ``average``
        and ``absent`` say. Soft labels take Σ min(p, g) for Σpg where k = 1, so that p = g is the minimum.
        ``preset`` sets all of these to what a library computes for hard labels (nnunet: the negative score,
        by its class's defaults; nnunet_trainer: as its trainer calls it, _batch for batch_dice).
    Paper: Milletari et al. 2016, arXiv 1606.04797, sec. 3 (k = 2); soft labels: Wang et al. 2023, arXiv
        2303.16296, the section on Dice semimetric losses.

    Use it for: segmentation with a small foreground: every class counts the same, however small.
    Fails when: s = 0 and a class is absent: its loss is 1 whatever is predicted, without gradient. Alone it
        gives over-confident probabilities; add cross-entropy.

    Example:
        >>> loss = Dice(smooth=1.0)
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.6044)
    """

    power: int = integer(default=1, low=1, high=2, doc="exponent of p and g in the denominator")
    offset: float = real(
        default=1.0, low=0.0, high=1.0, doc="what the score is subtracted from; nnU-Net takes 0"
    )
    preset: str | None = choice(
        default=None,
        options=tuple(PRESETS),
        optional=True,
        doc="settings of a library; others given beside it win",
    )

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in a preset's settings below those given."""
        preset = given.get("preset")
        return {**PRESETS.get(preset, {}), **given} if isinstance(preset, str) else dict(given)

    def exponent(self) -> int:
        """The exponent k."""
        return self.power

    def of(self, counts: Overlap) -> Tensor:
        """Offset − (2I + s) / (P + G + s)."""
        return self.offset - dice_score(counts, self.smooth, self.below)


@register("generalized_dice")
class GeneralizedDice(Counted):
    """Dice of summed counts in which each class weighs the inverse of its squared size.

    Formula: 1 − (2 Σ_c w_c I_c + s) / (Σ_c w_c (P_c + G_c) + s), w_c = 1 / G_c² (square), 1 / G_c (simple) or
        1 (uniform). An absent class takes the largest weight of the present ones, as in MONAI. s is at most a
        tenth of Σ_c w_c G_c, which is small on large maps: there it would drown the overlap.
    Paper: Sudre et al. 2017, arXiv 1707.03237, sec. 2.1.

    Use it for: many classes of very different size.
    Fails when: a class has a handful of positions: its weight swamps all others.

    Example:
        >>> loss = GeneralizedDice()
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.5000)
    """

    reduces = "one score of counts weighted by class; with over=image averaged over images"

    weighting: str = choice(
        default="square", options=("square", "simple", "uniform"), doc="w = 1 / G², 1 / G or 1"
    )
    smooth: float = real(default=1e-5, low=0.0, doc="s, added to numerator and denominator")
    smooth_denominator: float | None = real(
        default=None, low=0.0, optional=True, doc="s of the denominator, where it is to be another"
    )

    def averaged(self, counts: Overlap, batch: Batch) -> Tensor:
        """Weigh the classes by their size, sum, and average over images."""
        given = self.weights_of_classes(batch)
        weights = self.sizes(counts, given)
        weights = weights if given is None else weights * given
        both, predicted, true = ((weights * part).sum(1) for part in counts[:3])
        most = torch.where(true > 0, 0.1 * true, torch.inf).detach()
        above = most.clamp_max(self.smooth)
        below = above if self.smooth_denominator is None else most.clamp_max(self.smooth_denominator)
        each = 1 - (2 * both + above) / (predicted + true + below).clamp_min(1e-30)
        images = self.images((counts.positions > 0).any(1), batch)
        if self.reduction == "mean":
            return functional.masked_average(each, images)
        return self.reduced(each * images)

    def sizes(self, counts: Overlap, given: Tensor | None) -> Tensor:
        """Return each class's weight, (N, C) or (1, C); a class ``given`` weight 0 sets no other's."""
        exponent = {"square": 2, "simple": 1, "uniform": 0}[self.weighting]
        present = counts.true > 0
        weights = counts.true.masked_fill(~present, 1.0).clamp_min(1e-12).pow(-exponent)  # finite
        setting = present if given is None else present & (given > 0)
        largest = weights.masked_fill(~setting, 0.0).amax(1, keepdim=True)
        largest = largest.masked_fill(largest == 0, 1.0)
        allowed = torch.ones_like(present) if self.absent == "include" else present
        return torch.where(present, weights, largest).masked_fill(~allowed, 0.0)


@register("jaccard")
class Jaccard(Smoothed):
    """One minus the intersection over union of predicted and true regions.

    Formula: 1 − (I + s) / (U + s), U = P + G − I; I = Σpg, which for soft labels is Σ min(p, g) = (P + G −
        Σ|p − g|) / 2: unlike Σpg it has its maximum at p = g.
    Paper: Wang et al. 2023, arXiv 2302.05666, the section on Jaccard metric losses.

    Use it for: segmentation scored by IoU.
    Fails when: like Dice; its gradient is steeper at small overlap.

    Example:
        >>> loss = Jaccard(smooth=0.0, absent="skip")
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.5000)
    """

    def of(self, counts: Overlap) -> Tensor:
        """1 − (I + s) / (P + G − I + s)."""
        union = counts.predicted + counts.true - counts.both
        return 1 - (counts.both + self.smooth) / (union + self.below).clamp_min(1e-8)


@register("tversky")
class Tversky(Smoothed):
    """Dice with separate weights for false positives and false negatives.

    Formula: 1 − (I + s) / (I + α FP + β FN + s), FP = P − I, FN = G − I. α = β = 1/2 is Dice (smooth s / 2).
    Paper: Salehi et al. 2017, arXiv 1706.05721, the section on the Tversky loss.

    Use it for: lesions and defects, where a miss costs more than a false alarm (β > α).
    Fails when: α and β are both small: the loss is near 0 for any prediction that touches the region.

    Example:
        >>> loss = Tversky(alpha=0.3, beta=0.7, smooth=0.0, absent="skip")
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.4118)
    """

    alpha: float = real(
        default=0.5, low=0.0, high=1.0, tunable=(0.1, 0.9, "linear"), doc="weight of false positives"
    )
    beta: float = real(
        default=0.5, low=0.0, high=1.0, tunable=(0.1, 0.9, "linear"), doc="weight of false negatives"
    )

    def of(self, counts: Overlap) -> Tensor:
        """One minus the Tversky index."""
        false = self.alpha * (counts.predicted - counts.both) + self.beta * (counts.true - counts.both)
        return 1 - (counts.both + self.smooth) / (counts.both + false + self.below).clamp_min(1e-8)


@register("focal_tversky")
class FocalTversky(Tversky):
    """Tversky loss raised to a power: attention to the classes done worst (γ > 1) or best (γ < 1).

    Formula: (1 − TI)^γ per class. The paper writes the exponent as 1 / γ; its 4/3 is 0.75 here.
    Paper: Abraham & Khan 2018, arXiv 1810.07842, the section on the focal Tversky loss.

    Use it for: small structures, with β > α and γ = 0.75.
    Fails when: γ < 1 near a perfect overlap: the slope grows without bound.

    Example:
        >>> loss = FocalTversky(gamma=2.0, smooth=0.0, absent="skip")
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.1111)
    """

    gamma: float = real(
        default=0.75, low=0.0, open_low=True, tunable=(0.3, 3.0, "log"), doc="γ, the exponent"
    )

    def of(self, counts: Overlap) -> Tensor:
        """(1 − TI)^γ."""
        return functional.safe_power(super().of(counts).clamp_min(0.0), self.gamma)


@register("log_cosh_dice")
class LogCoshDice(Smoothed):
    """The Dice loss through log cosh, which flattens it near 0.

    Formula: log cosh(1 − Dice) per class.
    Paper: Jadon 2020, arXiv 2006.14822, sec. II-O.

    Use it for: a smoother end of training than Dice.
    Fails when: like Dice; and its gradient vanishes near a good overlap.

    Example:
        >>> loss = LogCoshDice()
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.2011)
    """

    def of(self, counts: Overlap) -> Tensor:
        """Log cosh of the Dice loss."""
        return (1 - dice_score(counts, self.smooth, self.below)).cosh().log()


@register("mcc")
class MatthewsCorrelation(Region):
    """One minus Matthews' correlation of each class against the rest.

    Formula: 1 − (TP·TN − FP·FN) / (√((TP+FP)(TP+FN)(TN+FP)(TN+FN)) + ε), counts as shares of the positions.
        ε stands below alone: above too, it would reward predicting the same everywhere.
    Paper: Abhishek & Hamarneh 2020, arXiv 2010.13454, sec. 2.

    Use it for: segmentation where true negatives matter too.
    Fails when: a class is absent or fills everything: its correlation is not defined, and its loss 1 whatever
        is predicted.

    Example:
        >>> loss = MatthewsCorrelation()
        >>> loss(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]), torch.tensor([0, 1]))
        tensor(4.0054e-05)
    """

    smooth: float = real(default=1e-5, low=0.0, open_low=True, doc="ε, in shares of the positions")

    def of(self, counts: Overlap) -> Tensor:
        """One minus the correlation; the square root stays off 0, where its slope is infinite."""
        total = counts.positions.clamp_min(1.0)
        both, predicted, true = counts.both / total, counts.predicted / total, counts.true / total
        covariance = both - predicted * true  # TP·TN − FP·FN, in shares
        spread = (predicted * (1 - predicted) * true * (1 - true)).clamp_min(1e-20).sqrt()
        return 1 - covariance / (spread + self.smooth)


@register("dice_pp")
class DicePlusPlus(Smoothed):
    """Dice whose false positives and negatives are raised to a power, to hold back over-confidence.

    Formula: 1 − (2 Σpg + s) / (2 Σpg + Σ((1 − p) g)^γ + Σ(p (1 − g))^γ + s); with soft labels Σ min(p, g),
        Σ max(g − p, 0)^γ and Σ max(p − g, 0)^γ.
    Paper: Yeung et al. 2021, arXiv 2111.00528, the section on Dice++.

    Use it for: segmentation with calibrated confidence.
    Fails when: γ is large: errors cost almost nothing until they are certain.

    Example:
        >>> loss = DicePlusPlus(gamma=2.0, smooth=0.0, absent="skip")
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.2000)
    """

    gamma: float = real(
        default=2.0, low=0.0, open_low=True, tunable=(1.0, 4.0, "linear"), doc="γ of the errors"
    )

    @property
    def reads_summary(self) -> bool:
        """The errors are powers of the probabilities."""
        return False

    def counts(self, batch: Batch) -> Overlap:
        """Let P + G stand for 2I + ΣFN^γ + ΣFP^γ, and leave G alone, which says what is present."""
        by_image = self.by_image
        plain, weights = super().counts(batch), batch.count_weights(by_image)
        if batch.multilabel or batch.mixed:
            wrong = functional.errors_of_labels(
                batch.probs, batch.labels, batch.elements, self.gamma, weights
            )
        else:
            wrong = functional.errors_of_index(batch.probs, batch.index, batch.valid, self.gamma, weights)
        wrong = wrong if by_image else wrong.sum(0, keepdim=True)
        return plain._replace(predicted=2 * plain.both + wrong - plain.true)

    def of(self, counts: Overlap) -> Tensor:
        """One minus the score."""
        return 1 - dice_score(counts, self.smooth, self.below)
