"""Predictions of a finished replicate are those it was validated with."""

import numpy as np
import pytest
import torch
from training_cases import labels_dataset, masks_dataset, setting

from lossbench.errors import UserError
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.prediction import predict, predicting


@pytest.mark.parametrize("make", [labels_dataset, masks_dataset])
def test_predictions_give_the_last_validation_score_again(make, tmp_path):
    data = make(tmp_path)
    made = setting(data, epochs=3)
    replicate = train_replicate(made, Member(0))
    split = data.split("validation")
    with predicting(made.task, made.network, replicate.state, split.inputs, made.compute) as predictor:
        digests, finite = predictor.digests(split)
    score = made.task.validate(torch.from_numpy(digests), torch.from_numpy(np.array(split.targets)).long())
    assert finite
    assert score[made.task.monitor] == pytest.approx(replicate.history[-1].value, abs=1e-6)


def test_batches_change_nothing(tmp_path, monkeypatch):
    data = labels_dataset(tmp_path)
    made = setting(data)
    state = train_replicate(made, Member(0)).state
    inputs = data.split("validation").inputs
    whole = predict(made.task, made.network, state, inputs, made.compute)
    monkeypatch.setattr("lossbench.training.portions.SAMPLES_AT_ONCE", 7)
    parts = predict(made.task, made.network, state, inputs, made.compute)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused(tmp_path, split):
    data = labels_dataset(tmp_path)
    for name in ("inputs", "targets"):
        array = np.load(tmp_path / split / f"{name}.npy")
        np.save(tmp_path / split / f"{name}.npy", array[:0])
    with pytest.raises(UserError, match=f"split '{split}' is empty"):
        setting(data)
