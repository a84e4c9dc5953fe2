"""Losses that know that some mistakes are worse than others: ordered classes, and costs of confusions."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.base import Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.declare import Parameter, choice
from lossbench.losses.registry import register


def combined(matrix: Tensor, values: Tensor) -> Tensor:
    """Return Σ_k M_jk v_k, (N, J, L), of (J, C) and (N, C, L); autocast would take it in half precision."""
    kind = values.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return torch.einsum("jk,nkl->njl", matrix, values)


@register("corn")
class ConditionalOrdinal(Weighted):
    """Ordered classes as a chain of yes-or-no questions: "given at least k, is it more than k?".

    Formula: ℓ = −Σ_{k<y} log σ(c_k) − [y < C − 1] log σ(−c_y), c_k = z_{k+1} − z_k, k = 0..C−2; the mean
        divides by the number of questions asked, min(y + 1, C − 1) a position. The paper's network has C − 1
        outputs c; taken as differences of neighbouring logits they fit any network with C outputs, and
        rising logits up to the first "no" make argmax the paper's decision. A distribution asks and answers
        each question as often as its classes do.
    Paper: Shi et al. 2021, arXiv 2111.08851, the section on CORN.

    Use it for: ordered classes: grades, stages, ages.
    Fails when: classes have no order. Its probabilities are products of σ(c), not a softmax.

    Example:
        >>> loss = ConditionalOrdinal()
        >>> loss(torch.zeros(1, 3), torch.tensor([1]))
        tensor(0.6931)
    """

    family = "distribution"
    link = "margin"
    ordered = True
    reduces = "weighted mean over the questions that valid positions ask, min(y + 1, C − 1) each"

    def answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return how much each question is answered by yes and by no, (N, C − 1, L), with class weights."""
        weights = self.optional_classwise("_class_weights", batch)
        truth = batch.dense if weights is None else batch.dense * weights.view(1, -1, 1)
        above = torch.ones_like(truth[0, :, :1]).expand(-1, batch.classes).triu(1)
        return combined(above[:-1], truth), truth[:, :-1]

    def each(self, batch: Batch) -> Tensor:
        """Return the mean of −log of each position's answers."""
        (yes, no), steps = self.answers(batch), batch.logits[:, 1:] - batch.logits[:, :-1]
        total = (yes * F.softplus(-steps) + no * F.softplus(steps)).sum(1)
        asked = (yes + no).sum(1)
        alone = batch.logits[:, 0] * 0.0 if batch.classes == 1 else 0.0  # one class: no question, but a graph
        return total / asked.masked_fill(asked == 0, 1.0) + alone

    def weights(self, batch: Batch) -> Tensor:
        """Return how many questions each position asks, times its class's weight."""
        yes, no = self.answers(batch)
        return (yes + no).sum(1)


def matrix(*, doc: str) -> Any:
    """Declare an optional square matrix of numbers ≥ 0 with zeros on its diagonal, a row a class."""
    allowed = "C rows of C finite numbers ≥ 0, zero on the diagonal and not all zero, or none"

    def accept(value: object) -> tuple[tuple[float, ...], ...] | None:
        if value is None:
            return None
        rows = torch.as_tensor(value, dtype=torch.float64)
        if rows.ndim != 2 or rows.shape[0] != rows.shape[1] or not bool(rows.isfinite().all()):
            raise ValueError(value)
        if bool((rows < 0).any()) or bool(rows.diagonal().any()) or not bool(rows.any()):
            raise ValueError(value)
        return tuple(tuple(row) for row in rows.tolist())

    def read(value: object) -> tuple[tuple[float, ...], ...] | None:
        try:
            return accept(value)
        except (RuntimeError, IndexError) as error:  # what as_tensor raises for words and ragged rows
            raise ValueError(value) from error

    return Parameter(None, allowed, read, doc)


@register("expected_cost")
class ExpectedCost(Weighted):
    """What the model's decision would cost on average, were it drawn from its probabilities.

    Formula: ℓ = Σ_k M_{y k} p_k, M the cost of saying k where y holds.
    Paper: Galdran et al. 2020, arXiv 2010.00291, the section on cost-sensitive regularisation (there beside
        cross-entropy: take a sum).

    Use it for: confusions of unequal cost, grading in particular; beside cross-entropy.
    Fails when: alone: like the absolute error it hardly moves where it is confidently wrong.

    Example:
        >>> loss = ExpectedCost(cost=[[0.0, 1.0], [5.0, 0.0]])
        >>> loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor(2.5000)
    """

    family = "distribution"
    ordered = True

    cost: Sequence[Sequence[float]] | None = matrix(doc="M, a row for each true class")
    distance: str = choice(
        default="zero_one",
        options=("zero_one", "absolute", "squared"),
        doc="M where it is not given: 1 off the diagonal, |y − k| / (C − 1) or its square",
    )

    def setup(self) -> None:
        """Keep the matrix as a buffer."""
        super().setup()
        self.per_class("_cost", self.cost)  # type: ignore[arg-type]  # a row, not a number, for each class

    def costs(self, batch: Batch) -> Tensor:
        """Return M, (C, C)."""
        if self.cost is not None:
            return self.classwise("_cost", batch)
        rank = torch.arange(batch.classes, device=batch.logits.device)
        apart = (rank.view(-1, 1) - rank).abs().to(batch.logits.dtype)
        if self.distance == "zero_one":
            return apart.clamp_max(1.0)
        return (apart / max(batch.classes - 1, 1)).pow(1 if self.distance == "absolute" else 2)

    def each(self, batch: Batch) -> Tensor:
        """Σ_k M_yk p_k of each position."""
        return self.at_truth(batch, combined(self.costs(batch), batch.probs))
