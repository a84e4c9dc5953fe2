"""The manifest: one row per sample, what validation looks at and MLflow logs."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

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
    orientation_in_doubt; with boxes clipped_boxes and repeated_boxes.
    """
    parts = [_rows(name, samples, fetched) for name, samples in splits.items() if len(samples)]
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "id", table["split"] + "/" + table["source"])
    return table


def _rows(split: str, samples: Samples, fetched: Fetched) -> pd.DataFrame:
    samples = looked_at(samples, fetched)
    facts, shape = samples.facts or {}, samples.inputs.shape
    height, width = shape[-2:] if len(shape) > 3 else (1, math.prod(shape[1:]))
    columns: dict[str, Any] = {
        "split": split,
        "index": np.arange(len(samples)),
        "label": _labels(samples, fetched),
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
    if samples.mask_facts is not None:
        height, width = samples.targets.shape[1:3]
        columns |= {"mask_width": width, "mask_height": height}
        columns |= {key: samples.mask_facts[key] for key in ("mask_values", "stray", "foreground")}
    if fetched.kind == "tokens":
        columns |= _token_columns(samples, fetched)
    if fetched.kind == "boxes":
        columns |= _box_columns(samples, fetched)
    columns |= {key: list(values) for key, values in samples.columns.items()}
    return pd.DataFrame(columns)


def _wide(values: Array) -> Array:
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)


def _labels(samples: Samples, fetched: Fetched) -> Any:
    names = fetched.classes
    if fetched.kind in ("label", "anomaly"):
        return [names[label] if 0 <= label < len(names) else None for label in samples.labels]
    if fetched.kind == "multilabel":
        return ["|".join(np.array(names)[row > 0]) for row in samples.labels]
    return None


def _target_hashes(samples: Samples) -> Any:
    return content_hashes(samples.labels) if samples.mask_facts is None else samples.mask_facts["sha256"]


def _token_columns(samples: Samples, fetched: Fetched) -> dict[str, Any]:
    targets, vocabulary = samples.labels, len(fetched.classes)
    strays = [((some < 0) | (some >= vocabulary)).sum(axis=1) for some in (np.asarray(samples.inputs), targets)]
    return {"stray": sum(strays), "unknown": (targets == 0).mean(axis=1)}


def _box_columns(samples: Samples, fetched: Fetched) -> dict[str, Any]:
    height, width = samples.inputs.shape[-2:]
    x0, y0, x1, y1, label = np.moveaxis(samples.labels, -1, 0)
    inside = (x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0) & (x1 <= width) & (y1 <= height)
    there = label != -1
    stray = there & ~(inside & np.isin(label, range(len(fetched.classes))))
    return {"boxes": there.sum(axis=1), "stray_boxes": stray.sum(axis=1), "dropped_boxes": 0}
