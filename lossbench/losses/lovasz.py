"""Lovász losses: the convex extension of the Jaccard loss of a set of errors."""

from typing import ClassVar

import torch
from torch import Tensor

from lossbench.losses import functional, fused
from lossbench.losses.averaging import Averaged
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, flag
from lossbench.losses.registry import register


class LovaszBase(Averaged):
    """Σ_i w_i e_i per class: errors e weighed by the gradient of the Jaccard loss in their order.

    Classes are taken one at a time: sorting needs several times the memory of what it sorts.
    """

    family = "region"
    multi = True
    reduces = "mean over classes and, with over=image, over images that have a valid position"

    over: str = choice(
        default="batch", options=("batch", "image"), doc="positions ranked together: of the batch or image"
    )
    absent: str = choice(
        default="auto",
        options=("auto", "skip", "include"),
        doc="whether a class without a true position counts; auto: where no softmax makes false alarms in it "
        "cost another class, that is for labels and for the hinge",
    )
    include_background: bool = flag(default=True, doc="whether class 0 counts")
    labels: str = choice(default="independent", options=("independent",), doc="a label a class")

    @property
    def by_image(self) -> bool:
        """Whether positions are ranked within their image."""
        return self.over == "image"

    def counts_absent(self, batch: Batch) -> bool:
        """Say whether a class without a true position counts."""
        return self.absent == "include" or (self.absent == "auto" and (self.hinge or batch.multilabel))

    def errors(self, batch: Batch, scores: Tensor, truth: Tensor) -> Tensor:
        """Return how wrong each position is for one class, given its scores and truth (N, L)."""
        raise NotImplementedError

    def scores(self, batch: Batch) -> Tensor:
        """Return what the errors are made of, (N, C, L)."""
        raise NotImplementedError

    hinge: ClassVar[bool] = False

    def value(self, batch: Batch) -> Tensor:
        """Average over classes, then over images."""
        if batch.plain or batch.logits.device.type == "meta" or batch.weights is not None:
            return self.plain_value(batch)
        truth = batch.hard_labels if batch.multilabel else batch.index
        absent = self.counts_absent(batch)
        each = fused.lovasz(self.scores(batch), truth, batch.valid, self.by_image, self.hinge, absent)
        shares = self.shares(batch)
        return self.averaged(batch, each, shares if self.by_image else shares.amax(0, keepdim=True))

    def averaged(self, batch: Batch, each: Tensor, shares: Tensor) -> Tensor:
        """Average over the classes that count and over the images that have one."""
        shares = shares if self.include_background else shares * self.foreground(batch)
        images = (shares.sum(1) > 0).to(each.dtype)
        if self.by_image and batch.sample_weights is not None:
            images = images * batch.sample_weights
        return self.average_of(each, shares, images)

    def shares(self, batch: Batch) -> Tensor:
        """Return 1 for each image and class that counts, else 0, (N, C)."""
        absent = self.counts_absent(batch)
        if not batch.multilabel:
            like = batch.logits[:, :, 0]
            true, positions = functional.true_counts(batch.index, batch.valid, like)
            return ((positions if absent else true) > 0).to(like.dtype)
        relevant = torch.ones_like(batch.hard_labels) if absent else batch.hard_labels
        return (relevant if batch.valid is None else relevant & batch.valid).any(2).to(batch.logits.dtype)

    def plain_value(self, batch: Batch) -> Tensor:
        """Return the same in operations that autograd knows, whatever the data."""
        of_classes = self.scores(batch).unbind(
            1
        )  # not scores[:, k], whose backward fills a whole map a class
        values, counted = zip(*(self._of_class(batch, e, k) for k, e in enumerate(of_classes)), strict=True)
        return self.averaged(batch, torch.stack(values, 1), torch.stack(counted, 1))

    def _of_class(self, batch: Batch, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the loss of class ``k`` and whether it counts, (N,) or (1,)."""
        truth = batch.hard_labels[:, k] if batch.multilabel else batch.index == k
        valid = batch.valid[:, k] if batch.multilabel and batch.valid is not None else batch.valid
        errors, counts = self.errors(batch, scores, truth), batch.count_weights(self.by_image)
        if not self.by_image:
            errors, truth = errors.reshape(1, -1), truth.reshape(1, -1)
            valid = None if valid is None else valid.reshape(1, -1)
            counts = None if counts is None else counts.reshape(1, -1)
        weights = functional.lovasz_weights(errors, truth, valid, counts)
        relevant = torch.ones_like(truth) if self.counts_absent(batch) else truth
        counted = (relevant if valid is None else relevant & valid).any(1)
        return (weights * errors).sum(1), counted.to(errors.dtype)


@register("lovasz")
class Lovasz(LovaszBase):
    """Lovász softmax: a convex surrogate of one minus IoU, exact where errors are 0 or 1.

    Formula: mean over classes of Δ̄_Jc(e), e_i = 1 − p_i(c) on the class, p_i(c) elsewhere; Δ̄ the Lovász
        extension. Berman and smp: over=batch, absent=skip; kornia: over=image, absent=include.
    Paper: Berman et al. 2018, arXiv 1705.08790, the part on multi-class segmentation, and alg. 1.

    Use it for: segmentation scored by IoU; often to finish training begun with cross-entropy.
    Fails when: started from scratch alone: gradients reach few positions. Sorting costs time.

    Example:
        >>> loss = Lovasz()
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.5000)
    """

    def scores(self, batch: Batch) -> Tensor:
        """The probabilities."""
        return batch.probs

    def errors(self, batch: Batch, scores: Tensor, truth: Tensor) -> Tensor:
        """|g − p|."""
        return torch.where(truth, 1 - scores, scores)


@register("lovasz_hinge")
class LovaszHinge(LovaszBase):
    """Lovász hinge: the Lovász extension applied to hinge errors, a class against the rest.

    Formula: mean over classes of Δ̄_Jc(relu(1 − s z)), s = ±1.
    Paper: Berman et al. 2018, arXiv 1705.08790, the part on foreground and background.

    Use it for: binary segmentation scored by IoU.
    Fails when: probabilities are wanted: logits are margins and need calibration.

    Example:
        >>> loss = LovaszHinge()
        >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
        tensor(1.)
    """

    link = "margin"
    hinge = True

    def scores(self, batch: Batch) -> Tensor:
        """The logits."""
        return batch.logits

    def errors(self, batch: Batch, scores: Tensor, truth: Tensor) -> Tensor:
        """max(0, 1 − s z)."""
        return (1 - torch.where(truth, scores, -scores)).relu()
