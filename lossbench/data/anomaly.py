"""From labelled samples to anomaly detection: trained on normal samples alone, tested on both."""

import unicodedata
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lossbench.data.samples import Fetched, Samples
from lossbench.errors import UserError, nearest
from lossbench.params import Anomaly

CLASSES = ("normal", "anomaly")
NORMAL_ONLY = ("train", "validation")


def hold_out(
    splits: Mapping[str, Samples], fetched: Fetched, anomaly: Anomaly, dataset: str
) -> tuple[dict[str, Samples], Fetched]:
    """Relabel samples as normal (0) or anomaly (1); anomalies leave training and validation.

    The original class stays in the manifest column ``class``.

    Args:
        splits: split → samples with one label each.
        fetched: what the source said of them.
        anomaly: which classes are normal.
        dataset: its name, for messages.

    Raises:
        UserError: if targets are no labels, a class is unknown, or nothing is left on one side.

    """
    key = f"datasets.{dataset}.anomaly"
    if fetched.kind != "label":
        raise UserError(
            f"{key}: needs one label per sample; this dataset's targets are of kind '{fetched.kind}'"
        )
    if any(one.soft is not None for one in splits.values()):
        raise UserError(f"{key}: needs one label per sample; this dataset has soft labels")
    named = [unicodedata.normalize("NFC", name) for name in (*anomaly.normal, *anomaly.abnormal)]
    for name in named:
        if name not in fetched.classes:
            raise UserError(f"{key}: no class is named '{name}'; {nearest(name, fetched.classes)}")
    is_named = np.array([name in named for name in fetched.classes])
    abnormal = ~is_named if anomaly.normal else is_named
    if abnormal.all() or not abnormal.any():
        raise UserError(f"{key}: every class is {'abnormal' if abnormal.all() else 'normal'}; it takes both")
    made = {
        split: _relabelled(split, samples, abnormal, fetched.classes) for split, samples in splits.items()
    }
    return made, replace(fetched, kind="anomaly", classes=CLASSES)


def _relabelled(split: str, samples: Samples, abnormal: np.ndarray, classes: tuple[str, ...]) -> Samples:
    labels = samples.labels
    if split in NORMAL_ONLY:
        samples = samples.take(np.flatnonzero(~abnormal[labels]))
        labels = samples.labels
    columns = {**samples.columns, "class": [classes[label] for label in labels]}
    return replace(samples, targets=abnormal[labels].astype(np.int64), columns=columns)
