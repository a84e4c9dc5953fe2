"""Losses about edges: differences between neighbours, and distances to the true region's border."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Loss, weighted_mean
from lossbench.losses.batch import Batch
from lossbench.losses.declare import choice, flag, real
from lossbench.losses.inputs import unseen
from lossbench.losses.registry import register

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def deviation(batch: Batch) -> Tensor:
    """Return p − g (N, C, L), 0 where ignored."""
    if batch.multilabel or batch.mixed:
        difference = batch.probs - batch.labels.to(batch.probs.dtype)
        return difference if batch.elements is None else difference.masked_fill(~batch.elements, 0.0)
    if functional.compares(batch.probs, batch.classes):
        difference = batch.probs - batch.is_true().to(batch.probs.dtype)
    else:
        index = batch.index.unsqueeze(1)
        difference = batch.probs.scatter(1, index, batch.probs.gather(1, index) - 1)
    return difference if batch.valid is None else difference.masked_fill(~batch.valid.unsqueeze(1), 0.0)


def neighbour_difference(values: Tensor, axis: int) -> Tensor:
    """Return v[i + 1] − v[i] along ``axis``: one entry fewer."""
    length = values.shape[axis] - 1
    return values.narrow(axis, 1, length) - values.narrow(axis, 0, length)


def window(values: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the neighbours before, the values and the neighbours after along ``axis``, edges repeated."""
    last = values.shape[axis] - 1
    before = torch.cat([values.narrow(axis, 0, 1), values.narrow(axis, 0, last)], axis)
    after = torch.cat([values.narrow(axis, 1, last), values.narrow(axis, last, 1)], axis)
    return before, values, after


def sobel(values: Tensor, axis: int) -> Tensor:
    """Return the Sobel derivative along ``axis`` of (N, C, *spatial).

    (v[i+1] − v[i−1]) / 2, smoothed by (1 2 1) / 4.
    """
    before, _, after = window(values, axis)
    result = (after - before) / 2
    for other in range(2, values.ndim):
        if other != axis:
            before, centre, after = window(result, other)
            result = (before + 2 * centre + after) / 4
    return result


def least_of_window(values: Tensor) -> Tensor:
    """Return the least of each position and its neighbours, diagonals included: (N, C, *spatial)."""
    for axis in range(2, values.ndim):
        before, centre, after = window(values, axis)
        values = torch.minimum(torch.minimum(before, centre), after)
    return values


@register("gradient")
class GradientLoss(Loss):
    """Squared difference of the spatial derivatives of predicted and true regions: it compares edges.

    Formula: Σ_axes mean ‖∂(p − g)‖² over classes and over the positions whose neighbours are valid; ∂ a
        difference of neighbours (finite) or Sobel's (edges repeated).
    Paper: none of its own; Mathieu et al. 2016, arXiv 1511.05440, has it for images with |·| (its image
        gradient difference loss).

    Use it for: sharper predicted edges, beside a loss of the regions.
    Fails when: alone: it does not see a constant offset, so a region may be wrong as a whole.

    Example:
        >>> loss = GradientLoss()
        >>> loss(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
        tensor(1.)
    """

    family = "boundary"
    multi = True
    spatial = 1
    reduces = "mean over classes and over positions with valid neighbours, summed over axes"

    operator: str = choice(default="finite", options=("finite", "sobel"), doc="how a derivative is taken")

    def value(self, batch: Batch) -> Tensor:
        """Sum over axes the mean squared derivative of p − g."""
        difference = batch.unflatten(deviation(batch))
        weights = batch.element_weights
        if weights is None and batch.elements is not None:
            weights = batch.elements.to(difference.dtype)
        elif weights is not None and batch.elements is not None:
            weights = weights * batch.elements
        weights = None if weights is None else batch.unflatten(weights)
        terms = [self.along(difference, weights, axis) for axis in range(2, difference.ndim)]
        return torch.stack(terms).sum()

    def along(self, difference: Tensor, weights: Tensor | None, axis: int) -> Tensor:
        """Return the mean squared derivative along one axis; 0 where it is one position long.

        A derivative weighs what the least of the positions that it is made of weighs.
        """
        if difference.shape[axis] == 1:
            return difference.sum() * 0.0
        if self.operator == "sobel":
            squares = sobel(difference, axis).square()
            return weighted_mean(squares, None if weights is None else least_of_window(weights), None)
        squares = neighbour_difference(difference, axis).square()
        if weights is None:
            return weighted_mean(squares, None, None)
        length = weights.shape[axis] - 1
        pairs = torch.minimum(weights.narrow(axis, 1, length), weights.narrow(axis, 0, length))
        return weighted_mean(squares, pairs, None)


