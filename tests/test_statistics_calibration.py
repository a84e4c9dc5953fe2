"""Calibration: scikit-learn and torchmetrics as oracles, and what a fitted link must do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from losses_cases import Late
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from lossbench.statistics import calibration
from lossbench.statistics.calibration import (
    brier,
    calibrate,
    ece,
    ece_debiased,
    fit_temperature,
    nll,
    probability_metrics,
    reliability,
)

classification = Late("torchmetrics.functional.classification")


def scored(samples=600, classes=4, temperature=1.0, seed=0):
    """Logits whose softmax at ``temperature`` is the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (samples, classes)) * temperature
    uniform = rng.random((samples, 1))
    labels = (softmax(logits / temperature, axis=1).cumsum(axis=1) < uniform).sum(axis=1)
    return logits, labels.clip(0, classes - 1)


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_nll_and_brier_are_scikit_learns(classes):
    logits, labels = scored(classes=classes)
    probabilities = softmax(logits, axis=1)
    known = np.arange(classes)
    assert nll(log_softmax(logits, axis=1), labels) == pytest.approx(
        log_loss(labels, probabilities, labels=known)
    )
    expected = brier_score_loss(labels, probabilities, labels=known, scale_by_half=False)
    assert brier(probabilities, labels) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4, 10])
def test_ece_is_torchmetrics(classes):
    logits, labels = scored(classes=classes, temperature=2.0)
    probabilities = softmax(logits, axis=1)
    expected = classification.multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), classes, n_bins=15, norm="l1"
    )
    assert ece(probabilities, labels) == pytest.approx(float(expected), abs=1e-6)


def test_reliability_bins_are_scikit_learns():
    logits, labels = scored()
    probabilities = softmax(logits, axis=1)
    correct = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(correct, probabilities.max(axis=1), n_bins=15)
    rows = reliability(probabilities, labels)
    assert [row["accuracy"] for row in rows] == pytest.approx(list(accuracy))
    assert [row["confidence"] for row in rows] == pytest.approx(list(confidence))
    assert sum(row["count"] for row in rows) == len(labels)


def test_certain_and_right_is_perfect():
    labels = np.array([0, 2, 1, 2])
    with np.errstate(divide="ignore"):
        log_probabilities = np.log(np.eye(3)[labels])
    assert probability_metrics(log_probabilities, labels) == {
        "nll": 0.0, "brier": 0.0, "ece": 0.0, "ece_debiased": 0.0,
    }  # fmt: skip


def test_certain_and_wrong_is_worst():
    probabilities = np.eye(3)[[1, 0, 0, 0]]
    labels = np.array([0, 2, 1, 2])
    assert brier(probabilities, labels) == 2
    assert ece(probabilities, labels) == 1
    assert ece_debiased(probabilities, labels) == 1


def test_the_debiased_error_is_kumars_bin_by_bin():
    """Three bins of four: mean squared gap less ȳ(1 − ȳ)/(n − 1), weighted by mass."""
    confidence = np.linspace(0.55, 0.99, 12)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0])
    expected = 0.0
    for part in np.split(np.arange(12), 3):
        accuracy = (labels[part] == 0).mean()
        expected += ((confidence[part].mean() - accuracy) ** 2 - accuracy * (1 - accuracy) / 3) / 3
    assert expected > 0
    assert ece_debiased(probabilities, labels, bins=3) == pytest.approx(np.sqrt(expected))


def test_for_calibrated_scores_the_debiased_error_is_nearer_to_0():
    plain, debiased = [], []
    for seed in range(40):
        logits, labels = scored(samples=200, seed=seed)
        probabilities = softmax(logits, axis=1)
        plain.append(ece(probabilities, labels))
        debiased.append(ece_debiased(probabilities, labels))
    assert np.mean(debiased) < np.mean(plain) / 2


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, labels = scored(20_000, temperature=temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_the_minimum_that_another_optimizer_finds():
    logits, labels = scored(temperature=3.0)

    def loss(log_temperature):
        return log_loss(labels, softmax(logits / np.exp(log_temperature[0]), axis=1))

    expected = np.exp(minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-7}).x[0])
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=examples(25), deadline=None)
@given(st.floats(0.05, 20))
def test_the_link_undoes_any_scale_of_the_scores(scale):
    """Hinge and MSE scores have scales of their own: after the link that cannot matter."""
    logits, labels = scored()
    test, test_labels = scored(seed=1)
    plain = calibrate(logits, labels, test, test_labels).metrics
    scaled = calibrate(scale * logits, labels, scale * test, test_labels).metrics
    for name in ("nll_calibrated", "brier_calibrated"):
        assert scaled[name] == pytest.approx(plain[name], rel=1e-4)


def test_overconfidence_is_mended_and_decisions_stay():
    logits, labels = scored(2000, temperature=4.0)
    test, test_labels = scored(2000, temperature=4.0, seed=1)
    found = calibrate(logits, labels, test, test_labels)
    for name in ("nll", "brier", "ece", "ece_debiased"):
        assert found.metrics[f"{name}_calibrated"] < found.metrics[name]
    accuracy = {
        when: sum(row["accuracy"] * row["count"] for row in found.reliability if row["when"] == when)
        for when in ("before", "after")
    }
    assert accuracy["before"] == pytest.approx(accuracy["after"])
    assert found.link["at_edge"] == 0


def test_separable_validation_data_are_flagged():
    labels = np.arange(30) % 3
    logits = np.eye(3)[labels]
    assert calibrate(logits, labels, logits, labels).link["at_edge"] == 1


def test_huge_scores_stay_finite():
    logits, labels = scored(temperature=1e4)
    found = calibrate(logits, labels, logits, labels)
    assert np.isfinite(list(found.metrics.values())).all()


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60), st.integers(2, 6))
def test_the_scores_stay_in_their_ranges(seed, samples, classes):
    logits, labels = scored(samples, classes, seed=seed)
    metrics = probability_metrics(log_softmax(logits, axis=1), labels)
    assert metrics["nll"] >= 0
    assert 0 <= metrics["brier"] <= 2
    assert 0 <= metrics["ece"] <= 1
    assert 0 <= metrics["ece_debiased"] <= 1


@pytest.mark.parametrize(
    ("logits", "labels", "sentence"),
    [
        (np.zeros((3, 2)), np.zeros(2, int), r"found \(3, 2\) and \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, int), "M ≥ 1"),
        (np.full((2, 2), np.nan), np.zeros(2, int), "outputs must be finite"),
        (np.zeros((2, 2)), np.array([0, 255]), "labels must be classes 0 to 1"),
        (np.zeros((2, 2)), np.array([0, -100]), "ignored positions"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, labels, sentence):
    good = scored(classes=2)
    with pytest.raises(ValueError, match=f"^test: .*{sentence}"):
        calibrate(*good, logits, labels)
    with pytest.raises(ValueError, match=f"^validation: .*{sentence}"):
        calibrate(logits, labels, *good)


@given(st.integers(1, 12), st.integers(0, 10_000))
@settings(max_examples=examples(50))
def test_log_softmax_is_scipys_to_the_last_bit(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(int(rng.integers(1, 50)), classes)) * 10.0 ** rng.integers(-3, 4)
    assert (calibration.log_softmax(logits) == log_softmax(logits, axis=1)).all()
