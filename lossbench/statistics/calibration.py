"""Scores into probabilities, and how far these can be believed.

Hinge and MSE outputs are no probabilities until a link is fitted on validation data; the same one-number
link, a temperature (Guo et al. 2017, 1706.04599), is fitted for every arm, so that none is favoured.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Array = npt.NDArray[Any]
BINS = 15
LOG_TEMPERATURES = (-5.0, 5.0)


@dataclass(frozen=True)
class Calibration:
    """One replicate's calibration.

    Attributes:
        metrics: nll, brier, ece, ece_debiased, and each with ``_calibrated`` after the link.
        reliability: rows (when, bin, confidence, accuracy, count).
        link: the fitted temperature, and whether it stands at the end of its range.

    """

    metrics: dict[str, float]
    reliability: list[dict[str, Any]] = field(default_factory=list)
    link: dict[str, float] = field(default_factory=dict)


def calibrate(validation: Array, validation_labels: Array, test: Array, test_labels: Array) -> Calibration:
    """Fit the link on validation data and score the test data before and after.

    Args:
        validation: (M, C) raw outputs, float64.
        validation_labels: (M,) integers.
        test: (K, C).
        test_labels: (K,).

    Raises:
        ValueError: if outputs are not finite, labels are no classes, or a split is empty.

    """
    _check(validation, validation_labels, "validation")
    _check(test, test_labels, "test")
    temperature = fit_temperature(validation, validation_labels)
    before, after = log_softmax(test), log_softmax(test / temperature)
    metrics = probability_metrics(before, test_labels)
    metrics |= {
        f"{name}_calibrated": value for name, value in probability_metrics(after, test_labels).items()
    }
    rows = [
        {"when": when, **row}
        for when, log_probabilities in (("before", before), ("after", after))
        for row in reliability(np.exp(log_probabilities), test_labels)
    ]
    low, high = LOG_TEMPERATURES
    at_edge = not low + 0.01 < np.log(temperature) < high - 0.01
    return Calibration(metrics, rows, {"temperature": temperature, "at_edge": float(at_edge)})


def log_softmax(logits: Array) -> Array:
    """Log-probabilities (M, C) of finite logits (M, C)."""
    below_top = logits - _top(logits)
    return below_top - np.log(_over_classes(np.exp(below_top)))[:, None]


def _top(values: Array) -> Array:
    """Largest of each row, (M, 1): numpy's max of a short axis takes several times as long as its argmax."""
    top: Array = values[np.arange(len(values)), values.argmax(axis=1)][:, None]
    return top


def _over_classes(values: Array) -> Array:
    """Sum of each row, (M,): numpy adds fewer than eight in turn, too, but takes ten times as long."""
    if values.shape[1] >= 8:
        return np.asarray(values.sum(axis=1))
    total = values[:, 0].copy()
    for column in values.T[1:]:
        total += column
    return total


def fit_temperature(logits: Array, labels: Array) -> float:
    """Temperature T > 0 that minimises the NLL of softmax(logits / T), within e^±5.

    It is the range's end where that is as good as anything inside: separable data have no finite optimum.
    """
    below_top = logits - _top(logits)
    of_label = below_top[np.arange(len(labels)), labels].mean()

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.log(_over_classes(np.exp(below_top * inverse))).mean() - of_label * inverse)

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(min((*LOG_TEMPERATURES, float(found.x)), key=loss)))


def probability_metrics(log_probabilities: Array, labels: Array) -> dict[str, float]:
    """NLL, Brier and both ECEs from (M, C) log-probabilities."""
    probabilities = np.exp(log_probabilities)
    return {
        "nll": nll(log_probabilities, labels),
        "brier": brier(probabilities, labels),
        "ece": ece(probabilities, labels),
        "ece_debiased": ece_debiased(probabilities, labels),
    }


def nll(log_probabilities: Array, labels: Array) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def brier(probabilities: Array, labels: Array) -> float:
    """Brier score: squared distance to the one-hot label, summed over classes, 0 to 2 (Brier 1950)."""
    true = probabilities[np.arange(len(labels)), labels]
    return float((_over_classes(probabilities**2) - 2 * true + 1).mean())


def _confidence(probabilities: Array, labels: Array) -> tuple[Array, Array]:
    return _top(probabilities)[:, 0], (probabilities.argmax(axis=1) == labels).astype(np.float64)


def reliability(probabilities: Array, labels: Array, bins: int = BINS) -> list[dict[str, Any]]:
    """Confidence, accuracy and count of each non-empty of ``bins`` equal-width bins."""
    confidence, correct = _confidence(probabilities, labels)
    where = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    mean_confidence = np.bincount(where, confidence, bins) / np.maximum(count, 1)
    accuracy = np.bincount(where, correct, bins) / np.maximum(count, 1)
    return [
        {
            "bin": index,
            "confidence": float(mean_confidence[index]),
            "accuracy": float(accuracy[index]),
            "count": int(count[index]),
        }
        for index in np.flatnonzero(count)
    ]


def ece(probabilities: Array, labels: Array, bins: int = BINS) -> float:
    """Expected calibration error with equal-width bins (Naeini et al. 2015), for comparability; biased up."""
    rows = reliability(probabilities, labels, bins)
    return float(sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows) / len(labels))


def ece_debiased(probabilities: Array, labels: Array, bins: int = BINS) -> float:
    """Root-mean-square calibration error with equal-mass bins, debiased (Kumar et al. 2019, 1909.10155).

    From each bin's squared gap its sampling variance ȳ(1 − ȳ)/(n − 1) is taken off; 0 where less is left.
    """
    confidence, correct = _confidence(probabilities, labels)
    order = np.argsort(confidence, kind="stable")
    total = 0.0
    for part in np.array_split(order, min(bins, max(1, len(order) // 2))):
        if len(part) < 2:
            continue
        accuracy = correct[part].mean()
        gap = (confidence[part].mean() - accuracy) ** 2
        total += len(part) / len(order) * (gap - accuracy * (1 - accuracy) / (len(part) - 1))
    return float(np.sqrt(max(total, 0.0)))


def _check(logits: Array, labels: Array, split: str) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"{split}: calibration needs outputs (M, C) and labels (M,), M ≥ 1; "
            f"found {logits.shape} and {labels.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError(f"{split}: outputs must be finite")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"{split}: labels must be classes 0 to {logits.shape[1] - 1} (take ignored positions out first), "
            f"found {labels.min()} to {labels.max()}"
        )
