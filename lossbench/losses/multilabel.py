"""Losses for several labels at once: a sigmoid per label, or a ranking of labels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Loss, Pointwise, Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, flag, numbers, real
from lossbench.losses.registry import register


class LabelsOnly(Loss):
    """A loss of labels under a sigmoid each: it takes neither class indices nor a distribution."""

    family = "multi-label"
    single = False
    multi = True

    labels: str = choice(default="independent", options=("independent",), doc="a label a class")


@register("binary_cross_entropy")
class BinaryCrossEntropy(LabelsOnly, Weighted):
    """Cross-entropy of one sigmoid per label: the log loss of several labels, done right.

    Formula: ℓ = −(q t log σ(z) + (1 − t) log σ(−z)), q = pos_weight; with smoothing t ← (1 − ε) t + ε / 2.
    Paper: none; see Bishop 2006, sec. 4.3.2.

    Use it for: several labels at once, detection heat maps, autoencoders of values in [0, 1].
    Fails when: positives are rare: easy negatives dominate; use pos_weight, focal or asymmetric.

    Example:
        >>> loss = BinaryCrossEntropy(pos_weight=[3.0])
        >>> loss(torch.zeros(1, 1), torch.ones(1, 1))
        tensor(2.0794)
    """

    link = "sigmoid"
    reduces = "weighted mean over valid elements: Σwℓ / Σw (pos_weight is in ℓ)"

    pos_weight: Sequence[float] | Tensor | None = numbers(
        default=None, doc="q, factor of each label's positives; params.yaml also takes balanced"
    )
    label_smoothing: float = real(
        default=0.0,
        low=0.0,
        high=1.0,
        open_high=True,
        tunable=(0.0, 0.3, "linear"),
        doc="ε, pulls labels to 1/2",
    )

    def setup(self) -> None:
        """Keep the weights as buffers."""
        super().setup()
        self.per_class("_pos_weight", self.pos_weight)  # type: ignore[arg-type]  # a tuple, once checked

    def each(self, batch: Batch) -> Tensor:
        """Return the binary cross-entropy of each label."""
        labels = batch.labels.to(batch.logits.dtype)
        labels = (
            labels * (1 - self.label_smoothing) + self.label_smoothing / 2 if self.label_smoothing else labels
        )
        weight = self.optional_classwise("_pos_weight", batch)
        weight = None if weight is None else weight.view(-1, 1)
        return F.binary_cross_entropy_with_logits(batch.logits, labels, pos_weight=weight, reduction="none")


@register("asymmetric")
class Asymmetric(LabelsOnly, Weighted):
    """Focal loss with separate exponents for positives and negatives; very easy negatives count nothing.

    Formula: ℓ = −t (1 − p)^γ⁺ log p − (1 − t) p_m^γ⁻ log(1 − p_m), p_m = max(p − m, 0).
    Paper: Ben-Baruch et al. 2020, arXiv 2009.14119, sec. 2; Ridnik et al. 2021 at ICCV (its code sums over
        labels; timm's has reduction "sum").

    Use it for: many labels, few positives each; labels that are missing look like easy negatives.
    Fails when: positives are not rare: negatives then hardly count and everything is predicted.

    Example:
        >>> loss = Asymmetric(gamma_negative=2.0, clip=0.0)
        >>> loss(torch.zeros(1, 1), torch.zeros(1, 1))
        tensor(0.1733)
    """

    link = "sigmoid"
    reduces = "weighted mean over valid elements"

    gamma_positive: float = real(
        default=0.0, low=0.0, tunable=(0.0, 2.0, "linear"), doc="γ⁺, exponent of positives"
    )
    gamma_negative: float = real(
        default=4.0, low=0.0, tunable=(0.0, 6.0, "linear"), doc="γ⁻, exponent of negatives"
    )
    clip: float = real(
        default=0.05,
        low=0.0,
        high=1.0,
        open_high=True,
        tunable=(0.0, 0.2, "linear"),
        doc="m, negatives below it cost 0",
    )
    detached: bool = flag(
        default=False,
        doc="whether the gradient leaves the focusing factors out, as the authors' code can",
    )

    def each(self, batch: Batch) -> Tensor:
        """Return the asymmetric focal loss of each label."""
        positive = functional.focal(F.logsigmoid(batch.logits), self.gamma_positive, self.detached)
        negative = self.of_negative(batch)
        return functional.multilabel_expectation(batch.logits, batch.labels, positive, negative)

    def of_negative(self, batch: Batch) -> Tensor:
        """−p_m^γ log(1 − p_m); without clipping from the log-sigmoid, which does not saturate."""
        if self.clip == 0:
            return functional.focal(F.logsigmoid(-batch.logits), self.gamma_negative, self.detached)
        shifted = (batch.logits.sigmoid() - self.clip).clamp_min(0.0)
        factor = functional.safe_power(shifted.detach() if self.detached else shifted, self.gamma_negative)
        return factor * -torch.log1p(-shifted)


@register("zlpr")
class ZeroBoundedRanking(LabelsOnly, Pointwise):
    """Every positive logit above 0 and above every negative one: a softmax cross-entropy of pairs.

    Formula: ℓ = log(1 + Σ_{k∉Y} e^{z_k}) + log(1 + Σ_{k∈Y} e^{−z_k}); soft labels weigh the sums' terms.
    Paper: Su et al. 2022, arXiv 2208.02955, the section on ZLPR, and that on its soft version.

    Use it for: several labels out of many, correlated ones in particular; no parameters.
    Fails when: probabilities are wanted: labels share one sum.

    Example:
        >>> loss = ZeroBoundedRanking()
        >>> loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(1.3863)
    """

    link = "margin"
    reduces = "mean over positions with a valid label"

    def each(self, batch: Batch) -> Tensor:
        """Return both log-sums of each position, (N, L); ignored labels are in neither."""
        yes, no = _log_shares(batch)
        return _log_one_plus_sum(batch.logits + no) + _log_one_plus_sum(yes - batch.logits)


def _log_shares(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log t and log(1 − t), −inf where a label is ignored."""
    labels = batch.labels.to(batch.logits.dtype)
    yes, no = labels.log(), torch.log1p(-labels)
    if batch.valid is None:
        return yes, no
    return yes.masked_fill(~batch.valid, -torch.inf), no.masked_fill(~batch.valid, -torch.inf)


def _log_one_plus_sum(values: Tensor) -> Tensor:
    """Log(1 + Σ exp v) over dim 1; the zero appended keeps it finite."""
    return torch.cat([torch.zeros_like(values[:, :1]), values], 1).logsumexp(1)


@register("multilabel_margin")
class MultilabelMargin(LabelsOnly, Pointwise):
    """Hinge over all pairs of a positive and a negative label.

    Formula: ℓ = Σ_{i∈Y} Σ_{j∉Y} max(0, m − (z_i − z_j)) / C, as torch's multilabel_margin_loss.
    Paper: Crammer & Singer 2003, JMLR 3, p. 1025–1058; torch.nn.MultiLabelMarginLoss.

    Use it for: ranking the positives first.
    Fails when: a threshold is needed: only differences count. The cost grows with C².

    Example:
        >>> loss = MultilabelMargin()
        >>> loss(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        tensor(0.5000)
    """

    link = "margin"
    reduces = "mean over positions with a valid label"

    margin: float = real(default=1.0, low=0.0, open_low=True, tunable=(0.1, 10.0, "log"), doc="m")

    def each(self, batch: Batch) -> Tensor:
        """Sum over positives one class at a time, against all negatives."""
        labels = batch.hard_labels
        negatives = ~labels if batch.valid is None else ~labels & batch.valid
        total = batch.logits.sum(1) * 0.0  # attached, and NaN where a logit is, also where there is no pair
        for i in range(batch.classes):
            slack = (self.margin - batch.logits[:, i : i + 1] + batch.logits).relu()
            of_pairs = slack.masked_fill(~negatives, 0.0).sum(1)
            total = total + of_pairs.masked_fill(~labels[:, i], 0.0)
        return total / batch.classes


@register("two_way")
class TwoWay(LabelsOnly):
    """Softmax-like contrast of the hardest positive and negative, across labels and across samples.

    Formula: softplus(T⁻ log Σ_{neg} e^{z / T⁻} + T⁺ log Σ_{pos} e^{−z / T⁺}), once over the labels of each
        position and once over the positions of each label; each mean is over those with a positive.
    Paper: Kobayashi 2023, CVPR, "Two-Way Multi-Label Loss", p. 7476–7485.

    Use it for: several labels, scored by ranking (mAP) both ways.
    Fails when: batches are small: the second way sees few samples. It needs calibration and a threshold.

    Example:
        >>> loss = TwoWay(temperature_positive=1.0)
        >>> loss(torch.zeros(2, 2), torch.tensor([[1, 0], [0, 1]]))
        tensor(1.3863)
    """

    link = "margin"
    reduces = "mean over positions with a positive plus mean over labels with a positive"

    temperature_positive: float = real(
        default=4.0, low=0.0, open_low=True, tunable=(0.5, 8.0, "log"), doc="T⁺"
    )
    temperature_negative: float = real(
        default=1.0, low=0.0, open_low=True, tunable=(0.5, 8.0, "log"), doc="T⁻"
    )

    def value(self, batch: Batch) -> Tensor:
        """Add both ways."""
        positives = batch.hard_labels
        negatives = ~positives
        if batch.valid is not None:
            positives, negatives = positives & batch.valid, negatives & batch.valid
        across_labels = self.contrast(batch.logits, positives, negatives, (1,), batch.weights)
        logits, weights = batch.logits, batch.element_weights
        across_samples = self.contrast(logits, positives, negatives, (0, 2), None, weights)
        return across_labels + across_samples

    def contrast(
        self,
        logits: Tensor,
        positives: Tensor,
        negatives: Tensor,
        dims: tuple[int, ...],
        outer: Tensor | None,
        inner: Tensor | None = None,
    ) -> Tensor:
        """Return the mean contrast over what has a positive along ``dims``.

        Finite where one side is empty. ``outer`` are weights of that mean, ``inner`` of the sums along
        ``dims``.
        """
        lowest = -1e4
        up, down = -logits / self.temperature_positive, logits / self.temperature_negative
        if inner is not None:
            up, down = up + inner.log(), down + inner.log()
        up = up.masked_fill(~positives, lowest).logsumexp(dims)
        down = down.masked_fill(~negatives, lowest).logsumexp(dims)
        each = F.softplus(self.temperature_negative * down + self.temperature_positive * up)
        counted = (positives.sum(dims) > 0).to(each.dtype)
        return functional.masked_average(each, counted if outer is None else counted * outer)


@register("softmax_multilabel_cross_entropy")
class SoftmaxMultilabelCrossEntropy(LabelsOnly, Pointwise):
    """A mistake kept for measuring: several labels' log loss with a softmax, so that labels compete.

    Formula: ℓ = −Σ_k t_k log softmax(z)_k. With n positives it cannot fall below n log n.
    Paper: none; many tutorials.

    Use it for: measuring what the mistake costs. Nothing else.
    Fails when: a sample has several labels, or none: it then teaches nothing.

    Example:
        >>> loss = SoftmaxMultilabelCrossEntropy()
        >>> loss(torch.zeros(1, 2), torch.tensor([[1, 1]]))
        tensor(1.3863)
    """

    link = "margin"
    reduces = "mean over positions with a valid label"

    def each(self, batch: Batch) -> Tensor:
        """−Σ t log softmax over the valid labels."""
        logits = batch.logits if batch.valid is None else batch.logits.masked_fill(~batch.valid, -1e30)
        terms = batch.labels.to(logits.dtype) * logits.log_softmax(1)
        return -(terms if batch.valid is None else terms.masked_fill(~batch.valid, 0.0)).sum(1)
