"""Logs one model per arm: of the replicate with the median validation score."""

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbench.params import Params
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.ship import Shelf

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

REQUIREMENTS = (
    "mlflow",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "pydantic",
    "ruamel.yaml",
    "safetensors",
    "tqdm",
)
"""What a served replicate imports; `lossbench` itself travels in the model."""
PACKAGE = Path(__file__).resolve().parents[1]
EXAMPLES = 2


def median_seed(outs: ArmOuts, monitor: str) -> int:
    """Find the replicate whose kept weights have the median validation score (the lower of two).

    Args:
        outs: the arm's.
        monitor: the validation metric; a diverged replicate counts as the worst.

    """
    epochs = {int(seed): int(epoch) for seed, epoch in outs.described["epochs"].items()}

    def score(seed: int) -> float:
        value = outs.history[seed].get((epochs[seed], f"validation/{monitor}"), float("nan"))
        return value if value == value else float("-inf")  # noqa: PLR0124 (NaN)

    ranked = sorted(epochs, key=lambda seed: (score(seed), seed))
    return ranked[(len(ranked) - 1) // 2]


def log_model(shelf: Shelf, run_id: str, params: Params, outs: ArmOuts) -> str:
    """Log the arm's median replicate as an MLflow model and return its id.

    A half-written model of an earlier, interrupted call is deleted first.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    from lossbench.tasks import task_class

    client = shelf.client
    for old in client.search_logged_models([shelf.id], filter_string=f"source_run_id = '{run_id}'"):
        client.delete_logged_model(old.model_id)
    task = task_class(params.experiments[outs.experiment].task.name)
    seed = median_seed(outs, task.monitor)
    logged = client.create_logged_model(
        shelf.id,
        name=outs.arm,
        source_run_id=run_id,
        tags={"seed": str(seed), "arm": outs.arm},
        model_type="lossbench",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _save(folder, outs, seed, Model(run_id=run_id, model_id=logged.model_id))
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    return str(logged.model_id)


def _save(folder: Path, outs: ArmOuts, seed: int, model: Any) -> None:
    """Save weights, arm.json and dataset.json beside the code that loads them: nothing is pickled."""
    import mlflow.pyfunc

    data = outs.root / "data" / outs.described["dataset"]
    example = np.load(data / "test" / "inputs.npy", mmap_mode="r")[:EXAMPLES].copy()
    parts = folder.with_name("replicate")
    parts.mkdir()
    shutil.copyfile(outs.folder / f"seed-{seed}.safetensors", parts / "weights.safetensors")
    shutil.copyfile(outs.folder / "arm.json", parts / "arm.json")
    shutil.copyfile(data / "dataset.json", parts / "dataset.json")
    mlflow.pyfunc.save_model(
        folder,
        mlflow_model=model,
        loader_module="lossbench.tracking.serving",
        data_path=str(parts),
        code_paths=[str(PACKAGE)],
        signature=_signature(example, data),
        input_example=example,
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        metadata={"classes": json.loads((data / "dataset.json").read_bytes())["classes"], "seed": seed},
    )


def _signature(example: Any, data: Path) -> "ModelSignature":
    """Say what goes in (stored inputs) and what comes out; sizes but the batch's are fixed."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    info = json.loads((data / "dataset.json").read_bytes())
    spatial = tuple(info["target_shape"])
    outputs = [
        TensorSpec(np.dtype("int64"), (-1, *spatial), "prediction"),
        TensorSpec(np.dtype("float32"), (-1, -1, *spatial), "outputs"),
    ]
    return ModelSignature(Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]), Schema(outputs))
