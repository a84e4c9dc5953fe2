"""Hinge losses: a margin between the true class and the others."""

import torch
from torch import Tensor

from lossbench.losses.base import Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, flag, real
from lossbench.losses.registry import register


def crammer_singer(logits: Tensor, true: Tensor, is_true: Tensor, margin: float, squared: bool) -> Tensor:
    """Return max(0, m − z_y + max_{k≠y} z_k), (N, L)."""
    others = logits.masked_fill(is_true, -torch.inf).amax(1)
    slack = (margin - true + others).relu()
    return slack.square() if squared else slack


def weston_watkins(logits: Tensor, true: Tensor, is_true: Tensor, margin: float, squared: bool) -> Tensor:
    """Return Σ_{k≠y} max(0, m − z_y + z_k), (N, L)."""
    slack = (margin - true.unsqueeze(1) + logits).relu().masked_fill(is_true, 0.0)
    return (slack.square() if squared else slack).sum(1)


def one_vs_all(logits: Tensor, is_true: Tensor, margin: float, squared: bool) -> Tensor:
    """Return max(0, m − s z), s = ±1, of every class: (N, C, L)."""
    slack = (margin - torch.where(is_true, logits, -logits)).relu()
    return slack.square() if squared else slack


@register("hinge")
class Hinge(Weighted):
    """Multi-class hinge: the true class's score exceeds the others' by a margin, and that is enough.

    Formula: crammer_singer max(0, m − z_y + max_{k≠y} z_k); weston_watkins Σ_{k≠y} max(0, m − z_y + z_k);
        one_vs_all Σ_k max(0, m − s_k z_k), s = +1 on the true class and −1 elsewhere; ``squared`` squares
        each max. torch's multi_margin_loss is weston_watkins / C; scikit-learn's hinge_loss is
        crammer_singer. With several labels only one_vs_all is defined; its mean is over elements. A
        distribution t over the classes takes Σ_y t_y ℓ_y.
    Paper: Crammer & Singer 2001, JMLR 2, p. 265–292; Weston & Watkins 1999, ESANN.

    Use it for: decisions rather than probabilities; it stops pushing once the margin is reached.
    Fails when: probabilities are wanted: scores need calibration. crammer_singer has one non-zero pair a
        position and learns slowly with many classes.

    Example:
        >>> loss = Hinge(variant="crammer_singer")
        >>> loss(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([0]))
        tensor(0.5000)
    """

    family = "margin"
    multi = True
    link = "margin"

    variant: str = choice(
        default="crammer_singer",
        options=("crammer_singer", "weston_watkins", "one_vs_all"),
        doc="which pairs of classes count; several labels take one_vs_all whatever is written here",
    )
    squared: bool = flag(default=False, doc="whether the slack is squared")
    margin: float = real(default=1.0, low=0.0, open_low=True, tunable=(0.1, 10.0, "log"), doc="m")

    def each(self, batch: Batch) -> Tensor:
        """Return the hinge of each position, or of each label."""
        if batch.multilabel:
            return one_vs_all(batch.logits, batch.hard_labels, self.margin, self.squared)
        if not batch.mixed:
            return self.of_classes(batch)
        values = torch.stack([self.of_classes(batch.of_class(k)) for k in range(batch.classes)], 1)
        return self.at_truth(batch, values)

    def of_classes(self, batch: Batch) -> Tensor:
        """Return the hinge of each position against its class, (N, L)."""
        is_true = batch.is_true()
        if self.variant == "one_vs_all":
            return one_vs_all(batch.logits, is_true, self.margin, self.squared).sum(1)
        if batch.classes == 1:  # there is no other; times 0 keeps the graph
            return batch.pick(batch.logits) * 0.0
        pairs = crammer_singer if self.variant == "crammer_singer" else weston_watkins
        return pairs(batch.logits, batch.pick(batch.logits), is_true, self.margin, self.squared)
