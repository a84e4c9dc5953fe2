"""A replicate read from a folder, ready to answer: weights from safetensors, all else from JSON."""

import json
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors.torch import load_file

from lossbench.data.dataset import DatasetInfo
from lossbench.errors import UserError
from lossbench.recipe import Compute, Network
from lossbench.serving.answers import Answer, answers
from lossbench.serving.inputs import checked_inputs
from lossbench.serving.link import Link
from lossbench.tasks.base import Task, task_class
from lossbench.training.prediction import Predictor

Array = npt.NDArray[Any]


def load_predictor(arm: dict[str, Any], info: DatasetInfo, weights: Path) -> tuple[Task, Predictor]:
    """Load a replicate on the CPU.

    Args:
        arm: its ``arm.json``.
        info: of its dataset.
        weights: its safetensors file.

    """
    task = task_class(arm["task"])(info, arm.get("task_options"))
    network = Network.model_validate(arm["model"])
    sample = torch.zeros((1, *info.input_shape), dtype=torch.uint8)
    shape = tuple(task.encode_inputs(sample).shape[1:])
    with torch.random.fork_rng(devices=[]):  # building a model draws its first weights
        return task, Predictor(task, network, load_file(weights), shape, Compute())


class ReplicateModel:
    """One replicate: inputs as stored go in, names and probabilities come out.

    Args:
        folder: with ``weights.safetensors``, ``arm.json``, ``dataset.json`` and ``serving.json``.

    """

    def __init__(self, folder: Path) -> None:
        self.arm: dict[str, Any] = json.loads((folder / "arm.json").read_bytes())
        self.info = DatasetInfo.read(folder)
        self.link = Link.read(folder)
        said = json.loads((folder / "serving.json").read_bytes())
        self.resize = str(said.get("resize", "stretch"))
        self.dtype = str(said.get("dtype", "int64" if self.info.kind == "tokens" else "uint8"))
        span = said.get("span")  # not in models of a time when none was written
        self.span = None if span is None else (float(span[0]), float(span[1]))
        self.task, self.predictor = load_predictor(self.arm, self.info, folder / "weights.safetensors")

    def checked(self, given: Any) -> Array:
        """Check inputs (an array, or nested lists); see :func:`lossbench.serving.inputs.checked_inputs`."""
        return checked_inputs(given, self.info, self.dtype, self.span)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[Answer]:
        """Answer for each input.

        Args:
            model_input: (N, *input_shape), as stored in data/<dataset>.
            params: ``{"raw": True}`` adds ``outputs``, the raw ones of the network, to each answer.

        Returns:
            a dictionary per input (see docs/serving.md).

        Raises:
            UserError: inputs of another type, shape or range, or a replicate that diverged in training.

        """
        inputs = self.checked(model_input)
        if self.link.diverged:
            raise UserError("this replicate diverged in training; it has no probabilities to answer with")
        found: list[Answer] = []
        with torch.no_grad():
            for _, encoded, outputs in self.predictor.batches(inputs):
                some = answers(self.task, outputs, encoded, self.link)
                if params is not None and params.get("raw"):
                    some = [{**one, "outputs": raw.tolist()} for one, raw in zip(some, outputs, strict=True)]
                found += some
        return found
