"""Loads a logged replicate for MLflow: weights from safetensors, code from this package, no pickle.

MLflow finds :func:`_load_pyfunc` by its name; the package `lossbench` travels in the model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from lossbench.data.dataset import DatasetInfo
from lossbench.params import Compute, Network
from lossbench.tasks import task_class
from lossbench.training.prediction import predicting

Array = npt.NDArray[Any]


class ReplicateModel:
    """One replicate: inputs as stored go in, outputs and decisions come out."""

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / "arm.json").read_bytes())
        info = DatasetInfo.read(folder)
        self._classes = np.asarray(info.classes)
        self._named = info.kind == "label"
        self._task = task_class(described["task"])(info, described.get("task_options"))
        self._network = Network.model_validate(described["model"])
        self._state = load_file(folder / "weights.safetensors")

    def predict(self, model_input: Array, params: dict[str, Any] | None = None) -> dict[str, Array]:
        """Predict.

        Args:
            model_input: (N, *input_shape), as stored in data/<dataset>.
            params: none are known.

        Returns:
            ``outputs`` (N, C, *spatial), the raw outputs; ``prediction`` (N, *spatial), class numbers; for
            classification also ``class`` (N,), their names.

        """
        inputs = np.asarray(model_input)
        unknown = np.zeros((len(inputs), *self._task.info.target_shape), dtype=np.int64)
        with predicting(self._task, self._network, self._state, inputs, Compute()) as predictor:
            found = [(encoded, out) for _, encoded, out in predictor.batches(inputs)]
            encoded, raw = (torch.cat(parts) for parts in zip(*found, strict=True))
            targets = self._task.encode_targets(torch.from_numpy(unknown))
            digests = self._task.digest(raw, targets, encoded).numpy()
        outputs, decided = raw.numpy(), self._task.decide(digests)
        answer = {"prediction": decided, "outputs": outputs}
        return {**answer, "class": self._classes[decided]} if self._named else answer


def _load_pyfunc(data_path: str) -> ReplicateModel:
    return ReplicateModel(Path(data_path))
