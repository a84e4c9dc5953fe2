"""Loads a replicate that MLflow logged; a copy of this file travels in every model.

The package `lossbench` does not: one archive of it lies beside all models of an MLflow experiment, under the
hash of its content (``code/lossbench-<hash>.zip``), and each model names its own. It is looked for in the
model itself, in the folders above it (a store on disk), and in the store that the model came from. Nothing is
unpickled: weights are safetensors, all else is JSON. Only the standard library may be imported at the top.
"""

import atexit
import json
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REFERENCE = "code.json"
"""In the model's data: name of the archive, and the model's id in MLflow."""


def _load_pyfunc(data_path: str) -> Any:
    """Load the replicate in a folder; what MLflow calls, by this name."""
    if "lossbench" not in sys.modules:
        _provide(Path(data_path))
    from lossbench.serving.served import load_served

    return load_served(Path(data_path))


def _provide(data: Path) -> None:
    """Put the package that the model was logged with on Python's path."""
    reference = json.loads((data / REFERENCE).read_bytes())
    for archive in _places(data, reference):
        if archive.is_file():
            unpacked = tempfile.mkdtemp(prefix="lossbench-")
            atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
            with zipfile.ZipFile(archive) as content:
                content.extractall(unpacked)
            sys.path.insert(0, unpacked)
            return
    if find_spec("lossbench") is None:
        raise ModuleNotFoundError(
            f"the code of this model, {reference['archive']}, is not here; set MLFLOW_TRACKING_URI to the "
            f"store with model {reference['model_id']}, put it into {data}, or install lossbench",
            name="lossbench",
        )
    warnings.warn(f"{reference['archive']} is not here; the installed lossbench answers for it", stacklevel=2)


def _places(data: Path, reference: dict[str, str]) -> Iterator[Path]:
    name = reference["archive"]
    yield data / name
    for folder in data.resolve().parents:
        yield folder / "code" / name
    fetched = _fetch(name, reference["model_id"])
    if fetched is not None:
        yield fetched


def _fetch(name: str, model_id: str) -> Path | None:
    """Fetch the archive from the store that knows the model; None where there is no such store."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient()
        model = client.get_logged_model(model_id)
        location = client.get_experiment(model.experiment_id).artifact_location
        return Path(download_artifacts(artifact_uri=f"{location}/code/{name}"))
    except (MlflowException, OSError):  # another store, or none: the caller says what helps
        return None
