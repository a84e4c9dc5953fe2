"""The manifest: one row per sample, what validation looks at and MLflow logs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lossbench.data.samples import Array, Fetched, Samples, content_hashes


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
    flat = samples.inputs.reshape(len(samples), -1)
    height, width = (samples.inputs.shape[-2:]) if samples.inputs.ndim > 3 else (1, flat.shape[1])
    columns: dict[str, Any] = {
        "split": split,
        "index": np.arange(len(samples)),
        "label": _labels(samples.targets, fetched),
        "width": width,
        "height": height,
        "channels": samples.inputs.shape[1] if samples.inputs.ndim > 3 else 1,
        "minimum": _wide(flat.min(axis=1)),
        "maximum": _wide(flat.max(axis=1)),
        "mean": flat.mean(axis=1, dtype=np.float64),
        "std": flat.std(axis=1, dtype=np.float64),
        "sha256": samples.hashes(),
        "target_sha256": content_hashes(samples.targets),
        "source": list(samples.names),
    }
    if fetched.kind == "mask":
        columns |= _mask_columns(samples.targets, fetched)
    if fetched.kind == "tokens":
        columns |= _token_columns(samples, fetched)
    if fetched.kind == "boxes":
        columns |= _box_columns(samples, fetched)
    columns |= {key: list(values) for key, values in samples.columns.items()}
    return pd.DataFrame(columns)


def _wide(values: Array) -> Array:
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)


def _labels(targets: Array, fetched: Fetched) -> Any:
    if fetched.kind in ("label", "anomaly"):
        return [fetched.classes[label] if 0 <= label < len(fetched.classes) else None for label in targets]
    if fetched.kind == "multilabel":
        return ["|".join(np.array(fetched.classes)[row > 0]) for row in targets]
    return None


def _mask_columns(targets: Array, fetched: Fetched) -> dict[str, Any]:
    known = targets != (-1 if fetched.ignore_index is None else fetched.ignore_index)
    stray = (targets >= len(fetched.classes)) & known
    return {
        "mask_width": targets.shape[2],
        "mask_height": targets.shape[1],
        "mask_values": [",".join(map(str, np.unique(mask))) for mask in targets],
        "stray": stray.reshape(len(targets), -1).sum(axis=1),
        "foreground": ((targets != 0) & known).reshape(len(targets), -1).mean(axis=1),
    }


def _token_columns(samples: Samples, fetched: Fetched) -> dict[str, Any]:
    both = np.stack([samples.inputs, samples.targets], axis=1)
    stray = (both < 0) | (both >= len(fetched.classes))
    return {"stray": stray.sum(axis=(1, 2)), "unknown": (samples.targets == 0).mean(axis=1)}


def _box_columns(samples: Samples, fetched: Fetched) -> dict[str, Any]:
    height, width = samples.inputs.shape[-2:]
    x0, y0, x1, y1, label = np.moveaxis(samples.targets, -1, 0)
    inside = (x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0) & (x1 <= width) & (y1 <= height)
    there = label != -1
    stray = there & ~(inside & np.isin(label, range(len(fetched.classes))))
    return {"boxes": there.sum(axis=1), "stray_boxes": stray.sum(axis=1), "dropped_boxes": 0}
