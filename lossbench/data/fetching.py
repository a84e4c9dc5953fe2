"""From a source to ``data/<dataset>``: read, split, damage where asked, describe, write atomically."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.data.anomaly import hold_out
from lossbench.data.corruptions import corrupt
from lossbench.data.dataset import TRAINED, DatasetInfo, full_scale
from lossbench.data.facts import Facts, pooled_moments
from lossbench.data.folds import folded
from lossbench.data.kinds import KINDS
from lossbench.data.manifest import SOFT, WEIGHTS, manifest
from lossbench.data.rows import save
from lossbench.data.samples import Fetched, Samples, kept, looked_at
from lossbench.data.sources.base import source
from lossbench.data.splits import divided, position, side, split
from lossbench.errors import UserError
from lossbench.folds import fold_folder
from lossbench.params import Dataset
from lossbench.plugins import asked_to_end, is_path
from lossbench.written import DATA, SAMPLES, UNFINISHED, expect_ours, half, make_room


def fetch(dataset: Dataset, name: str, out: Path) -> None:
    """Fetch a dataset into ``out``; it appears whole or not at all.

    Raises:
        UserError: for whatever is wrong with the source's files or options, and where something that the
            chain did not write stands in the way.

    """
    expect_ours(out, DATA)
    make_room(half(out), UNFINISHED, known=True)  # of a killed run
    write(_read(dataset, f"datasets.{name}"), dataset, name, out)


def _read(dataset: Dataset, key: str) -> Fetched:
    """Have a source read; one of the user's own may raise and return anything.

    Raises:
        UserError: also for what one of the user's own did.

    """
    reader = source(dataset.source, key)
    if not is_path(dataset.source):
        return reader.read(dataset, key)
    who = f"'{key}.source' is '{dataset.source}', which"
    try:
        fetched: object = reader.read(dataset, key)
    except UserError:
        raise
    except BaseException as error:
        if asked_to_end(error):
            raise
        text = " ".join(str(error).split())[:300]
        raise UserError(f"{who} raised {type(error).__name__}: {text}".removesuffix(": ")) from error
    if not isinstance(fetched, Fetched):
        raise UserError(f"{who} returns a {type(fetched).__name__}; allowed: a Fetched")
    for group, samples in fetched.groups.items():
        for part in ("inputs", "targets"):
            if not hasattr(getattr(samples, part), "shape"):
                kind = type(getattr(samples, part)).__name__
                raise UserError(f"{who} has {part} of '{group}' in a {kind}; allowed: an array, or FromFiles")
        if len({len(samples.inputs), len(samples.targets), len(samples.names)}) > 1:
            raise UserError(
                f"{who} has {len(samples.inputs)} inputs, {len(samples.targets)} targets and "
                f"{len(samples.names)} names in '{group}'; allowed: as many of each"
            )
        if fetched.kind in ("label", "mask") and "float" in str(samples.targets.dtype):
            raise UserError(
                f"{who} has targets of {samples.targets.dtype}; allowed: whole numbers, the classes'"
            )
    return fetched


def write(fetched: Fetched, dataset: Dataset, name: str, out: Path) -> None:
    """Write what a source handed over into ``out``, divided and damaged as the dataset's block says.

    Raises:
        UserError: where a split comes out empty, and where something that the chain did not write stands in
            the way.

    """
    part = half(out)
    expect_ours(out, DATA)
    make_room(part, UNFINISHED, known=True)
    try:
        part.mkdir(parents=True)
        divisions, fetched = _divided(fetched, dataset, name, part / "decoded")
        for fold, splits in enumerate(divisions):
            folder = fold_folder(part, fold)
            folder.mkdir(exist_ok=True)
            _write(folder, splits, fetched, dataset)
        shutil.rmtree(part / "decoded", ignore_errors=True)
    except BaseException as error:
        with suppress(OSError, UserError):  # the next run says why it stays
            make_room(part, UNFINISHED, known=True)
        if isinstance(error, OSError):
            raise UserError(f"{out}: cannot write the dataset: {error.strerror or error}") from None
        raise
    make_room(out, DATA)
    part.replace(out)


def _divided(
    fetched: Fetched, dataset: Dataset, name: str, folder: Path
) -> tuple[list[Mapping[str, Samples]], Fetched]:
    """Look at all samples, divide them, and damage them where asked; what is decoded lies in ``folder``.

    Returns:
        split → samples, once for each fold; and what the source said, with what the look found.

    """
    whole, shares = divided(fetched.groups, dataset.splits)
    carved = partial(side, shares=shares, salt=dataset.splits.salt)
    if dataset.folds is not None:
        carved = partial(side, shares={}, salt="")  # a sample lies in another split of each fold
    groups = {
        group: kept(samples, fetched, folder / group, carved if group == whole else lambda _: "all")
        for group, samples in fetched.groups.items()
    }
    fetched = replace(fetched, groups=groups)
    if dataset.folds is None:
        divisions = [split(fetched.groups, dataset.splits, name)]
    else:
        divisions = folded(fetched, dataset.folds, dataset.splits.salt, name)
    done = [_finished(one, fetched, dataset, name) for one in divisions]
    return [splits for splits, _ in done], done[0][1]


def _finished(
    splits: dict[str, Samples], fetched: Fetched, dataset: Dataset, name: str
) -> tuple[Mapping[str, Samples], Fetched]:
    """Do to divided samples what the dataset's block says besides."""
    if dataset.subset is not None:
        splits["train"] = smallest_hashes(splits["train"], dataset.subset, dataset.splits.salt)
    if dataset.anomaly is not None:
        splits, fetched = hold_out(splits, fetched, dataset.anomaly, name)
    splits["train"] = corrupt(splits["train"], fetched, dataset.corruption, name)
    _refuse_weightless(splits["train"], name)
    return {split: one if split in TRAINED else _scored(one) for split, one in splits.items()}, fetched


