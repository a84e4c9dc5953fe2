"""Answers from a person's files, and from the library: names, calibrated probabilities, one sentence per fault."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import in_process
from PIL import Image

from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.serving.answers import answers
from lossbench.serving.link import Link
from lossbench.serving.source import load_model
from lossbench.statistics.calibration import fit_temperature
from lossbench.tasks import task_class


@pytest.fixture(scope="module")
def model(trained_study):
    return load_model(trained_study, None, "digits-focal", 1)


def test_files_are_answered_in_order_and_a_bad_one_is_named(trained_study, tmp_path, model):
    inputs = np.array(Dataset.open(trained_study / "data" / "digits").split("test").inputs[:2])
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, image in zip(files, inputs, strict=True):
        Image.fromarray(image[0]).save(file)
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:40])
    given = [str(one) for one in (files[0], broken, files[1])]
    done = in_process(trained_study, "predict", *given, "--arm", "digits-focal", "--seed", "1", "--json")
    assert done.returncode == 2
    assert str(broken) in done.stderr
    assert "Traceback" not in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.pop("file") for row in rows] == [str(file) for file in files]
    assert rows == model.predict(inputs)


def test_images_of_another_size_and_colour_become_what_the_model_takes(tmp_path, model, capsys):
    from lossbench.serving.files import predict_files

    file = tmp_path / "photo.jpg"
    Image.new("RGB", (50, 30), "red").save(file)
    predict_files(model, [file], as_json=False)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["file", "class", "probability"]
    assert row.split()[1] in model.info.classes


def test_the_temperature_is_the_one_of_the_replicate_s_validation_split(trained_study, model):
    split = Dataset.open(trained_study / "data" / "digits").split("validation")
    with torch.no_grad():
        outputs = torch.cat([out for _, _, out in model.predictor.batches(np.asarray(split.inputs))])
    expected = fit_temperature(outputs.double().numpy(), np.asarray(split.targets))
    assert model.link.temperature == pytest.approx(expected, rel=1e-3)


def made(kind: str, name: str, input_shape=(1, 8, 8), target_shape=()):
    info = DatasetInfo(
        kind=kind, classes=("cat", "dog"), input_shape=input_shape, target_shape=target_shape, mean=(0.5,),
        std=(0.25,), counts=(4, 4), sizes={"train": 8, "validation": 4, "test": 4, "reference": 0},
        extra={"level": "char", "length": 8},
    )  # fmt: skip
    return task_class(name)(info, {})


def test_every_kind_answers_in_json_with_names():
    cases = {
        "classification": (made("label", "classification"), torch.tensor([[2.0, 0.0]])),
        "multilabel": (made("multilabel", "multilabel", target_shape=(2,)), torch.tensor([[2.0, -2.0]])),
        "segmentation": (made("mask", "segmentation", target_shape=(8, 8)), torch.randn(1, 2, 8, 8)),
        "detection": (made("boxes", "detection", target_shape=(3, 5)), torch.randn(1, 7, 2, 2) * 3),
        "anomaly": (made("anomaly", "anomaly"), torch.randn(1, 1, 8, 8)),
        "language_model": (made("tokens", "language_model", (8,), (8,)), torch.randn(1, 2, 8)),
    }
    link = Link(temperature=2.0, normal_scores=(0.0, 0.5, 1.0))
    found = {}
    for name, (task, outputs) in cases.items():
        (found[name],) = answers(task, outputs, torch.zeros(1, *task.info.input_shape), link)
        json.dumps(found[name], allow_nan=False)
    sigmoid = 1 / (1 + np.exp(-1))  # two apart, at temperature 2
    assert found["classification"]["class"] == "cat"
    assert found["classification"]["probability"] == pytest.approx(sigmoid, abs=1e-6)
    assert found["multilabel"]["labels"] == ["cat"]
    assert found["multilabel"]["probabilities"]["cat"] == pytest.approx(sigmoid, abs=1e-6)
    assert np.shape(found["segmentation"]["mask"]) == (8, 8)
    assert all(one["class"] in ("cat", "dog") for one in found["detection"]["boxes"])
    assert sum(one["probability"] for one in found["language_model"]["next"]) == pytest.approx(1, abs=1e-5)
    assert 0 <= found["anomaly"]["above_normal"] <= 1


def test_a_champion_that_is_not_there_is_one_sentence(trained_study, tmp_path, empty_store, monkeypatch):
    shutil.copy(empty_store, tmp_path / "empty.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/empty.db")
    done = in_process(trained_study, "predict", "x.png", "--model", "models:/nobody@champion")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "nobody" in done.stderr
