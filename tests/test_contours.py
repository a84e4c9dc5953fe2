"""Boundary F1 and boundary IoU: shapes with known offsets, other libraries, and laws."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from law_cases import each, examples
from scipy import ndimage

from lossbench.data.dataset import DatasetInfo
from lossbench.tasks import contours, task_class
from lossbench.tasks.confusion import confusion_matrix, iou, ratio
from lossbench.tasks.contours import band_width, boundary_f1, boundary_overlaps

CLASSES = 3
maps = hnp.arrays(
    np.int64,
    st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, CLASSES - 1),
)
widths = st.integers(1, 4)


def square(right: int = 0, down: int = 0, side: int = 6) -> np.ndarray:
    mask = np.zeros((1, 24, 24), dtype=np.int64)
    mask[0, 5 + down : 5 + down + side, 5 + right : 5 + right + side] = 1
    return mask


def boundary_iou(
    truth: np.ndarray, guess: np.ndarray, classes: int, ignored: int | None = None, **width: int
):
    """What the task makes of the counts: (C,)."""
    counts = boundary_overlaps(truth, guess, classes, ignored, **width).sum(axis=0)
    return ratio(counts[:classes], counts[classes:])


def both(draw: st.DataObject) -> tuple[np.ndarray, np.ndarray]:
    truth = draw.draw(maps)
    guess = draw.draw(hnp.arrays(np.int64, truth.shape, elements=st.integers(0, CLASSES - 1)))
    return truth, guess


@each(
    ("right", "down", "width", "expected"),
    [
        (0, 0, 1, 1.0),
        # Rings of 20 positions. One column off, 5 of the top row meet, 5 of the bottom row, none of the sides.
        (1, 0, 1, 10 / 30),
        (2, 0, 1, 8 / 32),
        # One off both ways: the rings cross at two corners.
        (1, 1, 1, 2 / 38),
        # Bands of 36 − 4 = 32. One column off, 6 × 5 positions overlap, less the 2 × 3 that are inner to either.
        (1, 0, 2, 24 / 40),
        # A band as wide as half the square is the whole square: plain IoU.
        (1, 0, 3, 30 / 42),
        (2, 0, 9, 24 / 48),
        (6, 0, 1, 0.0),
        (12, 0, 4, 0.0),
    ],
)
def test_boundary_iou_of_a_square_with_a_known_offset(
    right: int, down: int, width: int, expected: float
) -> None:
    assert boundary_iou(square(), square(right, down), 2, width=width)[1] == pytest.approx(expected)


def test_boundary_iou_sees_the_contour_of_a_large_region_where_iou_does_not() -> None:
    truth, guess = np.zeros((2, 1, 100, 100), dtype=np.int64)
    truth[0, 10:90, 10:90], guess[0, 12:88, 12:88] = 1, 1
    plain = iou(confusion_matrix(truth, guess, 2))[1]
    assert plain == pytest.approx(76**2 / 80**2)
    # 2 % of the diagonal is 3: bands of 80² − 74² and 76² − 70², which share a ring from 76² to 74².
    assert boundary_iou(truth, guess, 2)[1] == pytest.approx((76**2 - 74**2) / (80**2 - 70**2))


@pytest.mark.parametrize(("side", "width"), [(8, 1), (32, 1), (64, 2), (128, 4), (512, 14)])
def test_the_band_is_two_per_cent_of_the_diagonal_and_at_least_one(side: int, width: int) -> None:
    assert band_width(side, side) == width == max(1, round(0.02 * side * math.sqrt(2)))


def test_the_edge_of_the_image_is_a_contour() -> None:
    full = np.ones((1, 10, 10), dtype=np.int64)
    assert boundary_overlaps(full, full, 2, width=1).tolist() == [[0, 36, 0, 36]]
    assert boundary_overlaps(full, full, 2, width=2).tolist() == [[0, 64, 0, 64]]


def eroded_band(mask: np.ndarray, width: int) -> np.ndarray:
    """Cheng et al.: the mask less its erosion, ``width`` times by a 3×3 square, the image framed by zeros."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)


