"""What hangs on a parent run besides numbers: the manifest as dataset, the charts and the report's text."""

import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.tracking.outs import ArmOuts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput


def log_dataset(client: "MlflowClient", run_id: str, outs: ArmOuts) -> None:
    """Log the dataset's manifest, a row per sample with its SHA-256, as the run's input."""
    name = str(outs.described["dataset"])
    if (outs.root / "data" / name / "manifest.parquet").exists():
        client.log_inputs(run_id, [_dataset_input(outs.root, name)])


@cache
def _dataset_input(root: Path, name: str) -> "DatasetInput":
    import pandas as pd
    from mlflow.data import from_pandas
    from mlflow.entities import DatasetInput, InputTag

    path = root / "data" / name / "manifest.parquet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it suggests doubles for whole numbers without gaps
        dataset = from_pandas(pd.read_parquet(path), source=f"data/{name}/manifest.parquet", name=name)
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])
