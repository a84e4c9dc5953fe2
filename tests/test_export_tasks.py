"""Every task's model is calibrated, answers in JSON, states its signature, and becomes ONNX."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lossbench.data.dataset import DatasetInfo, Split, full_scale
from lossbench.models.base import build
from lossbench.recipe import Network
from lossbench.serving.link import fit_link
from lossbench.serving.onnx import export, trial_inputs
from lossbench.serving.replicate import ReplicateModel, load_predictor
from lossbench.tasks import task_class

pytestmark = pytest.mark.slow
SAMPLES = 12


def boxes(random):
    found = np.full((SAMPLES, 3, 5), -1, np.float32)
    found[:, 0] = [2, 2, 9, 9, 1]
    return found


CASES = {
    "classification": ("label", {"name": "simple_cnn", "width": 4}, (1, 16, 16), lambda r: r.integers(0, 2, SAMPLES)),
    "segmentation": ("mask", {"name": "unet", "width": 4, "depth": 1}, (3, 16, 16), lambda r: r.integers(0, 2, (SAMPLES, 16, 16))),
    "multilabel": ("multilabel", {"name": "simple_cnn", "width": 4}, (1, 16, 16), lambda r: r.integers(0, 2, (SAMPLES, 2))),
    "anomaly": ("anomaly", {"name": "autoencoder"}, (1, 16, 16), lambda r: np.zeros(SAMPLES, np.int64)),
    "detection": ("boxes", {"name": "grid_detector"}, (3, 32, 32), boxes),
    "language_model": ("tokens", {"name": "lstm"}, (8,), lambda r: r.integers(0, 2, (SAMPLES, 8))),
}  # fmt: skip


def packed(name, folder, dtype="uint8"):
    """A replicate's folder with fresh weights, and inputs for it."""
    kind, model, shape, targets = CASES[name]
    random = np.random.default_rng(0)
    truth, channels = targets(random), shape[0] if len(shape) == 3 else 1
    info = DatasetInfo(
        kind=kind, classes=("cat", "dog"), input_shape=shape, target_shape=truth.shape[1:], mean=(0.5,) * channels,
        std=(0.25,) * channels, counts=(4, 4), sizes={"train": 8, "validation": 12, "test": 4, "reference": 0},
        extra={"level": "char", "length": 8} if kind == "tokens" else {} if dtype == "uint8" else {"reading": {"dtype": dtype}},
    )  # fmt: skip
    info.write(folder)
    most = 2 if kind == "tokens" else full_scale(dtype) + 1
    inputs = random.integers(0, most, (SAMPLES, *shape)).astype(dtype)
    task = task_class(name)(info, {})
    network = Network.model_validate(model)
    encoded = tuple(task.encode_inputs(torch.from_numpy(inputs[:1])).shape[1:])
    torch.manual_seed(0)
    state = build(network, encoded, task.outputs).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "weights.safetensors")
    options = task.options.model_dump(mode="json")
    arm = {
        "arm": "toy",
        "task": name,
        "task_options": options,
        "model": network.model_dump(mode="json"),
        "dataset": "toy",
    }
    (folder / "arm.json").write_text(json.dumps(arm))
    task, predictor = load_predictor(arm, info, folder / "weights.safetensors")
    with torch.no_grad():
        fit_link(task, predictor, Split(inputs, truth)).write(folder)
    return inputs


@pytest.mark.parametrize("name", CASES)
def test_a_task_s_model_answers_states_its_signature_and_becomes_onnx(name, tmp_path):
    from lossbench.serving.logged import _signature

    inputs = packed(name, tmp_path)
    model = ReplicateModel(tmp_path)
    answers = model.predict(inputs)
    assert len(answers) == SAMPLES
    json.dumps(answers, allow_nan=False)
    assert model.link.temperature > 0
    assert _signature(inputs[:2], tmp_path).params is not None
    assert export(model, inputs[:5], tmp_path / "model.onnx") <= 1e-4


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("name", ["classification", "segmentation", "anomaly"])
def test_a_model_of_deep_images_becomes_onnx_and_is_tried_on_its_own_type(name, dtype, tmp_path):
    from lossbench.serving.logged import _signature

    inputs = packed(name, tmp_path, dtype)
    model = ReplicateModel(tmp_path)
    model.arm["dataset"] = "elsewhere"
    tried = trial_inputs(model, tmp_path)
    assert tried.dtype == inputs.dtype == dtype
    assert export(model, tried, tmp_path / "model.onnx") <= 1e-4
    assert _signature(inputs[:2], tmp_path).inputs.inputs[0].type == dtype