@settings(max_examples=examples(80), deadline=None)
@given(st.data(), widths)
def test_the_bands_are_those_of_scipys_erosion(data: st.DataObject, width: int) -> None:
    truth, guess = both(data)
    found = boundary_overlaps(truth, guess, CLASSES, width=width)
    for image in range(len(truth)):
        for label in range(CLASSES):
            first, second = (eroded_band(one[image] == label, width) for one in (truth, guess))
            assert found[image, label] == (first & second).sum()
            assert found[image, CLASSES + label] == (first | second).sum()


@settings(max_examples=examples(80), deadline=None)
@given(st.data(), widths)
def test_boundary_iou_lies_in_0_to_1_is_symmetric_and_is_1_only_for_equal_bands(
    data: st.DataObject, width: int
) -> None:
    truth, guess = both(data)
    found = boundary_iou(truth, guess, CLASSES, width=width)
    assert np.array_equal(found, boundary_iou(guess, truth, CLASSES, width=width), equal_nan=True)
    for label, value in enumerate(found):
        bands = [[eroded_band(one == label, width) for one in images] for images in (truth, guess)]
        if not np.any(bands):
            assert np.isnan(value)
            continue
        assert 0 <= value <= 1
        assert (value == 1) == np.array_equal(*bands)


@settings(max_examples=examples(40), deadline=None)
@given(st.data())
def test_boundary_iou_with_a_band_wider_than_the_image_is_iou(data: st.DataObject) -> None:
    truth, guess = both(data)
    expected = iou(confusion_matrix(truth, guess, CLASSES))
    assert boundary_iou(truth, guess, CLASSES, width=9) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=examples(40), deadline=None)
@given(st.data(), st.integers(0, 2**31))
@pytest.mark.parametrize("score", [boundary_f1, boundary_iou])
def test_ignored_positions_change_no_contour_score(score, data: st.DataObject, seed: int) -> None:
    truth, guess = both(data)
    rng = np.random.default_rng(seed)
    unknown = rng.random(truth.shape) < 0.3
    truth[unknown] = 255
    other = np.where(unknown, rng.integers(0, CLASSES, truth.shape), guess)
    first, second = (score(truth, one, CLASSES, 255) for one in (guess, other))
    assert np.array_equal(first, second, equal_nan=True)


@settings(max_examples=examples(40), deadline=None)
@given(st.data(), st.booleans(), st.booleans())
@pytest.mark.parametrize("score", [boundary_f1, boundary_iou])
def test_contour_scores_do_not_depend_on_orientation(
    score, data: st.DataObject, turn: bool, mirror: bool
) -> None:
    def moved(one: np.ndarray) -> np.ndarray:
        one = np.rot90(one, axes=(1, 2)) if turn else one
        return one[..., ::-1] if mirror else one

    truth, guess = both(data)
    expected = score(truth, guess, CLASSES)
    assert score(moved(truth), moved(guess), CLASSES) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("score", [boundary_f1, boundary_iou])
def test_the_further_a_contour_is_off_the_worse_the_score(score) -> None:
    found = [score(square(side=10), square(offset, side=10), 2)[1] for offset in range(7)]
    assert found[0] == 1
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert found[-1] < 0.6


@pytest.mark.parametrize("score", [boundary_f1, boundary_overlaps])
def test_images_scored_a_few_at_a_time_score_the_same(score, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, CLASSES, (2, 7, 12, 9))
    whole = score(truth, guess, CLASSES)
    monkeypatch.setattr(contours, "AT_ONCE", 2 * CLASSES * 12 * 9)
    assert np.array_equal(score(truth, guess, CLASSES), whole)


def test_segmentation_reports_boundary_iou_and_its_sums_give_it_back() -> None:
    names = tuple("abc")
    info = DatasetInfo("mask", names, (1, 12, 12), (12, 12), (0.5,), (0.2,), (10,) * 3, {})
    task = task_class("segmentation")(info)
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 3, (2, 6, 12, 12))
    scores = task.score(guess, truth)
    assert "boundary_iou" in [metric.name for metric in task.metrics]
    assert scores.metrics["boundary_iou"] == pytest.approx(np.mean(boundary_iou(truth, guess, 3)))
    total = scores.statistics["boundary_iou"].sum(axis=0)
    assert task.from_statistics("boundary_iou", total) == pytest.approx(scores.metrics["boundary_iou"])
