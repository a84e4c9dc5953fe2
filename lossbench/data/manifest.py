"""The manifest: one row per sample, what validation looks at and MLflow logs."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lossbench.data.kinds import KINDS
from lossbench.data.samples import Array, Fetched, Samples, content_hashes, looked_at


def manifest(splits: Mapping[str, Samples], fetched: Fetched) -> pd.DataFrame:
    """Describe every sample of every split.

    Columns: id (unique), split, index (row in that split's arrays), label (class name, or null),
    width, height, channels (of the original), minimum, maximum, mean, std (of the stored values),
    sha256 (of the decoded content), target_sha256, source (name within the source); for masks also
    mask_width, mask_height, mask_values (those present), stray (positions whose value is no class),
    foreground (share of positions not of class 0); for tokens stray likewise, and unknown (share of tokens
    to predict that are ``<unk>``, class 0); for boxes their number, stray_boxes (beyond the stored
    image, without an area or of no class) and dropped_boxes (left out by the source, as they have no area).
    Sources of a user's files add orientation (of the file, as EXIF counts), and with masks or boxes
    orientation_in_doubt; with masks white_in_doubt; with boxes clipped_boxes and repeated_boxes; where a
    range is declared clipped_values (of the original, beyond it). Where training weighs samples, or has
    soft labels, weights_sha256 and soft_sha256 (null in other splits).
    """
    parts = [_rows(name, samples, fetched) for name, samples in splits.items() if len(samples)]
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "id", table["split"] + "/" + table["source"])
    return table


def _rows(split: str, samples: Samples, fetched: Fetched) -> pd.DataFrame:
    samples, kind = looked_at(samples, fetched), KINDS[fetched.kind]
    facts, shape = samples.facts or {}, samples.inputs.shape
    height, width = shape[-2:] if len(shape) > 3 else (1, math.prod(shape[1:]))
    columns: dict[str, Any] = {
        "split": split,
        "index": np.arange(len(samples)),
        "label": kind.label(samples, fetched.classes),
        "width": width,
        "height": height,
        "channels": shape[1] if len(shape) > 3 else 1,
        "minimum": _wide(facts["minimum"]),
        "maximum": _wide(facts["maximum"]),
        "mean": facts["mean"],
        "std": facts["std"],
        "sha256": facts["sha256"],
        "target_sha256": _target_hashes(samples),
        "source": list(samples.names),
    }
    columns |= kind.columns(samples, fetched.classes)
    columns |= {key: list(values) for key, values in samples.columns.items()}
    columns |= {key: facts[key] for key in ("clipped_values",) if key in facts}
    columns |= _trained_on(samples)
    return pd.DataFrame(columns)


WEIGHTS, SOFT = "weights_sha256", "soft_sha256"
"""Columns with the hashes of what training reads beside inputs and targets, where there is any."""


def _trained_on(samples: Samples) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if samples.weight_facts is not None:
        found[WEIGHTS] = samples.weight_facts["sha256"]
    if samples.soft is not None:
        found[SOFT] = content_hashes(samples.soft)
    return found


def _wide(values: Array) -> Array:
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)


def _target_hashes(samples: Samples) -> Any:
    return content_hashes(samples.labels) if samples.mask_facts is None else samples.mask_facts["sha256"]
