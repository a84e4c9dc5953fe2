"""Average precision: hand-computed cases, a slow twin of the definition, pycocotools and torchmetrics."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from losses_cases import Late

from lossbench.data.dataset import DatasetInfo
from lossbench.tasks.average_precision import COCO_OVERLAPS, Precisions, average_precision
from lossbench.tasks.detection import Detection
from lossbench.tasks.matching import overlaps as overlap_shares

detection = Late("torchmetrics.detection")
SEEDS = st.integers(0, 2**32 - 1)
CLASSES = 3


def planted(seed: int, images: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """True boxes and detections: some of them moved truths, some false, with distinct scores."""
    rng = np.random.default_rng(seed)
    targets = np.zeros((images, 4, 5), np.float32)
    targets[..., :2] = rng.integers(0, 40, (images, 4, 2))
    targets[..., 2:4] = targets[..., :2] + rng.integers(4, 20, (images, 4, 2))
    targets[..., 4] = rng.integers(-1, CLASSES, (images, 4))
    found = np.zeros((images, 8, 6), np.float32)
    found[:, :4, :5] = targets
    found[:, 4:, :5] = targets[:, rng.permutation(4)]
    found[..., :4] += rng.integers(-2, 3, found[..., :4].shape)
    found[..., 2:4] = np.maximum(found[..., 2:4], found[..., :2] + 1)
    kept = (rng.random((images, 8)) < 0.8) & (found[..., 4] >= 0)
    wrong = rng.random((images, 8)) < 0.2
    found[..., 4] = np.where(wrong, rng.integers(0, CLASSES, wrong.shape), found[..., 4])
    found[..., 4] = np.where(kept, found[..., 4], -1)
    found[..., 5] = rng.permutation(images * 8).reshape(images, 8) / (images * 8 + 1) + 0.01
    return found, targets


def slow_precision(found: np.ndarray, targets: np.ndarray, label: int, least: float) -> float:
    """AP of one class at one IoU, as its definition reads: ranked, matched greedily, 101 recalls."""
    truths = [some[some[:, 4] == label] for some in targets]
    total = sum(map(len, truths))
    if not total:
        return float("nan")
    ranked = sorted(
        ((box[5], image, box) for image, some in enumerate(found) for box in some if box[4] == label),
        key=lambda one: -one[0],
    )
    taken = [set[int]() for _ in truths]
    hits = []
    for _, image, box in ranked:
        shares = overlap_shares(box[None, :4].astype(float), truths[image][:, :4].astype(float))[0]
        free = [(share, -i) for i, share in enumerate(shares) if i not in taken[image] and share >= least]
        if free:
            taken[image].add(-max(free)[1])
        hits.append(bool(free))
    true = np.cumsum(hits)
    recall, precision = true / total, true / np.arange(1, len(hits) + 1)
    best = [max(precision[recall >= level], default=0.0) for level in np.linspace(0, 1, 101)]
    return float(np.mean(best))


@given(SEEDS, st.sampled_from([0.5, 0.75]))
@settings(max_examples=examples(25), deadline=None)
def test_average_precision_is_its_definition(seed: int, least: float) -> None:
    found, targets = planted(seed)
    precisions = average_precision(found, targets, CLASSES, [least]).at(least)
    expected = [slow_precision(found, targets, label, least) for label in range(CLASSES)]
    np.testing.assert_allclose(precisions, expected, atol=1e-9)


@given(SEEDS)
@settings(max_examples=examples(8), deadline=None)
def test_scores_equal_torchmetrics(seed: int) -> None:
    found, targets = planted(seed)
    scores = task().score(found, targets)
    # Its defaults are float32: a recall of exactly 0.35 then lies below the level 0.35.
    levels = np.linspace(0, 1, 101).tolist()
    oracle = detection.MeanAveragePrecision(
        class_metrics=True, iou_thresholds=list(COCO_OVERLAPS), rec_thresholds=levels
    )
    oracle.update([as_torchmetrics(some) for some in found], [as_torchmetrics(some) for some in targets])
    expected = oracle.compute()
    assert scores.metrics["map50"] == pytest.approx(expected["map_50"].item(), abs=1e-6)
    assert scores.metrics["map"] == pytest.approx(expected["map"].item(), abs=1e-6)
    known = ~np.isnan(scores.per_class["ap"])
    per_class = dict(zip(expected["classes"].tolist(), expected["map_per_class"].tolist(), strict=True))
    for label in np.flatnonzero(known):
        assert scores.per_class["ap"][label] == pytest.approx(per_class[label], abs=1e-6)


def as_torchmetrics(boxes: np.ndarray) -> dict[str, Any]:
    rows = torch.from_numpy(boxes[boxes[:, 4] >= 0])
    made = {"boxes": rows[:, :4], "labels": rows[:, 4].long()}
    return made | {"scores": rows[:, 5]} if boxes.shape[1] > 5 else made


@given(SEEDS)
@settings(max_examples=examples(15), deadline=None)
def test_the_validation_score_is_the_test_score(seed: int) -> None:
    found, targets = planted(seed)
    validated = task().validate(torch.from_numpy(found), torch.from_numpy(targets))
    assert validated["map50"] == pytest.approx(task().score(found, targets).metrics["map50"])


def task() -> Detection:
    names = tuple(f"c{label}" for label in range(CLASSES))
    sizes = {"train": 4}
    return Detection(DatasetInfo("boxes", names, (1, 64, 64), (4, 5), (0.5,), (0.2,), (5,) * 3, sizes))


def one_square(*moves: tuple[float, float]) -> np.ndarray:
    """Detections of a 10×10 square, moved to the right, with scores."""
    rows = [[5 + move, 5, 15 + move, 15, 0, score] for move, score in moves]
    return np.array([rows])


TRUTH = np.array([[[5.0, 5, 15, 15, 0]]])


@pytest.mark.parametrize(
    ("move", "iou", "map50", "levels"),
    [(0, 1.0, 1.0, 10), (1, 9 / 11, 1.0, 7), (2, 8 / 12, 1.0, 4), (3, 7 / 13, 1.0, 1), (4, 6 / 14, 0.0, 0)],
)
def test_a_shifted_box_counts_at_the_levels_its_overlap_reaches(
    move: float, iou: float, map50: float, levels: int
) -> None:
    assert sum(level <= iou for level in COCO_OVERLAPS) == levels
    scores = task().score(one_square((move, 0.9)), TRUTH)
    assert scores.metrics["map50"] == pytest.approx(map50)
    assert scores.metrics["map"] == pytest.approx(levels / 10)


def test_perfect_detections_score_1_and_none_0() -> None:
    _, targets = planted(1)
    perfect = np.concatenate([targets, np.full((*targets.shape[:2], 1), 0.9)], axis=-1)
    assert task().score(perfect, targets).metrics == pytest.approx({"map50": 1.0, "map": 1.0})
    nothing = task().majority_digests(targets)
    assert task().score(nothing, targets).metrics == {"map50": 0.0, "map": 0.0}


def test_a_false_box_costs_only_if_it_outranks_a_true_one() -> None:
    below = task().score(one_square((0, 0.9), (40, 0.8)), TRUTH).metrics["map50"]
    above = task().score(one_square((0, 0.8), (40, 0.9)), TRUTH).metrics["map50"]
    assert (below, above) == (pytest.approx(1.0), pytest.approx(0.5))


def test_the_same_object_found_twice_is_found_once_and_false_once() -> None:
    two = np.concatenate([TRUTH, [[[30.0, 30, 40, 40, 0]]]], axis=1)
    found = np.array([[[5, 5, 15, 15, 0, 0.9], [5, 5, 15, 14, 0, 0.8], [30, 30, 40, 40, 0, 0.7]]])
    # Precision 1 up to recall 1/2 (51 of 101 levels), 2/3 beyond.
    expected = (51 + 50 * 2 / 3) / 101
    assert task().score(found, two).metrics["map50"] == pytest.approx(expected)


def test_a_class_absent_from_the_split_has_no_precision_and_does_not_count() -> None:
    found = average_precision(one_square((0, 0.9)), TRUTH, CLASSES)
    assert np.isnan(found.per_class).tolist() == [False, True, True]
    assert Precisions.mean(found.per_class) == pytest.approx(1.0)
    assert Precisions.mean(np.full(3, np.nan)) == 0.0


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision(one_square((0, 0.9)), TRUTH, CLASSES)
    assert capsys.readouterr().out == ""
