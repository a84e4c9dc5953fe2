"""What MLflow calls to load a logged replicate: it finds :func:`_load_pyfunc` by its name.

Nothing is unpickled: weights are safetensors, all else is JSON; the package `lossbench` travels in the model.
"""

from pathlib import Path

from lossbench.serving.replicate import ReplicateModel


def _load_pyfunc(data_path: str) -> ReplicateModel:
    return ReplicateModel(Path(data_path))
