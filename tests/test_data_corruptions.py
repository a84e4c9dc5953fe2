"""Label noise and imbalance: as much as asked for, in the training split alone, and on record."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossbench.data.corruptions import flip_labels, long_tail
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.samples import Samples
from lossbench.errors import UserError
from tests.data_cases import dataset


def labelled(per_class: int, classes: int) -> Samples:
    labels = np.tile(np.arange(classes), per_class)
    return Samples(np.zeros((len(labels), 1, 2, 2), np.uint8), labels, [str(i) for i in range(len(labels))])


@given(st.integers(2, 12), st.floats(1, 200), st.integers(0, 100))
def test_the_long_tail_is_exponential(classes: int, factor: float, seed: int) -> None:
    kept = long_tail(labelled(200, classes), classes, factor, np.random.Generator(np.random.PCG64(seed)))
    counts = np.bincount(kept.targets, minlength=classes)
    wanted = [max(1, round(200 * factor ** (-c / (classes - 1)))) for c in range(classes)]
    assert counts.tolist() == wanted


@given(st.integers(2, 12), st.integers(0, 100))
def test_noise_never_leaves_a_flipped_label_right(classes: int, seed: int) -> None:
    before = labelled(30, classes)
    names = tuple(map(str, range(classes)))
    after = flip_labels(before, names, 0.999, np.random.Generator(np.random.PCG64(seed)))
    assert (after.targets != before.targets).mean() > 0.9
    assert after.targets.min() >= 0
    assert after.targets.max() < classes


def test_the_rate_of_noise_is_the_share_of_wrong_labels() -> None:
    before = labelled(1000, 10)
    after = flip_labels(before, tuple("0123456789"), 0.3, np.random.Generator(np.random.PCG64(0)))
    wrong = after.targets != before.targets
    assert abs(wrong.mean() - 0.3) < 0.02
    shift = (after.targets - before.targets)[wrong] % 10
    assert np.bincount(shift, minlength=10)[1:].min() > 250  # spread evenly over the nine other classes


def test_corruption_is_on_record_and_touches_the_training_split_alone(tmp_path: Path) -> None:
    corruption = {"label_noise": 0.4, "imbalance": 5, "seed": 3}
    fetch(dataset("digits", corruption=corruption), "noisy", tmp_path / "noisy")
    fetch(dataset("digits"), "clean", tmp_path / "clean")
    noisy = pd.read_parquet(tmp_path / "noisy/manifest.parquet")
    train = noisy[noisy["split"] == "train"]
    assert abs((train["label"] != train["label_clean"]).mean() - 0.4) < 0.06
    assert noisy.loc[noisy["split"] != "train", "label_clean"].isna().all()
    for split in ("validation", "test", "reference"):
        for file in ("inputs.npy", "targets.npy"):
            one, other = (tmp_path / name / split / file for name in ("noisy", "clean"))
            assert one.read_bytes() == other.read_bytes()
    provenance = json.loads((tmp_path / "noisy/provenance.json").read_text(encoding="utf-8"))
    assert provenance["corruption"] == corruption
    assert len(Dataset.open(tmp_path / "noisy").split("train")) == len(train)


def test_masks_cannot_be_given_label_noise(tmp_path: Path) -> None:
    scenes = dataset("digit_scenes", train=4, corruption={"label_noise": 0.1})
    with pytest.raises(
        UserError, match=r"datasets\.mine\.corruption: label noise and imbalance need one label"
    ):
        fetch(scenes, "mine", tmp_path / "mine")
