"""Boxes and grids: overlaps and suppression as torchvision has them, cells that state any box."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from law_cases import examples
from losses_cases import Late
from torch import Tensor

from lossbench.tasks.boxes import generalized_iou, iou, suppress
from lossbench.tasks.grid import Grid
from lossbench.tasks.matching import disagreement, matched, mistakes, overlaps

SEEDS = st.integers(0, 2**32 - 1)
ops = Late("torchvision.ops")


def random_boxes(seed: int, *shape: int, side: float = 30.0) -> Tensor:
    """Boxes within a square, some without an area."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, int(side) + 1, (*shape, 2, 2)), axis=-2).astype(np.float32)
    return torch.from_numpy(corners.reshape(*shape, 4))


@given(SEEDS)
@settings(max_examples=examples(50))
def test_overlaps_equal_torchvisions(seed: int) -> None:
    first, second = random_boxes(seed, 7), random_boxes(seed + 1, 5)
    first[:, 2:] += 1  # torchvision divides by an area of zero
    second[:, 2:] += 1
    torch.testing.assert_close(iou(first[:, None], second), ops.box_iou(first, second))
    torch.testing.assert_close(
        generalized_iou(first[:, None], second), ops.generalized_box_iou(first, second)
    )
    np.testing.assert_allclose(overlaps(first.numpy(), second.numpy()), ops.box_iou(first, second), rtol=1e-6)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (2, 8 / 12), (5, 5 / 15), (10, 0.0), (30, 0.0)])
def test_iou_of_shifted_squares_is_known(shift: float, expected: float) -> None:
    square = torch.tensor([5.0, 5.0, 15.0, 15.0])
    moved = square + torch.tensor([shift, 0.0, shift, 0.0])
    assert iou(square, moved).item() == pytest.approx(expected)


@given(SEEDS, st.floats(0.2, 0.8))
@settings(max_examples=examples(60))
def test_suppression_keeps_what_torchvision_keeps(seed: int, most: float) -> None:
    boxes = random_boxes(seed, 3, 20)
    boxes[..., 2:] += 1
    classes = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (3, 20)))
    shares = iou(boxes[:, :, None], boxes[:, None])
    assume((shares - most).abs().min() > 1e-5)  # exactly at the limit, rounding decides
    kept = suppress(boxes, classes, most)
    scores = torch.linspace(1, 0, 20)  # the best first
    for image in range(3):
        expected = ops.batched_nms(boxes[image], scores, classes[image], most)
        assert kept[image].nonzero().flatten().tolist() == sorted(expected.tolist())


def test_of_the_same_box_the_best_is_kept_in_each_class() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]]])
    classes = torch.tensor([[1, 2, 1, 1]])
    assert suppress(boxes, classes, 0.5).tolist() == [[True, True, False, True]]


def test_a_chain_of_overlaps_loses_only_what_a_kept_box_covers() -> None:
    # The second goes because of the first; the third overlaps the second only, and stays.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]]])
    assert suppress(boxes, torch.zeros(1, 3), 0.5).tolist() == [[True, False, True]]


def some_targets(seed: int, images: int = 3, most: int = 4, side: int = 30) -> Tensor:
    """(N, K, 5), padded, whole boxes with an area."""
    rng = np.random.default_rng(seed)
    boxes = random_boxes(seed, images, most, side=side - 1)
    boxes[..., 2:] += 1
    classes = torch.from_numpy(rng.integers(-1, 3, (images, most)).astype(np.float32))
    return torch.cat([boxes * (classes >= 0)[..., None], classes[..., None]], -1)


@given(SEEDS, st.sampled_from([2, 4, 8]), st.integers(0, 2))
@settings(max_examples=examples(50))
def test_what_a_cell_states_of_its_box_is_that_box_again(seed: int, stride: int, radius: int) -> None:
    grid = Grid.over(30, 30, stride)
    assigned = grid.assign(some_targets(seed), radius)
    again = grid.decode(grid.encode(assigned.boxes))
    holds = assigned.labels > 0
    torch.testing.assert_close(again[holds], assigned.boxes[holds], rtol=1e-4, atol=1e-3)


@given(SEEDS, st.sampled_from([2, 4, 8]), st.integers(0, 2))
@settings(max_examples=examples(50))
def test_cells_are_assigned_as_one_by_one(seed: int, stride: int, radius: int) -> None:
    targets = some_targets(seed)
    grid = Grid.over(30, 30, stride)
    labels, boxes = assigned_slowly(targets.numpy(), grid, radius)
    assigned = grid.assign(targets, radius)
    np.testing.assert_array_equal(assigned.labels.numpy(), labels)
    np.testing.assert_array_equal(assigned.boxes.numpy()[labels > 0], boxes[labels > 0])


