"""The tables that expectations speak of: samples, classes, drift."""

from typing import Any

import numpy as np
import pandas as pd

from lossbench.data.dataset import Dataset, DatasetInfo, full_scale

DRIFTS = ("label_drift", "intensity_drift", "foreground_drift", "unknown_drift", "boxes_drift")
TOLD = ("orientation_in_doubt", "white_in_doubt", "clipped_boxes", "repeated_boxes", "clipped_values")
"""Columns that only sources of a user's files have."""
HELD_OUT = ("validation", "test", "reference")
BETWEEN = {"mask": ",", "multilabel": "|", "boxes": "|"}
"""What stands between the classes of a sample, in the manifest; of other kinds it has one."""
CHANCE = 2.0
"""Standard errors of a difference that are put down to chance: small splits always differ a little."""
ALIKE = 1e-9
"""Standard deviation of values that are alike but for rounding."""


def tables(manifest: pd.DataFrame, info: DatasetInfo) -> dict[str, pd.DataFrame]:
    """Derive what is checked from a manifest.

    Returns:
        samples: the manifest, with splits_of_content (in how many splits the same content stands),
            range_used (by an image, of the values between black and white), and 0 for doubts and counts
            that its source has not.
        classes: per class, its training targets (samples, positions, boxes or positives), and the samples of
            validation and test that have any.
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
    """Count training targets per class, and the samples of validation and test that have any of it."""
    table = pd.DataFrame({"id": list(info.classes), "train": list(info.counts)})
    if info.kind == "anomaly":  # these are never trained on: nothing is expected of their number
        table["train"] = [info.counts[0], None]
    if info.kind != "tokens":
        for split in ("train", "validation", "test") if info.kind == "label" else ("validation", "test"):
            table[split] = _samples_with(manifest[manifest["split"] == split], info)
    return table


def _samples_with(part: pd.DataFrame, info: DatasetInfo) -> list[int]:
    """Count the samples with each class."""
    masks = info.kind == "mask"
    named = list(map(str, range(len(info.classes)))) if masks else list(info.classes)
    there: Any = part["mask_values" if masks else "label"]
    if (between := BETWEEN.get(info.kind)) is not None:
        there = there.str.split(between, regex=False)
    counts = there.explode().value_counts()
    return [int(counts.get(name, 0)) for name in named]


def name_boxes(manifest: pd.DataFrame, data: Dataset) -> None:
    """Write into each row the classes of its boxes, which no manifest holds."""
    known = len(data.info.classes)
    for split in manifest["split"].unique():
        rows = manifest["split"] == split
        numbers = np.asarray(data.split(split).targets)[manifest.loc[rows, "index"], :, 4].astype(int)
        manifest.loc[rows, "label"] = [
            "|".join(data.info.classes[number] for number in np.unique(one) if 0 <= number < known)
            for one in numbers
        ]


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
    """Distance of two means in standard deviations of the first, beyond chance; of both where it has none."""
    spread = next((sd for sd in (train.std(), pd.concat([train, other]).std()) if sd > ALIKE), None)
    if spread is None:
        return 0.0
    gap = abs(other.mean() - train.mean()) / spread
    return max(0.0, float(gap) - CHANCE * _scatter(len(train), len(other)))


def _scatter(first: int, second: int) -> float:
    """Standard error of a difference of two means of values with unit variance."""
    return float((1 / first + 1 / second) ** 0.5)
