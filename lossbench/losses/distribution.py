"""Cross-entropy and its relatives that look at the probability of the true class.

Focal, reduced focal, Poly-1, top-k.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Weighted, masked, weighted_mean
from lossbench.losses.batch import Batch
from lossbench.losses.declare import real
from lossbench.losses.inputs import is_wrapped
from lossbench.losses.registry import register

#: Logits up to which torch's cross-entropy is faster than blocks, with one thread and with several; larger
#: maps are fresh memory every time.
TORCHS, TORCHS_TOGETHER = 1 << 21, 1 << 23


class SmoothedCrossEntropy(Weighted):
    """Cross-entropy of log-probabilities that a subclass may adjust."""

    family = "distribution"

    label_smoothing: float = real(
        default=0.0,
        low=0.0,
        high=1.0,
        open_high=True,
        tunable=(0.0, 0.3, "linear"),
        doc="ε: the target is 1 − ε on the true class plus ε / C on every class",
    )

    def adjusted(self, batch: Batch) -> Tensor:
        """Return the log-probabilities (N, C, L) that the cross-entropy is taken of."""
        return batch.log_probs

    def true_log_probs(self, batch: Batch) -> Tensor:
        """Return those of the true class, (N, L) (class indices only)."""
        return batch.pick(self.adjusted(batch))

    def each(self, batch: Batch) -> Tensor:
        """Return Σw·(−log p) of each position.

        The weights are inside, as label smoothing spreads them too.
        """
        weights = self.optional_classwise("_class_weights", batch)
        if batch.mixed:
            return self.of_distribution(batch, weights)
        if self.label_smoothing == 0:
            true = -self.true_log_probs(batch)
            return true if weights is None else true * weights[batch.index]
        return functional.smoothed_cross_entropy(
            self.adjusted(batch), batch.index, self.label_smoothing, weights
        )

    def of_distribution(self, batch: Batch, weights: Tensor | None) -> Tensor:
        """Return −Σ w t log p, t the target's distribution, smoothed."""
        target = batch.labels
        if self.label_smoothing:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / batch.classes
        terms = target * self.adjusted(batch)
        return -(terms if weights is None else terms * weights.view(1, -1, 1)).sum(1)

    def reduce(self, batch: Batch, each: Tensor) -> Tensor:
        """Divide by the weights of the valid positions' classes; ``each`` carries the weights already."""
        weights, valid = self.weights(batch), batch.positions
        if weights is None:
            return super().reduce(batch, each)
        each = each if batch.weights is None else each * batch.weights
        if self.reduction == "none":
            return batch.unflatten(masked(each, valid))
        total = masked(each, valid).sum()
        if self.reduction == "sum":
            return total
        weights = weights if batch.weights is None else weights * batch.weights
        norm = masked(weights, valid).sum()
        return total / norm.masked_fill(norm == 0, 1.0)


@register("cross_entropy")
class CrossEntropy(SmoothedCrossEntropy):
    """The negative log-probability of the true class.

    Formula: ℓ = −log softmax(z)_y; with label smoothing −Σ_k t_k log p_k, t = (1 − ε) onehot(y) + ε / C.
    Paper: label smoothing: Szegedy et al. 2016, arXiv 1512.00567, sec. 7.

    Use it for: the default; a proper scoring rule, so that its probabilities can be calibrated.
    Fails when: one class dominates (its gradient drowns the rare ones) or labels are noisy (it is unbounded).

    Example:
        >>> loss = CrossEntropy(label_smoothing=0.1)
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        tensor(0.2269)
    """

    @property
    def reads_summary(self) -> bool:
        """The true class is all that is read, unless the target is smoothed."""
        return self.label_smoothing == 0

    def true_log_probs(self, batch: Batch) -> Tensor:
        """Those of the softmax, which the parts of a sum share."""
        return batch.true_log_probs

    def value(self, batch: Batch) -> Tensor:
        """Take torch's own kernel where it says the same and is as fast."""
        if not self.plainly_torchs(batch):
            return super().value(batch)
        index = batch.index if batch.valid is None else batch.index.masked_fill(~batch.valid, -100)
        points = batch.logits.shape[2] == 1
        logits, index = (batch.logits[:, :, 0], index[:, 0]) if points else (batch.logits, index)
        total = F.cross_entropy(logits, index, ignore_index=-100, reduction="sum")
        if self.reduction == "sum":
            return total
        return total / (index.numel() if batch.valid is None else batch.valid.sum().clamp_min(1))

    def plainly_torchs(self, batch: Batch) -> bool:
        """Say whether nothing is weighed, smoothed, or shared with the other parts of a sum.

        Large maps are faster in blocks; on CUDA torch's kernel for maps is not deterministic, and mapped over
        members it has none for points: it gathers.
        """
        if self.label_smoothing or self.class_weights is not None or self.reduction == "none":
            return False
        if batch.shared or batch.mixed or batch.weights is not None:
            return False
        points = batch.logits.shape[2] == 1
        if functional.compares(batch.logits, batch.classes) and is_wrapped(batch.logits):
            return False
        together = batch.plain or torch.get_num_threads() > 1  # asked last: no question to compiled code
        most = TORCHS_TOGETHER if together else TORCHS
        return points or (batch.logits.device.type == "cpu" and batch.logits.numel() <= most)


