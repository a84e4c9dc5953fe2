"""Logs one model per arm: of the replicate with the median validation score."""

import io
import json
import shutil
import tempfile
import zipfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossbench import installed
from lossbench.params import Params
from lossbench.serving import lossbench_loader
from lossbench.serving.lossbench_loader import REFERENCE
from lossbench.tracking.experiment import MlflowExperiment
from lossbench.tracking.outs import ArmOuts

if TYPE_CHECKING:
    from mlflow import MlflowClient
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
"""What a served replicate imports; of `lossbench` itself an archive lies beside the models."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of all files in the archive: equal code gives equal bytes."""
EXAMPLES = 2
ROWS = 256
"""Inputs that are looked at together."""
PARTS = "replicate"
"""Folder of the replicate in a model's data."""


def median_seed(outs: ArmOuts, params: Params) -> int:
    """Find the replicate whose kept weights have the median validation score (the lower of two).

    The score is what chose the weights: the metric that decides, where it has a validation form. A diverged
    replicate counts as the worst.
    """
    from lossbench.tasks.base import monitored, task_class

    experiment = params.experiments[outs.experiment]
    monitor = monitored(task_class(experiment.task.name), experiment.metric).monitor
    epochs = {int(seed): int(epoch) for seed, epoch in outs.described["epochs"].items()}

    def score(seed: int) -> float:
        value = outs.history[seed].get((epochs[seed], f"validation/{monitor}"), float("nan"))
        return value if value == value else float("-inf")  # noqa: PLR0124 (NaN)

    ranked = sorted(epochs, key=lambda seed: (score(seed), seed))
    return ranked[(len(ranked) - 1) // 2]


def log_model(shelf: MlflowExperiment, run_id: str, params: Params, outs: ArmOuts) -> str:
    """Log the arm's median replicate as an MLflow model and return its id.

    A half-written model of an earlier, interrupted call is deleted first.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    client = shelf.client
    for old in client.search_logged_models([shelf.id], filter_string=f"source_run_id = '{run_id}'"):
        client.delete_logged_model(old.model_id)
    seed = median_seed(outs, params)
    logged = client.create_logged_model(
        shelf.id,
        name=outs.arm,
        source_run_id=run_id,
        tags={"seed": str(seed), "arm": outs.arm},
        model_type="lossbench",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder, archive = Path(scratch) / "model", _archive(Path(scratch))
        _save(folder, params, outs, seed, Model(run_id=run_id, model_id=logged.model_id), archive.name)
        _keep_code(shelf.location, archive)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    return str(logged.model_id)


def carry_code(client: "MlflowClient", model_id: str) -> None:
    """Put the code that a model was logged with into the model itself, which can then be copied anywhere.

    Args:
        client: of the store.
        model_id: of a model that :func:`log_model` logged; one that has its code is left alone.

    """
    from lossbench.tracking.server import files_at

    logged = client.get_logged_model(model_id)
    beside = client.get_experiment(logged.experiment_id).artifact_location
    with tempfile.TemporaryDirectory() as scratch:
        stored = files_at(logged.artifact_location)
        there = {Path(one.path).name for one in stored.list_artifacts(f"data/{PARTS}")}
        if REFERENCE not in there:  # logged before archives were: its code is in it
            return
        reference = Path(stored.download_artifacts(f"data/{PARTS}/{REFERENCE}", scratch))
        name = json.loads(reference.read_bytes())["archive"]
        if name not in there:
            archive = files_at(beside).download_artifacts(f"code/{name}", scratch)
            stored.log_artifact(archive, f"data/{PARTS}")


def _archive(folder: Path) -> Path:
    """Write the package's archive into a folder."""
    path = folder / f"lossbench-{installed.digest()}.zip"
    path.write_bytes(_archived())
    return path


@cache
def _archived() -> bytes:
    """The package's files in an archive, made once for all models of a process."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in installed.files().items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def _keep_code(location: str, archive: Path) -> None:
    """Upload the archive beside the models of an experiment, unless it is there already."""
    from lossbench.tracking.server import files_at

    files = files_at(location)
    there = {Path(one.path).name: one.file_size for one in files.list_artifacts("code")}
    if there.get(archive.name) != archive.stat().st_size:
        files.log_artifact(str(archive), "code")


def _save(folder: Path, params: Params, outs: ArmOuts, seed: int, model: Any, archive: str) -> None:
    """Save the replicate's folder beside the file that loads it: nothing is pickled."""
    import mlflow.pyfunc

    data = outs.root / "data" / outs.described["dataset"]
    example = np.load(data / "test" / "inputs.npy", mmap_mode="r")[:EXAMPLES].copy()
    parts = folder.with_name(PARTS)
    pack_replicate(parts, params, outs, seed)
    reference = {"archive": archive, "model_id": model.model_id}
    (parts / REFERENCE).write_text(json.dumps(reference) + "\n", encoding="utf-8")
    mlflow.pyfunc.save_model(
        folder,
        mlflow_model=model,
        loader_module=Path(lossbench_loader.__file__).stem,
        data_path=str(parts),
        code_paths=[lossbench_loader.__file__],
        signature=_signature(example, parts),
        input_example=example,
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        metadata={"classes": json.loads((data / "dataset.json").read_bytes())["classes"], "seed": seed},
    )


def pack_replicate(folder: Path, params: Params, outs: ArmOuts, seed: int) -> None:
    """Write all that answering needs: weights, arm.json, dataset.json, serving.json.

    Args:
        folder: created.
        params: of the study.
        outs: the arm's.
        seed: which replicate.

    """
    import torch

    from lossbench.data.dataset import Dataset
    from lossbench.folds import fold_folder
    from lossbench.serving.link import fit_link
    from lossbench.serving.replicate import load_predictor

    name = str(outs.described["dataset"])
    fold = outs.described.get("folds", {}).get(str(seed), 0)  # each is normalised as its own was
    data = Dataset.open(fold_folder(outs.root / "data" / name, fold))
    weights = outs.folder / f"seed-{seed}.safetensors"
    task, predictor = load_predictor(outs.described, data.info, weights)
    with torch.no_grad():
        link = fit_link(task, predictor, data.split("validation"))
    folder.mkdir(parents=True)
    shutil.copyfile(weights, folder / "weights.safetensors")
    shutil.copyfile(outs.folder / "arm.json", folder / "arm.json")
    shutil.copyfile(data.folder / "dataset.json", folder / "dataset.json")
    options = params.datasets[name].model_extra or {} if name in params.datasets else {}
    seen = data.split("validation").inputs
    more = {"resize": str(options.get("resize", "stretch")), "dtype": str(seen.dtype), "span": _span(seen)}
    link.write(folder, seed=seed, **more)


def _span(inputs: Any) -> tuple[float, float] | None:
    """Least and greatest value of stored inputs, where it follows from them and not from their type.

    Images of fractions lie in 0..1, as every reader of ours writes them. A source of the user's own may store
    others: what such a model may be asked is not known.
    """
    if inputs.dtype.kind != "f":
        return None
    low, high = 0.0, 1.0
    for start in range(0, len(inputs), ROWS):
        rows = inputs[start : start + ROWS]
        if rows.min() < low or rows.max() > high:
            return None
    return low, high


def _signature(example: Any, parts: Path) -> "ModelSignature":
    """Say what goes in (stored inputs) and what an answer looks like."""
    import torch
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    from lossbench.serving.answers import answers
    from lossbench.serving.replicate import ReplicateModel

    served = ReplicateModel(parts)
    with torch.no_grad():
        (_, encoded, outputs), *_ = served.predictor.batches(example[:1])
    shown = answers(served.task, outputs.nan_to_num(0.0, 0.0, 0.0), encoded, served.link)
    inputs = Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))])
    raw = ParamSchema([ParamSpec("raw", "boolean", False)])
    return ModelSignature(inputs, infer_signature(model_output=shown).outputs, raw)
