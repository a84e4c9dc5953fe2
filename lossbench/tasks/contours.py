"""How well predicted contours lie on the true ones: boundary F1 and boundary IoU.

Both take class maps (N, H, W). Positions of ``ignore_index`` count neither as truth nor as prediction: they
are treated like positions outside the image, whose edge counts as a contour.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lossbench.tasks.confusion import ratio

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]

AT_ONCE = 2**24
"""Positions times classes whose one-hot masks are held at once."""
NOWHERE = -1
"""Stands for what lies outside the image, or is ignored; no class."""


def boundary_f1(
    targets: Array,
    predicted: Array,
    classes: int,
    ignore_index: int | None = None,
    tolerance: int | None = None,
) -> Floats:
    """F1 between predicted and true contours (Csurka et al., BMVC 2013).

    A contour position counts as found if the other contour passes within ``tolerance`` positions
    (chessboard distance). F1 is taken per image and class, and averaged over the images where the
    class occurs in truth or prediction.

    Args:
        targets: (N, H, W) integers.
        predicted: (N, H, W) integers.
        classes: C.
        ignore_index: target value whose positions do not count.
        tolerance: in positions; 0.75 % of the image diagonal where None, at least 1.

    Returns:
        (C,) float64, NaN for a class that occurs nowhere.

    """
    if tolerance is None:
        tolerance = max(1, round(0.0075 * math.hypot(*targets.shape[1:])))
    scores = np.concatenate(
        [
            _f1_per_image(_contours(truth, classes), _contours(guess, classes), tolerance)
            for truth, guess in _some(targets, predicted, classes, ignore_index)
        ]
    )
    occurs = ~np.isnan(scores)
    return ratio(np.where(occurs, scores, 0).sum(axis=0), occurs.sum(axis=0))


def boundary_overlaps(
    targets: Array,
    predicted: Array,
    classes: int,
    ignore_index: int | None = None,
    width: int | None = None,
) -> Floats:
    """Count what boundary IoU divides (Cheng et al., CVPR 2021, 2103.16562): IoU of bands inside contours.

    ``|G_d ∩ P_d| / |G_d ∪ P_d|``, where G_d are the positions of the true region within ``d`` of its contour
    and P_d those of the predicted one. IoU of whole regions hardly sees the contour of a large one; this
    does. Like mean IoU, intersections and unions are summed over the split before they are divided.

    Args:
        targets: (N, H, W) integers.
        predicted: (N, H, W) integers.
        classes: C.
        ignore_index: target value whose positions do not count.
        width: d in positions (chessboard distance); 2 % of the image diagonal where None, at least 1.

    Returns:
        (N, 2C) float64: intersections of the bands, then unions.

    """
    if width is None:
        width = band_width(targets.shape[1], targets.shape[2])
    counts = []
    for truth, guess in _some(targets, predicted, classes, ignore_index):
        band, other = _band(truth, width), _band(guess, width)
        both = _count(truth, band & other & (truth == guess), classes)
        either = _count(truth, band, classes) + _count(guess, other, classes) - both
        counts.append(torch.cat([both, either], dim=1).numpy())
    return np.concatenate(counts)


def band_width(height: int, wide: int) -> int:
    """Width of the bands in an image of this size: 2 % of its diagonal, at least 1."""
    return max(1, round(0.02 * math.hypot(height, wide)))


def _some(
    targets: Array, predicted: Array, classes: int, ignore_index: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """True and predicted classes of some images at a time, (n, H, W), NOWHERE where ignored."""
    step = max(1, AT_ONCE // max(1, classes * targets.shape[1] * targets.shape[2]))
    for start in range(0, len(targets), step):
        truth = torch.from_numpy(targets[start : start + step].astype(np.int32))
        guess = torch.from_numpy(predicted[start : start + step].astype(np.int32))
        if ignore_index is not None:
            ignored = truth == ignore_index
            truth, guess = (one.masked_fill(ignored, NOWHERE) for one in (truth, guess))
        yield truth, guess


def _f1_per_image(truth: Tensor, guess: Tensor, tolerance: int) -> Floats:
    """F1 of contours (n, C, H, W), per image and class; NaN where there is neither."""
    found_truth = _area(truth & _widen(guess, tolerance))
    found_guess = _area(guess & _widen(truth, tolerance))
    of_truth, of_guess = _area(truth), _area(guess)
    precision, recall = found_guess / of_guess.clamp(min=1), found_truth / of_truth.clamp(min=1)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    score[(of_truth + of_guess) == 0] = math.nan
    found: Floats = score.numpy()
    return found


def _area(mask: Tensor) -> Tensor:
    """(n, C) float64: how many positions of (n, C, H, W) are marked; torch's sum takes ten times as long."""
    return torch.from_numpy(np.count_nonzero(mask.flatten(2).numpy(), axis=2)).double()


def _contours(labels: Tensor, classes: int) -> Tensor:
    """(n, C, H, W) bool: positions of a class with a 4-neighbour that is not of it, or outside the image."""
    padded = F.pad(labels, (1, 1, 1, 1), value=NOWHERE)
    edge = torch.zeros(labels.shape, dtype=torch.bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= labels != padded[:, rows : rows + labels.shape[1], columns : columns + labels.shape[2]]
    marked = labels.masked_fill(~edge, NOWHERE).unsqueeze(1)
    return marked == torch.arange(classes, dtype=labels.dtype).view(1, -1, 1, 1)


def _band(labels: Tensor, width: int) -> Tensor:
    """(n, H, W) bool: positions with another class, or the outside, within ``width`` (chessboard distance).

    A mask less its erosion, for all classes at once: a window holds another class than its centre's where its
    greatest and its smallest label differ.
    """
    padded = F.pad(labels, (width,) * 4, value=NOWHERE)
    return _windows(padded, width, torch.maximum) != _windows(padded, width, torch.minimum)


def _widen(mask: Tensor, distance: int) -> Tensor:
    return _windows(F.pad(mask, (distance,) * 4), distance, torch.logical_or)


def _windows(padded: Tensor, distance: int, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Join all of each position's square window, along one axis after the other.

    Windows double in length until they are long enough: log₂ steps instead of one per position.
    """
    side = 2 * distance + 1
    for axis in (-2, -1):
        length = 1
        while length < side:
            step = min(length, side - length)
            left = padded.shape[axis] - step
            padded = join(padded.narrow(axis, 0, left), padded.narrow(axis, step, left))
            length += step
    return padded


def _count(labels: Tensor, where: Tensor, classes: int) -> Tensor:
    """(n, C) float64: chosen positions of each class."""
    images = torch.arange(len(labels)).view(-1, 1, 1).expand_as(labels)
    chosen = where & (labels != NOWHERE)
    pairs = images[chosen] * classes + labels[chosen]
    return torch.bincount(pairs, minlength=len(labels) * classes).view(-1, classes).double()