class TrueClass(Weighted):
    """A loss that depends on nothing but log p of the label that holds.

    With several labels each channel is a sigmoid of its own, and soft labels t weigh the losses of yes and
    no; a distribution over the classes weighs the losses of the classes.
    """

    family = "distribution"
    multi = True

    @property
    def reads_summary(self) -> bool:
        """The true class is all that is read."""
        return True

    def of(self, log_p: Tensor) -> Tensor:
        """Return the loss as a function of log p."""
        raise NotImplementedError

    def each(self, batch: Batch) -> Tensor:
        """Apply ``of`` to the true class, or to each label."""
        if batch.mixed:
            return self.at_truth(batch, self.of(batch.log_probs))
        if not batch.multilabel:
            return self.of(batch.true_log_probs)
        if not batch.soft:
            return self.of(functional.log_sigmoid_of_label(batch.logits, batch.labels))
        yes, no = self.of(F.logsigmoid(batch.logits)), self.of(F.logsigmoid(-batch.logits))
        return functional.multilabel_expectation(batch.logits, batch.labels, yes, no)


class Balanced(TrueClass):
    """A true-class loss with the α of RetinaNet."""

    alpha: float | None = real(
        default=None,
        low=0.0,
        high=1.0,
        optional=True,
        tunable=(0.1, 0.9, "linear"),
        doc="several labels: α on positives and 1 − α on negatives; one label: a constant factor α",
    )

    def each(self, batch: Batch) -> Tensor:
        """Multiply the loss by α where the label is yes and by 1 − α where it is no."""
        each = super().each(batch)
        if self.alpha is None:
            return each
        if not batch.multilabel:
            return self.alpha * each
        labels = batch.labels.to(each.dtype)
        return each * (self.alpha * labels + (1 - self.alpha) * (1 - labels))


@register("focal")
class Focal(Balanced):
    """Cross-entropy that fades for positions already right.

    Formula: ℓ = −α (1 − p_y)^γ log p_y, p = softmax(z), or a sigmoid per channel. γ = 0 is cross-entropy,
        exactly.
    Paper: Lin et al. 2017, arXiv 1708.02002, sec. 3 (α is not in the denominator of the mean).

    Use it for: many easy positions (background) and few hard ones: detection, rare classes.
    Fails when: labels are noisy, which are hard positions for ever; probabilities come out under-confident.

    Example:
        >>> loss = Focal(gamma=2.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.1733)
    """

    gamma: float = real(
        default=2.0, low=0.0, tunable=(0.0, 5.0, "linear"), doc="γ, how fast easy positions fade"
    )

    def of(self, log_p: Tensor) -> Tensor:
        """−(1 − p)^γ log p."""
        return functional.focal(log_p, self.gamma)


@register("reduced_focal")
class ReducedFocal(Balanced):
    """Focal loss that leaves positions below a threshold at full cross-entropy.

    Formula: ℓ = −f(p_y) log p_y, f = 1 for p < θ, else ((1 − p) / θ)^γ.
    Paper: Sergievskiy & Ponamarev 2019, arXiv 1903.01347, the section on the reduced focal loss.

    Use it for: imbalance with many hard positions, whose weight the focal loss would cut too.
    Fails when: θ is far from 1/2: f jumps there, and so does the loss.

    Example:
        >>> loss = ReducedFocal(gamma=2.0, threshold=0.5)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """

    gamma: float = real(
        default=2.0, low=0.0, tunable=(0.0, 5.0, "linear"), doc="γ, how fast easy positions fade"
    )
    threshold: float = real(
        default=0.5, low=0.0, high=1.0, open_low=True, doc="θ, the probability where fading begins"
    )

    def of(self, log_p: Tensor) -> Tensor:
        """−f(p) log p."""
        return functional.reduced_focal(log_p, self.gamma, self.threshold)


@register("poly1")
class Poly1(TrueClass):
    """Cross-entropy (or focal loss) with its first polynomial coefficient changed.

    Formula: ℓ = −(1 − p_y)^γ log p_y + ε (1 − p_y)^(γ + 1).
    Paper: Leng et al. 2022, arXiv 2204.12511, the sections on Poly-1 (γ = 0; with γ > 0 Poly-1 focal).

    Use it for: a single knob that often gains a little over cross-entropy.
    Fails when: ε < −1 with γ = 0: the loss then rewards being slightly wrong.

    Example:
        >>> loss = Poly1(epsilon=1.0)
        >>> loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(1.1931)
    """

    epsilon: float = real(
        default=1.0, low=-1.0, tunable=(-1.0, 6.0, "linear"), doc="ε, weight of the added term"
    )
    gamma: float = real(default=0.0, low=0.0, doc="γ of a focal loss; 0 is cross-entropy")

    def of(self, log_p: Tensor) -> Tensor:
        """−(1 − p)^γ log p + ε (1 − p)^(γ + 1)."""
        wrong = functional.safe_power(-torch.expm1(log_p), self.gamma + 1)
        return functional.focal(log_p, self.gamma) + self.epsilon * wrong


