"""Losses that look at the shape of regions: centrelines, connected blobs, the labels of neighbours."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.averaging import Averaged
from lossbench.losses.base import Weighted
from lossbench.losses.batch import Batch
from lossbench.losses.boundary import maps_of_regions, window
from lossbench.losses.declare import Parameter, choice, flag, integer, real
from lossbench.losses.functional import Overlap
from lossbench.losses.region import Counted
from lossbench.losses.registry import register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def soft_skeleton(values: Tensor, valid: Tensor | None, iterations: int) -> Tensor:
    """Return the soft skeleton of ``values`` in [0, 1], (N, C, *spatial) (2003.07311, alg. 1).

    Erosion takes the least of a position and its direct neighbours, dilation the largest of the 3 × 3 (× 3)
    around; invalid positions and what lies outside take no part in either.
    """
    eroded = _eroded(values, valid)
    skeleton = (values - _dilated(eroded, valid)).relu()
    for _ in range(iterations):
        values, eroded = eroded, _eroded(eroded, valid)
        ridge = (values - _dilated(eroded, valid)).relu()
        skeleton = skeleton + (ridge - skeleton * ridge).relu()
    return skeleton


def _eroded(values: Tensor, valid: Tensor | None) -> Tensor:
    filled = values if valid is None else values.masked_fill(~valid, 1.0)
    least = filled
    for axis in range(2, values.ndim):
        before, _, after = window(filled, axis)
        least = torch.minimum(least, torch.minimum(before, after))
    return least


def _dilated(values: Tensor, valid: Tensor | None) -> Tensor:
    largest = values if valid is None else values.masked_fill(~valid, 0.0)
    for axis in range(2, values.ndim):
        before, centre, after = window(largest, axis)
        largest = torch.maximum(torch.maximum(before, centre), after)
    return largest


@register("cl_dice")
class CenterlineDice(Counted):
    """Dice of centrelines: how much of each region's skeleton lies within the other region.

    Formula: 1 − 2 T S / (T + S), T = (Σ S_p g + s) / (Σ S_p + s), S = (Σ S_g p + s) / (Σ S_g + s), S_x the
        soft skeleton of x: after each of k erosions, what an opening would remove. Soft labels count as set
        above 1/2: a skeleton is of a region.
    Paper: Shit et al. 2021, arXiv 2003.07311, alg. 1 and 2.

    Use it for: vessels, roads, cracks, in 2-D or 3-D: broken lines cost much, thickness little; beside Dice.
    Fails when: alone: a constant map has no skeleton, and none is missed; so it is refused alone. k is below
        the largest radius: thick regions have no skeleton. Slow: it costs some 2 k poolings.

    Example:
        >>> loss = CenterlineDice(iterations=1)
        >>> loss(torch.zeros(1, 1, 5, 5), torch.eye(5).view(1, 1, 5, 5))
        tensor(0.2632)
    """

    only_in_sum = True
    spatial = 1

    iterations: int = integer(default=3, low=0, high=100, doc="k, erosions: the largest radius in positions")
    smooth: float = real(default=1.0, low=0.0, open_low=True, doc="s, added to numerators and denominators")
    labels: str = choice(default="independent", options=("independent",), doc="a label a class")

    @property
    def reads_summary(self) -> bool:
        """Skeletons need the map of every class."""
        return False

    def counts(self, batch: Batch) -> Overlap:
        """Let T and S stand for what is shared and predicted: sums of skeletons are no counts of regions."""
        elements = batch.elements
        valid = None if elements is None else batch.unflatten(elements)
        weights = batch.count_weights(self.by_image)
        weights = None if weights is None else batch.unflatten(weights.unsqueeze(1))
        maps = [batch.unflatten(batch.probs), batch.unflatten(batch.is_true().to(batch.logits.dtype))]
        ridges = [soft_skeleton(one, valid, self.iterations) for one in maps]
        within = [
            self.total(ridge * other, valid, weights) for ridge, other in zip(ridges, maps[::-1], strict=True)
        ]
        lengths = [self.total(ridge, valid, weights) for ridge in ridges]
        precision, sensitivity = (
            (inside + self.smooth) / (length + self.smooth)
            for inside, length in zip(within, lengths, strict=True)
        )
        counted = self.total(torch.ones_like(maps[0]), valid, weights)
        return Overlap(precision, sensitivity, self.total(maps[1], valid, weights), counted)

    def total(self, values: Tensor, valid: Tensor | None, weights: Tensor | None) -> Tensor:
        """Sum the valid values of each class, times ``weights``, (N, C) or (1, C)."""
        values = values if weights is None else values * weights
        flat = (values if valid is None else values.masked_fill(~valid, 0.0)).flatten(2).sum(2)
        return flat if self.by_image else flat.sum(0, keepdim=True)

    def of(self, counts: Overlap) -> Tensor:
        """One minus the harmonic mean of both shares."""
        return 1 - 2 * counts.both * counts.predicted / (counts.both + counts.predicted)


def blobs(target: Tensor, classes: int, multilabel: bool | None = None) -> Tensor:
    """Return the number of each position's blob, float32 (N, C, *spatial).

    0 outside the class, then 1, 2, ... A blob is a connected region of a class in an image, neighbours across
    corners included.

    Args:
        target: class indices (N, *spatial), or labels (N, C, *spatial).
        classes: C.
        multilabel: whether ``target`` holds labels. None: labels are told by their dtype, bool or floating.
    """
    import numpy as np  # here, so that the losses need nothing but torch
    from scipy.ndimage import label

    def numbered(region: "NDArray[np.bool_]") -> "NDArray[np.int32]":
        found: NDArray[np.int32] = label(region, structure=np.ones((3,) * region.ndim, bool))[0]
        return found

    return maps_of_regions(target, classes, multilabel, numbered)


@register("blob")
class Blob(Averaged):
    """Dice of each connected blob on its own, so that a small one counts as much as a large one.

    Formula: mean over blobs b of 1 − (2 Σ_b p + s) / (Σ_b p + Σ_o p + |b| + s), o the positions outside the
        class: other blobs of the class are masked out. With one label a position class 0 is the background
        and has no blobs. Soft labels count as set above 1/2.
    Paper: Kofler et al. 2022, arXiv 2205.08209, the section on methods (there 2 global Dice + 1 blob Dice:
        take a sum).

    Use it for: many lesions, cells or defects an image, scored by how many are found; beside Dice.
    Fails when: alone: where nothing is to be found it says nothing about false alarms; so it is refused
        alone.

    Example:
        >>> target = torch.tensor([[0, 1, 1, 0, 1]])
        >>> loss = Blob(smooth=0.0)
        >>> loss(torch.zeros(1, 2, 5), target, loss.prepare(target, classes=2))
        tensor(0.5500)
    """

    family = "region"
    multi = True
    auxiliary = True
    maps = "blobs"
    only_in_sum = True
    spatial = 1
    background = True
    reduces = "mean over blobs, over the classes of an image that have one, and over images with one"

    smooth: float = real(
        default=1.0, low=0.0, tunable=(1e-5, 10.0, "log"), doc="s, added to numerator and denominator"
    )
    include_background: bool = flag(
        default=True, doc="whether class 0 counts; with one label a position it never does"
    )
    labels: str = choice(default="independent", options=("independent",), doc="a label a class")

    @property
    def by_image(self) -> bool:
        """Blobs are of an image."""
        return True

    @classmethod
    def prepare(cls, target: Tensor, classes: int, multilabel: bool | None = None) -> Tensor:
        """Return the number of each position's blob, (N, C, *spatial), float32 on the CPU."""
        return blobs(target, classes, multilabel)

    def value(self, batch: Batch) -> Tensor:
        """Average over blobs, classes and images."""
        if batch.auxiliary is None:
            raise ValueError(f"{type(self).__name__} needs the maps that prepare(target, classes) gives")
        numbers, probs, elements = batch.auxiliary.long(), batch.probs, batch.elements
        if not batch.multilabel:
            numbers = torch.cat([torch.zeros_like(numbers[:, :1]), numbers[:, 1:]], 1)
        valid = torch.ones_like(numbers, dtype=torch.bool) if elements is None else elements
        probs, counted = probs.masked_fill(~valid, 0.0), valid.expand(numbers.shape).to(probs.dtype)
        weights = batch.count_weights(by_image=True)
        if weights is not None:
            probs, counted = probs * weights.unsqueeze(1), counted * weights.unsqueeze(1)
        inside, sizes = _sums(probs, numbers), _sums(counted, numbers)
        outside = probs.masked_fill(numbers > 0, 0.0).sum(2, keepdim=True)
        score = (2 * inside + self.smooth) / (inside + outside + sizes + self.smooth).clamp_min(1e-8)
        found = (sizes > 0).to(probs.dtype)
        of_classes = functional.masked_average(1 - score, found, dim=2)
        shares = found.amax(2)
        shares = shares if self.include_background else shares * self.foreground(batch)
        images = shares.sum(1).clamp_max(1.0)
        images = images if batch.sample_weights is None else images * batch.sample_weights
        return self.average_of(of_classes, shares, images)