def assigned_slowly(targets: np.ndarray, grid: Grid, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Slow twin: cell by cell, box by box."""
    labels = np.zeros((len(targets), *grid.size), np.int64)
    boxes = np.zeros((*labels.shape, 4), np.float32)
    for image, some in enumerate(targets):
        for row in range(grid.size[0]):
            for column in range(grid.size[1]):
                least = np.inf
                for x0, y0, x1, y1, label in some:
                    x, y = (x0 + x1) / 2, (y0 + y1) / 2
                    far = max(abs(x // grid.stride - column), abs(y // grid.stride - row))
                    away = (x - (column + 0.5) * grid.stride) ** 2 + (y - (row + 0.5) * grid.stride) ** 2
                    if label >= 0 and far <= radius and away < least:
                        least = away
                        labels[image, row, column] = label + 1
                        boxes[image, row, column] = x0, y0, x1, y1
    return labels, boxes


def test_a_large_split_is_assigned_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, grid = some_targets(3, images=7), Grid.over(30, 30, 4)
    whole = grid.assign(targets, 1)
    monkeypatch.setattr("lossbench.tasks.grid.AT_ONCE", 500)
    parts = grid.assign(targets, 1)
    assert torch.equal(whole.labels, parts.labels)
    assert torch.equal(whole.boxes, parts.boxes)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (30.0, 30.0), (29.9, 0.1)])
def test_a_box_at_the_edge_belongs_to_the_last_cell(centre: tuple[float, float]) -> None:
    x, y = centre
    targets = torch.tensor([[[x - 1, y - 1, x + 1, y + 1, 2.0]]])
    labels = Grid.over(30, 30, 8).assign(targets, 0).labels
    assert labels.sum() == 3
    assert labels[0, -1 if y > 15 else 0, -1 if x > 15 else 0] == 3


def test_a_box_smaller_than_a_cell_belongs_to_one() -> None:
    grid = Grid.over(32, 32, 8)
    targets = torch.tensor([[[9.0, 9.0, 10.0, 10.0, 0.0]]])
    assigned = grid.assign(targets, 0)
    assert assigned.labels[0, 1, 1] == 1
    decoded = grid.decode(grid.encode(assigned.boxes))[0, 1, 1]
    torch.testing.assert_close(decoded, targets[0, 0, :4], rtol=1e-4, atol=1e-3)


def test_assignment_can_be_mapped_over_a_population() -> None:
    targets, grid = some_targets(1, images=6), Grid.over(30, 30, 4)
    together = torch.func.vmap(lambda some: grid.assign(some, 1).labels)(targets.reshape(3, 2, 4, 5))
    assert torch.equal(together.reshape(6, *grid.size), grid.assign(targets, 1).labels)


@given(SEEDS)
@settings(max_examples=examples(30))
def test_matching_is_symmetric_and_complete_for_the_same_boxes(seed: int) -> None:
    first, second = some_targets(seed)[0].numpy(), some_targets(seed + 1)[0].numpy()
    assert matched(first, second) == matched(second, first)
    count = int((first[:, 4] >= 0).sum())
    assume(len({tuple(row) for row in first[first[:, 4] >= 0]}) == count)
    assert matched(first, first) == count
    assert mistakes(first, first) == (0, 0)


def test_missed_and_false_boxes_are_counted() -> None:
    truth = np.array([[0, 0, 10, 10, 0], [20, 20, 30, 30, 1], [0, 0, 0, 0, -1]])
    found = np.array([[0, 0, 10, 9, 0, 0.9], [20, 20, 30, 30, 0, 0.9], [1, 0, 10, 10, 0, 0.8]])
    assert mistakes(found, truth) == (1, 2)


def test_arms_disagree_by_the_boxes_they_do_not_share() -> None:
    one = np.array([[[0.0, 0, 10, 10, 0, 0.9], [20, 20, 30, 30, 1, 0.9]], [[0, 0, 0, 0, -1, 0]] * 2])
    other = one.copy()
    other[0, 1, 4] = 0
    nothing = np.full((2, 3, 6), -1.0)
    assert disagreement([one, one]).tolist() == [0, 0]
    assert disagreement([one, other]).tolist() == [0.5, 0]
    assert disagreement([one, other, nothing]).tolist() == [1, 0]
