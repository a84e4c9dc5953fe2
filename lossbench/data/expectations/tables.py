"""The tables that expectations speak of: samples, classes, drift."""

import numpy as np
import pandas as pd

from lossbench.data.dataset import DatasetInfo

HELD_OUT = ("validation", "test", "reference")


def tables(manifest: pd.DataFrame, info: DatasetInfo) -> dict[str, pd.DataFrame]:
    """Derive what is checked from a manifest.

    Returns:
        samples: the manifest, with splits_of_content (in how many splits the same content stands).
        classes: per class, its training targets (samples, positions, boxes or positives).
        drift: per held-out split, label_drift (total variation distance of label shares from the training
            split's, 0 to 1) and intensity_drift (gap of mean intensity in training standard deviations).

    """
    samples = manifest.copy()
    samples["splits_of_content"] = samples.groupby("sha256")["split"].transform("nunique")
    return {"samples": samples, "classes": class_table(manifest, info), "drift": drift_table(manifest)}


def class_table(manifest: pd.DataFrame, info: DatasetInfo) -> pd.DataFrame:
    """Training targets per class, from the manifest where it has labels, else from the dataset's counts."""
    if info.kind == "label":
        counts = manifest.loc[manifest["split"] == "train", "label"].value_counts()
        found = [int(counts.get(name, 0)) for name in info.classes]
    else:
        found = list(info.counts)
    return pd.DataFrame({"id": list(info.classes), "train": found})


def drift_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Distance of each held-out split from the training split."""
    train = manifest[manifest["split"] == "train"]
    shares = train["label"].value_counts(normalize=True)
    center, spread = train["mean"].mean(), max(float(train["mean"].std()), 1e-9)
    rows = []
    for split in HELD_OUT:
        part = manifest[manifest["split"] == split]
        if part.empty:
            continue
        other = part["label"].value_counts(normalize=True)
        labels = shares.index.union(other.index)
        gap = shares.reindex(labels, fill_value=0) - other.reindex(labels, fill_value=0)
        rows.append(
            {
                "id": split,
                "label_drift": float(np.abs(gap).sum() / 2),
                "intensity_drift": float(abs(part["mean"].mean() - center) / spread),
            }
        )
    return pd.DataFrame(rows, columns=["id", "label_drift", "intensity_drift"])