@register("top_k")
class TopK(Weighted):
    """Cross-entropy of the hardest positions only: online hard example mining.

    Formula: Σ_{i∈T} w ℓ_i / Σ_{i∈T} w, T the ⌈kept · n⌉ valid positions with the largest ℓ = −log p_y.
    Paper: Shrivastava et al. 2016, arXiv 1604.03540, sec. 4.

    Use it for: dense prediction where most positions are solved early.
    Fails when: labels are noisy: what is kept are the mistakes.

    Example:
        >>> loss = TopK(kept=0.5)
        >>> loss(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        tensor(0.6931)
    """

    family = "distribution"
    multi = True
    reduces = "weighted mean over the hardest share of the valid positions of the batch"

    kept: float = real(
        default=0.25,
        low=0.0,
        high=1.0,
        open_low=True,
        tunable=(0.05, 1.0, "linear"),
        doc="share of positions kept",
    )

    def each(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of each position or label."""
        if batch.mixed:
            return -self.at_truth(batch, batch.log_probs)
        if not batch.multilabel:
            return -batch.true_log_probs
        labels = batch.labels.to(batch.logits.dtype)
        return F.binary_cross_entropy_with_logits(batch.logits, labels, reduction="none")

    def reduce(self, batch: Batch, each: Tensor) -> Tensor:
        """Average over the hardest: rank all, keep the first ⌈kept · n⌉ of those that count."""
        valid, weights = batch.valid, batch.weighed(self.weights(batch), each.ndim)
        if weights is not None:  # what weighs nothing takes no one's place
            counted = (weights != 0).expand(each.shape)
            valid = counted if valid is None else valid & counted
        keys = each.detach() if valid is None else each.detach().masked_fill(~valid, -1.0)
        order = keys.flatten().argsort(descending=True, stable=True)
        count = torch.full((), each.numel(), device=each.device) if valid is None else valid.sum()
        wanted = (self.kept * count).ceil()
        ranks = torch.arange(each.numel(), device=each.device)
        hardest = torch.zeros_like(ranks, dtype=torch.bool).scatter(0, order, ranks < wanted).view(each.shape)
        if self.reduction == "none":
            return batch.unflatten((each if weights is None else each * weights).masked_fill(~hardest, 0.0))
        return weighted_mean(each, weights, hardest, total=self.reduction == "sum")


@register("logit_normalized")
class LogitNormalized(SmoothedCrossEntropy):
    """Cross-entropy of logits scaled to a fixed length, which stops confidence from growing without end.

    Formula: ℓ = −log softmax(z / (τ ‖z‖))_y.
    Paper: Wei et al. 2022, arXiv 2205.09310, the section on logit normalisation.

    Use it for: detecting inputs from elsewhere; calibration.
    Fails when: τ does not fit the number of classes: too large a τ bounds the loss far from 0.

    Example:
        >>> loss = LogitNormalized(temperature=0.5)
        >>> loss(torch.tensor([[3.0, 0.0]]), torch.tensor([0]))
        tensor(0.1269)
    """

    temperature: float = real(default=0.04, low=0.0, open_low=True, tunable=(0.01, 1.0, "log"), doc="τ")

    def adjusted(self, batch: Batch) -> Tensor:
        """Log-softmax of the normalised logits; a length below 10⁻³ counts as that: the slope has an end."""
        length = batch.logits.square().sum(1, keepdim=True).clamp_min(1e-6).sqrt()
        return (batch.logits / (self.temperature * length)).log_softmax(1)


@register("double_softmax_cross_entropy")
class DoubleSoftmaxCrossEntropy(SmoothedCrossEntropy):
    """A mistake kept for measuring: cross-entropy fed with probabilities, so that softmax is applied twice.

    Formula: ℓ = −log softmax(softmax(z))_y. It cannot fall below log(1 + (C − 1) / e): 1.4612 for ten
        classes.
    Paper: none; many tutorials (a network ending in a softmax, trained with a loss that applies one).

    Use it for: measuring what the mistake costs. Nothing else.
    Fails when: always: gradients shrink by the softmax's Jacobian and vanish at confident mistakes.

    Example:
        >>> loss = DoubleSoftmaxCrossEntropy()
        >>> loss(torch.tensor([[50.0, 0.0]]), torch.tensor([0]))
        tensor(0.3133)
    """

    def adjusted(self, batch: Batch) -> Tensor:
        """Log-softmax of the softmax."""
        return batch.probs.log_softmax(1)


__all__ = [
    "CrossEntropy",
    "DoubleSoftmaxCrossEntropy",
    "Focal",
    "LogitNormalized",
    "Poly1",
    "ReducedFocal",
    "TopK",
]