def _sums(values: Tensor, numbers: Tensor) -> Tensor:
    """Sum ``values`` (N, C, L) by blob, (N, C, L): there can be no more blobs than positions.

    In float64: one running sum a blob would lose digits in float32.
    """
    bins = values.new_zeros(*values.shape[:2], values.shape[2] + 1, dtype=torch.float64)
    return bins.scatter_add(2, numbers, values.double())[:, :, 1:].to(values.dtype)


def _odd(*, default: int, doc: str) -> Any:
    """Declare an odd number of positions, 3 or more."""

    def accept(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(value)
        if value < 3 or value % 2 == 0:
            raise ValueError(value)
        return value

    return Parameter(default, "an odd whole number ≥ 3", accept, doc)


def neighbourhood_shares(labels: Tensor, size: int) -> Tensor:
    """Return the share that each class has of the ``size``^d positions around, (N, C, *spatial).

    What lies outside the map belongs to no class.
    """
    shares = labels
    for axis in range(2, labels.ndim):
        rows = shares.movedim(axis, -1)
        pooled = F.avg_pool1d(rows.reshape(1, -1, rows.shape[-1]), size, stride=1, padding=size // 2)
        shares = pooled.view(rows.shape).movedim(-1, axis)
    return shares


@register("nacl")
class NeighbourAwareCalibration(Weighted):
    """Cross-entropy with a penalty that pulls each logit to its class's share of the neighbours.

    Formula: ℓ = −log p_y + α mean_k |z_k − d_k|, d_k the share of class k among the size^d positions around;
        those that do not count, or lie outside, are of no class.
    Paper: Murugesan et al. 2023, arXiv 2303.06268 (there the sum over k; its code takes the mean), named NACL
        in arXiv 2401.14487.

    Use it for: calibrated segmentation: certain within regions, less so at borders.
    Fails when: α is large: logits then stay within [0, 1], and so far from certain.

    Example:
        >>> loss = NeighbourAwareCalibration(alpha=0.1)
        >>> loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long))
        tensor(0.7234)
    """

    family = "boundary"
    spatial = 1

    alpha: float = real(default=0.1, low=0.0, tunable=(0.01, 0.5, "log"), doc="α, weight of the penalty")
    size: int = _odd(default=3, doc="edge of the neighbourhood in positions")

    def each(self, batch: Batch) -> Tensor:
        """The cross-entropy and α of the distance of the logits from the neighbours' shares."""
        shares = neighbourhood_shares(batch.unflatten(self.counted(batch)), self.size)
        return -self.at_truth(batch, batch.log_probs) + self.alpha * (
            batch.logits - shares.flatten(2)
        ).abs().mean(1)
