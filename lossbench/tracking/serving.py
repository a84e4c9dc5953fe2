"""Loads a logged replicate for MLflow: weights from safetensors, code from this package, no pickle.

MLflow finds :func:`_load_pyfunc` by its name; the package `lossbench` travels in the model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from lossbench.data.dataset import DatasetInfo
from lossbench.params import Compute, Network
from lossbench.tasks import task_class
from lossbench.training import predict

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
        outputs = predict(self._task, self._network, self._state, np.asarray(model_input), Compute()).numpy()
        decided = self._task.decide(outputs)
        answer = {"prediction": decided, "outputs": outputs}
        return {**answer, "class": self._classes[decided]} if self._named else answer


def _load_pyfunc(data_path: str) -> ReplicateModel:
    return ReplicateModel(Path(data_path))
