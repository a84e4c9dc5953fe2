"""ONNX export: same outputs as torch, stored inputs in, names and temperature with it."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import in_process

from lossbench.data.dataset import Dataset
from lossbench.errors import GateError
from lossbench.serving import onnx as exporting
from lossbench.serving.onnx import export
from lossbench.serving.source import load_model


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["digits-focal", "scenes-cross_entropy"])
def test_the_graph_gives_torch_s_outputs_for_stored_inputs_in_batches_of_any_size(
    trained_study, tmp_path, arm
):
    model = load_model(trained_study, None, arm, 1)
    inputs = np.array(Dataset.open(trained_study / "data" / arm.split("-")[0]).split("test").inputs)
    out = tmp_path / "model.onnx"
    assert export(model, inputs[:5], out) <= 1e-4
    session = onnxruntime.InferenceSession(str(out))
    for size in (1, 3, 20):
        (found,) = session.run(["outputs"], {"inputs": inputs[:size]})
        with torch.no_grad():
            expected = torch.cat([part for _, _, part in model.predictor.batches(inputs[:size])]).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    facts = {one.key: one.value for one in onnx.load(out).metadata_props}
    assert json.loads(facts["classes"]) == list(model.info.classes)
    assert float(facts["temperature"]) == model.link.temperature
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_a_graph_that_is_off_is_refused_and_the_old_file_stays(trained_study, tmp_path, monkeypatch):
    model = load_model(trained_study, None, "digits-focal", 0)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"old")
    right = exporting._graph(model, exporting.trial_inputs(model, trained_study))
    with torch.no_grad():
        next(model.predictor.model.parameters()).add_(0.1)
    monkeypatch.setattr(exporting, "_graph", lambda *_: right)
    with pytest.raises(GateError, match="off by"):
        export(model, exporting.trial_inputs(model, trained_study), out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_an_arm_that_is_not_there_is_one_sentence(trained_study, tmp_path):
    done = in_process(trained_study, "export", "--arm", "digits-focl", "--onnx", str(tmp_path / "x.onnx"))
    assert done.returncode == 2
    assert "did you mean 'digits-focal'?" in done.stderr
    assert "Traceback" not in done.stderr
