"""The threshold chosen on validation data, against counting positions one by one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples

from lossbench.evaluation.thresholds import GRID, METRICS, Counts, applies, best_threshold
from lossbench.tasks.confusion import confusion_matrix, f1, iou


def task(outputs=2, ignore_index=None):
    return SimpleNamespace(
        name="segmentation", outputs=outputs, info=SimpleNamespace(ignore_index=ignore_index)
    )


def scenes(seed, shift=0.0, ignored=False):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (5, 4, 6))
    logits = torch.from_numpy(rng.normal(size=(5, 2, 4, 6)) + 1.0 * np.stack([1 - targets, targets], 1))
    logits[:, 1] += shift
    if ignored:
        targets[rng.random(targets.shape) < 0.2] = 255
    return targets, logits.float()


def slowly(targets, logits, threshold, metric, ignore_index):
    probability = torch.softmax(logits.double(), 1)[:, 1].numpy()
    matrix = confusion_matrix(targets, (probability > threshold).astype(int), 2, ignore_index)
    if metric == "pixel_accuracy":
        return np.trace(matrix) / matrix.sum()
    return np.nanmean((iou if metric == "mean_iou" else f1)(matrix))


@settings(deadline=None, max_examples=examples(20))
@given(st.integers(0, 999), st.booleans(), st.sampled_from(METRICS))
def test_scores_at_each_threshold_are_those_of_masks_cut_there(seed, ignored, metric):
    targets, logits = scenes(seed, ignored=ignored)
    counts = Counts(task(ignore_index=255 if ignored else None), targets)
    for start in (0, 2, 4):
        counts.look(slice(start, start + 2), logits[start : start + 2])
    found = counts.scores(metric)
    for place in (0, 49, 99, 150, 198):
        expected = slowly(targets, logits, GRID[place], metric, 255 if ignored else None)
        assert found[place] == pytest.approx(expected, nan_ok=True)


def test_a_shifted_network_gets_its_shift_back():
    targets, logits = scenes(3, shift=2.0)
    counts = Counts(task(), targets)
    counts.look(slice(0, 5), logits)
    best = best_threshold(counts, "dice")
    assert GRID[best] > 0.5
    assert counts.scores("dice")[best] == counts.scores("dice").max()


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken():
    targets = np.array([[[0, 1]]])
    counts = Counts(task(), targets)
    counts.look(slice(0, 1), torch.tensor([[[[5.0, -5.0]], [[-5.0, 5.0]]]]))
    assert GRID[best_threshold(counts, "mean_iou")] == 0.5


def test_it_is_for_two_classes_and_metrics_of_counts():
    assert applies(task(), "mean_iou")
    assert not applies(task(outputs=3), "mean_iou")
    assert not applies(task(), "boundary_f1")
