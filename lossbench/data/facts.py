"""What one look at each sample finds: its hash, range and moments; of a mask the classes in it.

A look takes a block of samples, so that a set is never in memory as a whole, and never as floats.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Facts = Mapping[str, Array]
"""Name → (N, ...), index-aligned with the samples."""

LARGE = 2**16
"""Bytes from which on a sample is counted by a histogram: one pass, exact, and no copy in floats."""
FLOATS_AT_ONCE = 2**20
"""Numbers that are held in float64 at a time."""
VALUES = np.arange(256)


def content_hashes(arrays: Array) -> list[str]:
    """SHA-256 of each entry along the first axis: shape, type and values."""
    head = hashlib.sha256(f"{arrays.shape[1:]} {arrays.dtype}".encode())
    found = []
    for one in arrays:
        digest = head.copy()
        digest.update(np.ascontiguousarray(one).data)
        found.append(digest.hexdigest())
    return found


def input_facts(block: Array) -> Facts:
    """Look at inputs (n, *shape).

    Returns:
        sha256, minimum, maximum, mean, std, each (n,); of images (n, C, ...) also channel_mean and
        channel_variance, (n, C). Moments are float64, in the units stored.

    """
    count, channels = len(block), block.shape[1] if block.ndim > 3 else 1
    planes = block.reshape(count, channels, math.prod(block.shape[1:]) // channels)
    large = block.dtype == np.uint8 and planes[:1].size >= LARGE
    found = _by_histogram(planes) if large else _by_floats(planes)
    return {"sha256": np.array(content_hashes(block), object), **found}


def _by_histogram(planes: Array) -> Facts:
    counts = np.array([[histogram(plane) for plane in one] for one in planes])
    whole = counts.sum(axis=1)
    (mean, variance), (of_channel, spread) = _moments_of(whole), _moments_of(counts)
    return {
        "minimum": (whole > 0).argmax(axis=1),
        "maximum": 255 - (whole[:, ::-1] > 0).argmax(axis=1),
        "mean": mean,
        "std": np.sqrt(variance),
        "channel_mean": of_channel,
        "channel_variance": spread,
    }


def histogram(values: Array) -> npt.NDArray[np.int64]:
    """Count bytes: (256,) from contiguous uint8 of any shape."""
    # NumPy's bincount would widen the bytes to eight times their size first.
    picture = Image.fromarray(values.reshape(1, -1))
    return np.array(picture.histogram(), np.int64)


def _moments_of(counts: Array) -> tuple[Floats, Floats]:
    """Mean and variance of values that were counted, (..., 256) → (...)."""
    size = counts.sum(axis=-1)
    mean = (counts @ VALUES) / size
    away = np.square(VALUES - mean[..., None])
    return mean, (counts * away).sum(axis=-1) / size


def _by_floats(planes: Array) -> Facts:
    flat = planes.reshape(len(planes), math.prod(planes.shape[1:]))
    mean = flat.mean(axis=1, dtype=np.float64)
    of_channel = planes.mean(axis=2, dtype=np.float64)
    return {
        "minimum": flat.min(axis=1),
        "maximum": flat.max(axis=1),
        "mean": mean,
        "std": np.sqrt(_variances(flat, mean)),
        "channel_mean": of_channel,
        "channel_variance": _variances(
            planes.reshape(of_channel.size, planes.shape[2]), of_channel.reshape(-1)
        ).reshape(of_channel.shape),
    }


def _variances(rows: Array, means: Floats) -> Floats:
    """Variance of each row, in two passes as NumPy's, some columns at a time."""
    total = np.zeros(len(rows))
    step = max(1, FLOATS_AT_ONCE // max(1, len(rows)))
    for start in range(0, rows.shape[1], step):
        away = rows[:, start : start + step] - means[:, None]
        total += np.square(away, out=away).sum(axis=1)
    total /= rows.shape[1]
    return total


def pooled_moments(means: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of samples of one size together, (N, C) → (C,): nothing cancels out."""
    mean = means.mean(axis=0)
    return mean, variances.mean(axis=0) + np.square(means - mean).mean(axis=0)


def mask_facts(block: Array, classes: int, ignore_index: int | None) -> Facts:
    """Look at masks (n, *spatial) of class numbers.

    Returns:
        sha256; mask_values, those present as text; stray, positions whose value is no class; foreground, the
        share of positions not of class 0, each (n,); and counts (n, classes), positions per class.

    """
    ignored = -1 if ignore_index is None else ignore_index
    texts, stray, foreground, counts = [], [], [], []
    for mask in block:
        values, number = _counted(mask)
        known = values != ignored
        texts.append(",".join(map(str, values)))
        stray.append(number[known & (values >= classes)].sum())
        foreground.append(number[known & (values != 0)].sum() / mask.size)
        inside = (values >= 0) & (values < classes)
        counts.append(np.bincount(values[inside], number[inside], classes).astype(np.int64))
    return {
        "sha256": np.array(content_hashes(block), object),
        "mask_values": np.array(texts, object),
        "stray": np.array(stray, np.int64),
        "foreground": np.array(foreground, np.float64),
        "counts": np.array(counts, np.int64).reshape(-1, classes),
    }


def _counted(mask: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Values present, ascending, and how often each occurs."""
    if mask.dtype == np.uint8:
        counts = histogram(np.ascontiguousarray(mask))
        values = np.flatnonzero(counts)
        return values, counts[values]
    values, number = np.unique(mask, return_counts=True)
    return values.astype(np.int64), number.astype(np.int64)


def weight_facts(block: Array) -> Facts:
    """Look at weights (n,) or (n, *spatial).

    Returns:
        sha256; and total, the sum of each sample's, both (n,).

    """
    return {
        "sha256": np.array(content_hashes(block), object),
        "total": block.reshape(len(block), -1).sum(axis=1, dtype=np.float64),
    }
