"""Tasks: their scores against other libraries, and against shapes whose score is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from sklearn import metrics as sk

from lossbench.data.dataset import DatasetInfo
from lossbench.errors import UserError
from lossbench.tasks import task_class
from lossbench.tasks.base import Scores, Task
from lossbench.tasks.contours import boundary_f1


def info(kind: str, classes: int, **more: object) -> DatasetInfo:
    names = tuple(str(index) for index in range(classes))
    shape = () if kind == "label" else (12, 12)
    return DatasetInfo(kind, names, (1, 12, 12), shape, (0.5,), (0.2,), (10,) * classes, {}, **more)  # type: ignore[arg-type]  # kind is a Literal, the rest is passed on


def classified(seed: int, n: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, classes)), rng.integers(classes, size=n)


@given(st.integers(0, 10_000))
@settings(max_examples=examples(30))
def test_classification_scores_equal_scikit_learns(seed: int) -> None:
    outputs, labels = classified(seed)
    scores = task_class("classification")(info("label", 4)).score(outputs, labels)
    predicted = outputs.argmax(1)
    assert scores.metrics["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert scores.metrics["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert scores.metrics["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert (scores.confusion == sk.confusion_matrix(labels, predicted, labels=range(4))).all()


@given(st.integers(0, 10_000))
@settings(max_examples=examples(20))
def test_segmentation_scores_equal_scikit_learns_over_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, masks = rng.normal(size=(5, 3, 12, 12)), rng.integers(3, size=(5, 12, 12))
    scores = task_class("segmentation")(info("mask", 3)).score(outputs.argmax(1), masks)
    predicted = outputs.argmax(1).ravel()
    assert scores.metrics["mean_iou"] == pytest.approx(
        sk.jaccard_score(masks.ravel(), predicted, average="macro")
    )
    assert scores.metrics["dice"] == pytest.approx(sk.f1_score(masks.ravel(), predicted, average="macro"))
    assert scores.metrics["pixel_accuracy"] == pytest.approx(sk.accuracy_score(masks.ravel(), predicted))


class Halved(task_class("segmentation")):  # type: ignore[misc]  # found by name
    """A user's own task, which scores otherwise than ours."""

    def score(self, digests: np.ndarray, targets: np.ndarray) -> Scores:
        scores: Scores = super().score(digests, targets)
        return replace(scores, metrics={name: value / 2 for name, value in scores.metrics.items()})


@pytest.mark.parametrize("made", [task_class("segmentation"), Halved])
@pytest.mark.parametrize("ignored", [None, 2])
def test_a_metric_alone_is_the_one_among_all(made: type[Task], ignored: int | None) -> None:
    rng = np.random.default_rng(0)
    task = made(info("mask", 3, ignore_index=ignored))
    found, masks = rng.integers(2, size=(5, 12, 12)), rng.integers(3, size=(5, 12, 12))
    expected = task.score(found, masks).metrics
    assert {name: task.score_by(name, found, masks) for name in expected} == expected


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_summed_statistics_give_back_the_metric_of_classification(metric: str) -> None:
    outputs, labels = classified(3)
    task = task_class("classification")(info("label", 4))
    scores = task.score(outputs, labels)
    total = scores.statistics[metric].sum(axis=0)
    assert task.from_statistics(metric, total) == pytest.approx(scores.metrics[metric])


def test_summed_statistics_give_back_the_mean_iou() -> None:
    rng = np.random.default_rng(1)
    task = task_class("segmentation")(info("mask", 3))
    scores = task.score(rng.integers(3, size=(5, 12, 12)), rng.integers(3, size=(5, 12, 12)))
    total = scores.statistics["mean_iou"].sum(axis=0)
    assert task.from_statistics("mean_iou", total) == pytest.approx(scores.metrics["mean_iou"])


def square(offset: int = 0, side: int = 6) -> np.ndarray:
    mask = np.zeros((1, 20, 20), dtype=np.int64)
    mask[0, 5 : 5 + side, 5 + offset : 5 + offset + side] = 1
    return mask


@pytest.mark.parametrize(("offset", "tolerance", "expected"), [(0, 1, 1.0), (1, 1, 1.0), (10, 1, 0.0)])
def test_boundary_f1_of_a_shifted_square(offset: int, tolerance: int, expected: float) -> None:
    assert boundary_f1(square(), square(offset), 2, tolerance=tolerance)[1] == pytest.approx(expected)


def test_boundary_f1_of_a_square_two_columns_off_counts_the_contours_that_meet() -> None:
    # Contours of a 6×6 square hold 20 positions. Two columns to the right, at tolerance 1: the near side (its
    # four middle positions) and the outermost ends of top and bottom lie further than 1 away: 14 of 20 remain.
    found = boundary_f1(square(), square(2), 2, tolerance=1)[1]
    near = abs_distance_f1(square()[0], square(2)[0], 1)
    assert found == pytest.approx(near)


def abs_distance_f1(truth: np.ndarray, guess: np.ndarray, tolerance: int) -> float:
    """Slow twin: contours and distances, position by position."""

    def contour(mask: np.ndarray) -> list[tuple[int, int]]:
        inside = [tuple(p) for p in np.argwhere(mask == 1)]
        around = ((0, 1), (1, 0), (0, -1), (-1, 0))
        return [p for p in inside if any((p[0] + a, p[1] + b) not in inside for a, b in around)]

    def share(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> float:
        near = [min(max(abs(a - c), abs(b - d)) for c, d in second) <= tolerance for a, b in first]
        return sum(near) / len(near)

    precision, recall = share(contour(guess), contour(truth)), share(contour(truth), contour(guess))
    return 2 * precision * recall / (precision + recall)


def test_ignored_positions_change_no_score() -> None:
    rng = np.random.default_rng(0)
    task = task_class("segmentation")(info("mask", 3, ignore_index=255))
    masks = rng.integers(3, size=(4, 12, 12))
    masks[:, :4] = 255
    predicted = rng.integers(3, size=(4, 12, 12))
    other = predicted.copy()
    other[:, :4] = (other[:, :4] + 1) % 3
    first, second = task.score(predicted, masks), task.score(other, masks)
    for metric in ("mean_iou", "dice", "pixel_accuracy", "boundary_f1"):
        assert first.metrics[metric] == second.metrics[metric], metric


def test_a_task_refuses_data_of_another_kind() -> None:
    with pytest.raises(UserError, match="kind mask"):
        task_class("segmentation")(info("label", 3))


def test_a_diverged_replicate_gets_the_score_of_the_majority_class() -> None:
    task = task_class("classification")(
        DatasetInfo("label", ("a", "b"), (1, 2, 2), (), (0.5,), (0.2,), (1, 9), {})
    )
    labels = np.array([0, 1, 1, 1])
    assert task.score(task.majority_digests(labels), labels).metrics["accuracy"] == 0.75