def _scored(samples: Samples) -> Samples:
    """Leave out what only training reads, so that it is no part of what such samples are known by."""
    return replace(samples, weights=None, weight_facts=None, soft=None)


def _refuse_weightless(train: Samples, name: str) -> None:
    if train.weight_facts is not None and not train.weight_facts["total"].any():
        raise UserError(
            f"datasets.{name}: all weights of the train split's {len(train)} samples are 0; allowed: one "
            "above 0 at least"
        )


def smallest_hashes(samples: Samples, count: int, salt: str) -> Samples:
    """Keep ``count`` samples chosen by content, so that a larger subset contains a smaller one."""
    places = [position(one, f"{salt}:subset") for one in samples.hashes()]
    return samples.take(np.sort(np.argsort(places, kind="stable")[:count]))


def _write(folder: Path, splits: Mapping[str, Samples], fetched: Fetched, dataset: Dataset) -> None:
    for name, samples in splits.items():
        (folder / name).mkdir()
        save(samples.inputs, folder / name / "inputs.npy")
        save(samples.targets, folder / name / "targets.npy")
        if samples.weights is not None:
            save(samples.weights, folder / name / "weights.npy")
        if samples.soft is not None:
            save(samples.soft, folder / name / "soft.npy")
    table = manifest(splits, fetched)
    table.to_parquet(folder / "manifest.parquet", index=False)
    info = describe(splits, fetched)
    info.write(folder)
    content = hashlib.sha256("".join(table["sha256"]).encode()).hexdigest()
    provenance = {
        **fetched.provenance,
        **_clipped(splits),
        "source": dataset.source,
        "samples": info.sizes,
        "content_sha256": content,
        SAMPLES: samples_hash(table),
        "corruption": dataset.corruption.model_dump(),
        "splits": dataset.splits.model_dump(),
    }
    text = json.dumps(provenance, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "provenance.json").write_text(text + "\n", encoding="utf-8")


def samples_hash(table: Any) -> str:
    """SHA-256 over all that training and scoring read of samples: inputs and targets, in their order.

    And over weights and soft labels, where there are any.

    Where they came from and what they are called is no part of it, nor what retraining keeps aside: the same
    arrays are the same data, whoever hands them over.
    """
    read = table[table["split"] != "reference"]
    columns = ["split", "sha256", "target_sha256", *(one for one in (WEIGHTS, SOFT) if one in read)]
    rows = read[columns].fillna("").itertuples(index=False)
    return hashlib.sha256("\n".join(map(" ".join, rows)).encode()).hexdigest()


def _clipped(splits: Mapping[str, Samples]) -> dict[str, Any]:
    """Say how many values a declared range cut off, in how many images; nothing where none is declared."""
    found = [
        one.facts["clipped_values"] for one in splits.values() if one.facts and "clipped_values" in one.facts
    ]
    if not found:
        return {}
    counts = np.concatenate(found)
    return {"clipped_values": {"values": int(counts.sum()), "images": int((counts > 0).sum())}}


def describe(splits: Mapping[str, Samples], fetched: Fetched) -> DatasetInfo:
    """Collect what tasks, models and losses must know; statistics come from the training split alone."""
    train = looked_at(splits["train"], fetched)
    image = train.inputs.ndim == 4
    mean, std = channel_statistics(train.facts or {}, train.inputs.dtype) if image else ((0.0,), (1.0,))
    return DatasetInfo(
        kind=fetched.kind,
        classes=fetched.classes,
        input_shape=tuple(train.inputs.shape[1:]),
        target_shape=tuple(train.targets.shape[1:]),
        mean=mean,
        std=std,
        counts=class_counts(train, fetched),
        sizes={name: len(samples) for name, samples in splits.items()},
        ignore_index=fetched.ignore_index,
        extra=dict(fetched.extra) | _trained_on(train),
    )


def _trained_on(train: Samples) -> dict[str, Any]:
    """Say what training reads beside inputs and targets; nothing where it reads nothing else."""
    found: dict[str, Any] = {}
    if train.weights is not None:
        found["weights"] = "sample" if train.weights.ndim == 1 else "position"
    if train.soft is not None:
        found["soft"] = True
    return found


def channel_statistics(facts: Facts, dtype: "np.dtype[Any]") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, as ``Task.encode_inputs`` scales: white is 1."""
    unit = full_scale(dtype)
    mean, variance = pooled_moments(facts["channel_mean"], facts["channel_variance"])
    std = np.maximum(np.sqrt(variance) / unit, 1e-6)
    return tuple(round(float(one), 9) for one in mean / unit), tuple(round(float(one), 9) for one in std)


def class_counts(train: Samples, fetched: Fetched) -> tuple[int, ...]:
    """Training targets per class: samples, positions, boxes or positives, as the kind has it."""
    return tuple(int(count) for count in KINDS[fetched.kind].counted(train, len(fetched.classes)))