def maps_of_regions(
    target: Tensor,
    classes: int,
    multilabel: bool | None,
    map_of: "Callable[[NDArray[np.bool_]], NDArray[Any]]",
) -> Tensor:
    """Return what ``map_of`` makes of each image's and class's region: float32 (N, C, *spatial).

    Args:
        target: class indices (N, *spatial), or labels (N, C, *spatial), which count as set above 1/2.
        classes: C.
        multilabel: whether ``target`` holds labels. None: labels are told by their dtype, bool or floating.
        map_of: takes a region (*spatial), bool, and gives a map of that shape.
    """
    import numpy as np  # here, so that the losses need nothing but torch

    array = target.detach().cpu().numpy()
    if multilabel is None:
        multilabel = array.dtype == np.bool_ or np.issubdtype(array.dtype, np.floating)
    regions = (
        (array > 0.5) & (array <= 1) if multilabel else np.stack([array == k for k in range(classes)], 1)
    )
    maps: NDArray[np.float32] = np.zeros(regions.shape, np.float32)
    for place in np.ndindex(regions.shape[:2]):
        maps[place] = map_of(regions[place])
    return torch.from_numpy(maps)


def signed_distances(target: Tensor, classes: int, multilabel: bool | None = None) -> Tensor:
    """Return the signed distance to each class's region (1812.07032): float32 (N, C, *spatial).

    Positive outside: the distance to the nearest position of the class. Inside: 1 − the distance to the
    nearest position outside, so 0 on the region's rim and negative within. 0 throughout for a class that is
    absent or fills everything. Positions out of range of the classes (ignored ones) belong to no class.

    Args:
        target: class indices (N, *spatial), or labels (N, C, *spatial).
        classes: C.
        multilabel: whether ``target`` holds labels. None: labels are told by their dtype, bool or floating.
    """
    import numpy as np  # here, so that the losses need nothing but torch
    from scipy.ndimage import distance_transform_edt

    def distances(region: "NDArray[np.bool_]") -> "NDArray[np.float64]":
        found: NDArray[np.float64] = np.zeros(region.shape)
        if region.any() and not region.all():
            found = np.where(region, 1 - distance_transform_edt(region), distance_transform_edt(~region))
        return found

    return maps_of_regions(target, classes, multilabel, distances)


class DistanceLoss(Loss):
    """A loss that weighs positions by their distance to the true region's border."""

    family = "boundary"
    multi = True
    auxiliary = True
    maps = "distances"
    spatial = 1
    reduces = "mean over classes and valid positions"

    include_background: bool = flag(default=True, doc="whether class 0 counts")

    @classmethod
    def prepare(cls, target: Tensor, classes: int, multilabel: bool | None = None) -> Tensor:
        """Return the signed distance maps (N, C, *spatial) of ``target``, float32 on the CPU."""
        return signed_distances(target, classes, multilabel)

    def distances(self, batch: Batch) -> Tensor:
        """Return the maps in the logits' dtype."""
        if batch.auxiliary is None:
            raise ValueError(f"{type(self).__name__} needs the maps that prepare(target, classes) gives")
        return batch.auxiliary.to(batch.logits.dtype)

    def mean(self, batch: Batch, each: Tensor) -> Tensor:
        """Average ``each`` (N, C, L) over the classes and positions that count."""
        weights = None if self.include_background else self.foreground(batch).view(1, -1, 1)
        return weighted_mean(each, batch.weighed(weights, each.ndim), batch.everywhere)


