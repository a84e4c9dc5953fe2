"""From a source to ``data/<dataset>``: read, split, damage where asked, describe, write atomically."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lossbench.data.anomaly import hold_out
from lossbench.data.corruptions import corrupt
from lossbench.data.dataset import DatasetInfo, full_scale
from lossbench.data.manifest import manifest
from lossbench.data.samples import Array, Fetched, Samples
from lossbench.data.sources.base import source
from lossbench.data.splits import position, split
from lossbench.errors import UserError
from lossbench.params import Dataset
from lossbench.written import DATA, expect_ours, half, make_room


def fetch(dataset: Dataset, name: str, out: Path) -> None:
    """Fetch a dataset into ``out``; it appears whole or not at all.

    Raises:
        UserError: for whatever is wrong with the source's files or options, and where something that the chain
            did not write stands in the way.

    """
    part = half(out)
    expect_ours(out, DATA)
    make_room(part, DATA, known=True)  # of a killed run
    fetched = source(dataset.source, f"datasets.{name}").read(dataset, f"datasets.{name}")
    splits = split(fetched.groups, dataset.splits, name)
    if dataset.subset is not None:
        splits["train"] = smallest_hashes(splits["train"], dataset.subset, dataset.splits.salt)
    if dataset.anomaly is not None:
        splits, fetched = hold_out(splits, fetched, dataset.anomaly, name)
    splits["train"] = corrupt(splits["train"], fetched, dataset.corruption, name)
    part.mkdir(parents=True)
    try:
        _write(part, splits, fetched, dataset)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"{out}: cannot write the dataset: {error.strerror or error}") from None
    make_room(out, DATA)
    part.replace(out)


def smallest_hashes(samples: Samples, count: int, salt: str) -> Samples:
    """Keep ``count`` samples chosen by content, so that a larger subset contains a smaller one."""
    places = [position(one, f"{salt}:subset") for one in samples.hashes()]
    return samples.take(np.sort(np.argsort(places, kind="stable")[:count]))


def _write(folder: Path, splits: Mapping[str, Samples], fetched: Fetched, dataset: Dataset) -> None:
    for name, samples in splits.items():
        (folder / name).mkdir()
        np.save(folder / name / "inputs.npy", np.ascontiguousarray(samples.inputs))
        np.save(folder / name / "targets.npy", np.ascontiguousarray(samples.targets))
    table = manifest(splits, fetched)
    table.to_parquet(folder / "manifest.parquet", index=False)
    info = describe(splits, fetched)
    info.write(folder)
    content = hashlib.sha256("".join(table["sha256"]).encode()).hexdigest()
    provenance = {
        **fetched.provenance,
        "source": dataset.source,
        "samples": info.sizes,
        "content_sha256": content,
        "corruption": dataset.corruption.model_dump(),
        "splits": dataset.splits.model_dump(),
    }
    text = json.dumps(provenance, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "provenance.json").write_text(text + "\n", encoding="utf-8")


def describe(splits: Mapping[str, Samples], fetched: Fetched) -> DatasetInfo:
    """Collect what tasks, models and losses must know; statistics come from the training split alone."""
    train = splits["train"]
    image = train.inputs.ndim == 4
    mean, std = channel_statistics(train.inputs) if image else ((0.0,), (1.0,))
    return DatasetInfo(
        kind=fetched.kind,
        classes=fetched.classes,
        input_shape=tuple(train.inputs.shape[1:]),
        target_shape=tuple(train.targets.shape[1:]),
        mean=mean,
        std=std,
        counts=class_counts(train.targets, fetched),
        sizes={name: len(samples) for name, samples in splits.items()},
        ignore_index=fetched.ignore_index,
        extra=dict(fetched.extra),
    )


def channel_statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of images (N, C, H, W), scaled to 0..1.

    Taken from a histogram, where values are integers: exact, and no float copy of the set.
    """
    if images.dtype.kind == "f":
        parts = [images[:, channel] for channel in range(images.shape[1])]
        return (
            tuple(round(float(one.mean(dtype=np.float64)), 9) for one in parts),
            tuple(round(max(float(one.std(dtype=np.float64)), 1e-6), 9) for one in parts),
        )
    full = full_scale(images.dtype)
    values = np.arange(full + 1) / full
    means, stds = [], []
    for channel in range(images.shape[1]):
        share = np.bincount(images[:, channel].ravel(), minlength=full + 1) / images[:, channel].size
        center = float(share @ values)
        means.append(round(center, 9))
        stds.append(round(max(float(share @ (values - center) ** 2) ** 0.5, 1e-6), 9))
    return tuple(means), tuple(stds)


def class_counts(targets: Array, fetched: Fetched) -> tuple[int, ...]:
    """Training targets per class: samples, positions, boxes or positives, as the kind has it."""
    classes = len(fetched.classes)
    if fetched.kind == "multilabel":
        return tuple(int(count) for count in (targets > 0).sum(axis=0))
    labels = targets[..., 4] if fetched.kind == "boxes" else targets
    valid = (labels >= 0) & (labels < classes)
    return tuple(
        int(count) for count in np.bincount(labels[valid].astype(np.int64).ravel(), minlength=classes)
    )
