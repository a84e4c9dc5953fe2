"""The tables that expectations speak of: samples, classes, drift."""

import numpy as np
import pandas as pd

from lossbench.data.dataset import DatasetInfo

HELD_OUT = ("validation", "test", "reference")
ENOUGH = 30
"""Samples below which a split's shares say nothing about drift."""


def tables(manifest: pd.DataFrame, info: DatasetInfo) -> dict[str, pd.DataFrame]:
    """Derive what is checked from a manifest.

    Returns:
        samples: the manifest, with splits_of_content (in how many splits the same content stands).
        classes: per class, its training targets (samples, positions, boxes or positives) and, where samples
            have one label each, its samples in validation and test.
        drift: per held-out split, label_drift (total variation distance of label shares from the training
            split's, 0 to 1), intensity_drift and foreground_drift (gaps of mean intensity and of mean
            foreground, in training standard deviations). Splits of fewer than 30 samples are left out.

    """
    samples = manifest.copy()
    samples["splits_of_content"] = samples.groupby("sha256")["split"].transform("nunique")
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
    return pd.DataFrame({"id": list(info.classes), **columns})


def drift_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Distance of each held-out split from the training split."""
    train = manifest[manifest["split"] == "train"]
    shares = train["label"].value_counts(normalize=True)
    masks = "foreground" in manifest
    rows = []
    for split in HELD_OUT:
        part = manifest[manifest["split"] == split]
        if len(part) < ENOUGH:
            continue
        other = part["label"].value_counts(normalize=True)
        labels = shares.index.union(other.index)
        gap = shares.reindex(labels, fill_value=0) - other.reindex(labels, fill_value=0)
        rows.append(
            {
                "id": split,
                "label_drift": float(np.abs(gap).sum() / 2),
                "intensity_drift": _gap(train["mean"], part["mean"]),
                "foreground_drift": _gap(train["foreground"], part["foreground"]) if masks else 0.0,
            }
        )
    return pd.DataFrame(rows, columns=["id", "label_drift", "intensity_drift", "foreground_drift"])


def _gap(train: "pd.Series[float]", other: "pd.Series[float]") -> float:
    """Distance of two means in standard deviations of the first."""
    return float(abs(other.mean() - train.mean()) / max(float(train.std()), 1e-9))