@register("boundary")
class Boundary(DistanceLoss):
    """Predicted mass times the signed distance to the true region: an integral over the mismatch.

    Formula: mean φ_G p, φ_G the signed distance map, negative inside; it may be negative.
    Paper: Kervadec et al. 2019, arXiv 1812.07032, the section on the boundary loss.

    Use it for: small structures, as a part of a sum with Dice or cross-entropy.
    Fails when: alone: an empty prediction is a stationary point and training collapses there; so it is
        refused alone.

    Example:
        >>> target = torch.tensor([[0, 0, 1, 1]])
        >>> loss = Boundary()
        >>> loss(torch.zeros(1, 2, 4), target, loss.prepare(target, classes=2))
        tensor(0.2500)
    """

    only_in_sum = True
    signed = True

    def value(self, batch: Batch) -> Tensor:
        """Mean of φp."""
        return self.mean(batch, self.distances(batch) * batch.probs)


@register("hausdorff")
class HausdorffDistance(DistanceLoss):
    """Squared error of the probabilities, weighed by a power of the distance to the true border.

    Formula: mean (p − g)² d_G^α, d_G the unsigned distance to the true border, and 1 where there is none (a
        class absent or everywhere). sides=two: d_G^α + d_P^α, d_P the distance to the border of p > 1/2 and 0
        where there is none, computed anew in every step, on the CPU and outside compiled code. log: log(1 +
        mean).
    Paper: Karimi & Salcudean 2019, arXiv 1904.10030, the section on distance transforms; its term in the true
        border, or both.

    Use it for: outlying false positives, which a Hausdorff distance punishes; beside a region loss.
    Fails when: α is large: a few far positions are all that counts. Alone, where regions are small: to
        predict none of them costs next to nothing.

    Example:
        >>> target = torch.tensor([[0, 0, 1, 1]])
        >>> loss = HausdorffDistance(alpha=2.0)
        >>> loss(torch.zeros(1, 2, 4), target, loss.prepare(target, classes=2))
        tensor(0.6250)
    """

    alpha: float = real(
        default=2.0, low=0.0, high=6.0, tunable=(0.5, 3.0, "linear"), doc="α, the power of the distance"
    )
    sides: str = choice(
        default="one", options=("one", "two"), doc="distances to the true border, or to the predicted one too"
    )
    log: bool = flag(default=False, doc="whether the value is log(1 + mean)")

    def value(self, batch: Batch) -> Tensor:
        """Mean of (p − g)² d^α."""
        weight = self.power(self.distances(batch), batch.is_true(), 1.0)
        if self.sides == "two":
            weight = weight + self.of_prediction(batch)
        value = self.mean(batch, deviation(batch).square() * weight)
        return value.log1p() if self.log else value

    def power(self, signed: Tensor, inside: Tensor, without: float) -> Tensor:
        """Return the unsigned distance to the border to the power α; ``without`` where there is none.

        Inside, the distance is 1 − φ; outside, where a border is, φ ≥ 1 somewhere.
        """
        distance = torch.where(inside, 1 - signed, signed).clamp_min(0.0)
        bordered = (signed > 0).any(2, keepdim=True)
        return functional.safe_power(torch.where(bordered, distance, without), self.alpha)

    def of_prediction(self, batch: Batch) -> Tensor:
        """Return the distances to the predicted border, to the power α."""
        if unseen(batch.logits):
            raise ValueError(
                f"{type(self).__name__}: sides is 'two', which looks at predictions and cannot be compiled "
                "or mapped; allowed there: one"
            )
        inside = batch.probs.detach() > 0.5
        signed = signed_distances(batch.unflatten(inside), batch.classes, multilabel=True)
        return self.power(signed.flatten(2).to(batch.logits), inside, 0.0)
