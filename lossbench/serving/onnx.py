"""`lossbench export`: a replicate as ONNX, in place only after it gave the same outputs as torch."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lossbench.data.dataset import full_scale
from lossbench.errors import GateError, UserError
from lossbench.identity import part_name
from lossbench.serving.replicate import ReplicateModel
from lossbench.tasks.base import Task

TOLERANCE = 1e-4
BATCHES = (1, 2, 5)
"""Sizes that the graph is tried with."""


class _Whole(nn.Module):
    """Stored inputs → raw outputs: normalisation and network."""

    def __init__(self, task: Task, network: nn.Module) -> None:
        super().__init__()
        self.task, self.network = task, network

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, *input_shape) as stored → (N, outputs, *spatial) float32."""
        outputs: Tensor = self.network(self.task.encode_inputs(inputs)).float()
        return outputs


def trial_inputs(model: ReplicateModel, root: Path) -> npt.NDArray[Any]:
    """Test samples of the model's dataset; random ones of the same type where the data are not here."""
    file = root / "data" / str(model.arm["dataset"]) / "test" / "inputs.npy"
    if file.exists():
        found = np.array(np.load(file, mmap_mode="r")[: max(BATCHES)])
        if found.shape[1:] == model.info.input_shape:
            return found
    random, shape = np.random.default_rng(0), (max(BATCHES), *model.info.input_shape)
    if model.info.kind == "tokens":
        return random.integers(0, len(model.info.classes), shape, dtype=np.int64)
    if model.info.dtype == "float32":
        return random.random(shape, dtype=np.float32)
    return random.integers(0, full_scale(model.info.dtype) + 1, shape, dtype=np.dtype(model.info.dtype))


def export(model: ReplicateModel, samples: npt.NDArray[Any], out: Path) -> float:
    """Write ``out``; input ``inputs`` (N, *input_shape) as stored, output ``outputs`` (N, outputs, *spatial).

    Metadata: arm, task, classes (JSON), temperature; probabilities are softmax(outputs / temperature).

    Args:
        model: the replicate.
        samples: stored inputs that both are compared on.
        out: the file; it appears whole, after the comparison, or not at all.

    Returns:
        the largest difference of an output between ONNX Runtime and torch.

    Raises:
        UserError: the file cannot be written.
        GateError: outputs differ by more than 1e-4, relative to those beyond 1.

    """
    part = out.with_name(f".{part_name(out.name)}")
    try:
        part.write_bytes(_graph(model, samples))
        worst = _compare(model, samples, part)
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    return worst


def _graph(model: ReplicateModel, samples: npt.NDArray[Any]) -> bytes:
    whole = _Whole(model.task, model.predictor.model).eval()
    inputs = torch.from_numpy(np.array(samples[:2]))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            whole,
            (inputs,),
            dynamo=True,
            input_names=["inputs"],
            output_names=["outputs"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise GateError("torch gave no ONNX program")
    proto = program.model_proto
    facts = {
        "arm": str(model.arm["arm"]),
        "task": str(model.arm["task"]),
        "classes": json.dumps(list(model.info.classes), ensure_ascii=False),
        "temperature": repr(model.link.temperature),
    }
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    written: bytes = proto.SerializeToString()
    return written


def _compare(model: ReplicateModel, samples: npt.NDArray[Any], file: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for size in BATCHES:
        inputs = np.array(np.resize(samples, (size, *samples.shape[1:])))
        (found,) = session.run(["outputs"], {"inputs": inputs})
        with torch.no_grad():
            expected = torch.cat([part for _, _, part in model.predictor.batches(inputs)]).numpy()
        difference = np.abs(found - expected)
        off = difference / np.maximum(1.0, np.abs(expected))
        if not off.max() <= TOLERANCE:  # NaN counts as off
            raise GateError(f"the ONNX graph's outputs are off by {off.max():.2g}; allowed: {TOLERANCE:g}")
        worst = max(worst, float(difference.max()))
    return worst
