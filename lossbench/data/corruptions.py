"""Damage done to the training split on purpose, to see which loss bears it."""

from dataclasses import replace

import numpy as np

from lossbench.data.samples import Fetched, Samples
from lossbench.errors import UserError
from lossbench.params import Corruption


def corrupt(train: Samples, fetched: Fetched, corruption: Corruption, dataset: str) -> Samples:
    """Thin out rare classes, then flip labels.

    The true label stays in the manifest column ``label_clean``.

    Raises:
        UserError: if the dataset's targets are not one label per sample.

    """
    if corruption.imbalance == 1 and not corruption.label_noise:
        return train
    if fetched.kind != "label":
        raise UserError(
            f"datasets.{dataset}.corruption: label noise and imbalance need one label per sample; "
            f"this dataset's targets are of kind '{fetched.kind}'"
        )
    if corruption.label_noise and train.soft is not None:
        raise UserError(
            f"datasets.{dataset}.corruption.label_noise: needs one label per sample; this dataset has soft "
            "labels"
        )
    rng = np.random.Generator(np.random.PCG64(corruption.seed))
    thinned = long_tail(train, len(fetched.classes), corruption.imbalance, rng)
    return flip_labels(thinned, fetched.classes, corruption.label_noise, rng)


def long_tail(samples: Samples, classes: int, factor: float, rng: np.random.Generator) -> Samples:
    """Keep n·factor^(−c/(C−1)) samples of class c: the exponential profile of Cao et al. 2019 (1906.07413).

    Args:
        samples: one label per sample.
        classes: C.
        factor: how many times rarer the last class is than the first, ≥ 1.
        rng: decides which samples stay.

    """
    if factor == 1:
        return samples
    order = rng.permutation(len(samples))
    labels = samples.labels
    largest = np.bincount(labels, minlength=classes).max()
    kept = []
    for label in range(classes):
        quota = max(1, round(largest * factor ** (-label / max(classes - 1, 1))))
        kept.append(order[labels[order] == label][:quota])
    return samples.take(np.sort(np.concatenate(kept)))


def flip_labels(samples: Samples, classes: tuple[str, ...], rate: float, rng: np.random.Generator) -> Samples:
    """Replace a share of labels by another class drawn evenly from the rest (symmetric noise).

    The rate is the share of labels that end up wrong.
    """
    flipped = rng.random(len(samples)) < rate
    shift = rng.integers(1, len(classes), len(samples))
    labels = samples.labels
    noisy = np.where(flipped, (labels + shift) % len(classes), labels)
    clean = [classes[label] for label in labels]
    columns = {**samples.columns, "label_clean": clean}
    return replace(samples, targets=noisy.astype(labels.dtype), columns=columns)
