"""The tables that expectations speak of: samples, classes, drift."""

from typing import Any

import numpy as np
import pandas as pd

from lossbench.data.dataset import DatasetInfo, full_scale

DRIFTS = ("label_drift", "intensity_drift", "foreground_drift", "unknown_drift", "boxes_drift")
TOLD = ("orientation_in_doubt", "white_in_doubt", "clipped_boxes", "repeated_boxes", "clipped_values")
"""Columns that only sources of a user's files have."""
HELD_OUT = ("validation", "test", "reference")
CHANCE = 2.0
"""Standard errors of a difference that are put down to chance: small splits always differ a little."""


def tables(manifest: pd.DataFrame, info: DatasetInfo) -> dict[str, pd.DataFrame]:
    """Derive what is checked from a manifest.

    Returns:
        samples: the manifest, with splits_of_content (in how many splits the same content stands),
            range_used (by an image, of the values between black and white), and 0 for doubts and counts
            that its source has not.
        classes: per class, its training targets (samples, positions, boxes or positives) and, where samples
            have one label each, its samples in validation and test.
        drift: per held-out split, how far it lies from the training split beyond what chance explains
            (two standard errors): label_drift (total variation distance of label shares, 0 to 1),
            intensity_drift, foreground_drift and boxes_drift (of means, in training standard deviations);
            for tokens unknown_drift (of the share of ``<unk>``, 0 to 1).

    """
    samples = manifest.copy()
    samples["splits_of_content"] = samples.groupby("sha256")["split"].transform("nunique")
    if info.kind != "tokens":
        samples["range_used"] = (samples["maximum"] - samples["minimum"]) / full_scale(info.dtype)
    for column in TOLD:
        if column not in samples:
            samples[column] = 0
    return {"samples": samples, "classes": class_table(manifest, info), "drift": drift_table(manifest)}


def class_table(manifest: pd.DataFrame, info: DatasetInfo) -> pd.DataFrame:
    """Training targets per class, from the manifest where it has labels, else from the dataset's counts."""
    if info.kind == "label":
        counts = manifest.groupby("split")["label"].value_counts()
        columns = {
            split: [int(counts.get((split, name), 0)) for name in info.classes]
            for split in ("train", "validation", "test")
        }
    else:
        columns = {"train": list(info.counts)}
    table = pd.DataFrame({"id": list(info.classes), **columns})
    # Anomalies are never trained on: nothing is expected of their number.
    return table[:1] if info.kind == "anomaly" else table


def drift_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Distance of each held-out split from the training split."""
    train = manifest[manifest["split"] == "train"]
    masks, tokens, boxes = "foreground" in manifest, "unknown" in manifest, "boxes" in manifest
    rows = []
    for split in HELD_OUT:
        part = manifest[manifest["split"] == split]
        if part.empty:
            continue
        rows.append(
            {
                "id": split,
                "label_drift": _share_gap(train["label"], part["label"]),
                "intensity_drift": _gap(train["mean"], part["mean"]),
                "foreground_drift": _gap(train["foreground"], part["foreground"]) if masks else 0.0,
                "unknown_drift": abs(part["unknown"].mean() - train["unknown"].mean()) if tokens else 0.0,
                "boxes_drift": _gap(train["boxes"], part["boxes"]) if boxes else 0.0,
            }
        )
    return pd.DataFrame(rows, columns=["id", *DRIFTS])


def _share_gap(train: "pd.Series[Any]", other: "pd.Series[Any]") -> float:
    """Total variation distance of label shares, beyond chance."""
    expected, found = train.value_counts(normalize=True), other.value_counts(normalize=True)
    labels = expected.index.union(found.index)
    p, q = expected.reindex(labels, fill_value=0), found.reindex(labels, fill_value=0)
    pooled = (p * len(train) + q * len(other)) / (len(train) + len(other))
    chance = CHANCE * np.sqrt(pooled * (1 - pooled)) * _scatter(len(train), len(other))
    return float(np.maximum(np.abs(p - q) - chance, 0).sum() / 2)


def _gap(train: "pd.Series[float]", other: "pd.Series[float]") -> float:
    """Distance of two means in standard deviations of the first, beyond chance."""
    gap = abs(other.mean() - train.mean()) / max(float(train.std()), 1e-9)
    return max(0.0, float(gap) - CHANCE * _scatter(len(train), len(other)))


def _scatter(first: int, second: int) -> float:
    """Standard error of a difference of two means of values with unit variance."""
    return float((1 / first + 1 / second) ** 0.5)
