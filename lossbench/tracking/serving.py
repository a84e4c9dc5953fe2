"""The model MLflow serves, as code: nothing is unpickled, weights come from safetensors.

MLflow copies this file into the model and runs it on loading ("models from code"); the package
`lossbench` travels beside it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from safetensors.torch import load_file

from lossbench.data.dataset import DatasetInfo
from lossbench.params import Compute, Network
from lossbench.tasks import task_class
from lossbench.training import predict

Array = npt.NDArray[Any]


class ReplicateModel(PythonModel):  # type: ignore[misc]  # MLflow ships no types
    """One replicate: stored inputs in, outputs and decisions out."""

    def load_context(self, context: Any) -> None:
        """Read what was logged: arm.json, dataset.json and the weights."""
        files = {name: Path(path) for name, path in context.artifacts.items()}
        described = json.loads(files["arm"].read_bytes())
        info = DatasetInfo.read(files["dataset"].parent)
        self._classes = np.asarray(info.classes)
        self._kind = info.kind
        self._task = task_class(described["task"])(info, described.get("task_options"))
        self._network = Network.model_validate(described["model"])
        self._state = load_file(files["weights"])

    def predict(
        self, context: Any, model_input: Any, params: dict[str, Any] | None = None
    ) -> dict[str, Array]:
        """Predict for inputs as stored in data/<dataset>.

        Args:
            context: MLflow's.
            model_input: (N, *input_shape).
            params: none are known.

        Returns:
            ``outputs`` (N, C, *spatial), the raw outputs; ``prediction`` (N, *spatial), class numbers; for
            classification also ``class`` (N,), their names.

        """
        outputs = predict(self._task, self._network, self._state, np.asarray(model_input), Compute()).numpy()
        decided = self._task.decide(outputs)
        answer = {"prediction": decided, "outputs": outputs}
        return {**answer, "class": self._classes[decided]} if self._kind == "label" else answer


set_model(ReplicateModel())
