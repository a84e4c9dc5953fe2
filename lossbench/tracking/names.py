"""Names in MLflow."""

from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.params import Params
from lossbench.tracking.identity import study_name
from lossbench.tracking.ship import Shelf
from lossbench.tracking.store import store_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def experiment_name(params: Params, root: Path, experiment: str) -> str:
    """Name an MLflow experiment: the Lossbench experiment's name, after its study's if it has one."""
    study = study_name(params, root)
    return f"{study}/{experiment}" if study else experiment


def study_shown(params: Params, root: Path) -> str:
    """Name the study in a tag, which cannot be empty."""
    return study_name(params, root) or "(root)"


def open_shelf(client: "MlflowClient", params: Params, root: Path, experiment: str) -> Shelf:
    """Open the MLflow experiment of a Lossbench experiment.

    Beside a local SQLite file, artifacts go to ``mlartifacts`` in the study's folder: a folder ``mlruns``,
    MLflow's default, would make a bare `mlflow ui` look there instead of into the database.
    """
    name = experiment_name(params, root, experiment)
    local = store_of(root).sqlite
    return Shelf(client, name, (root / "mlartifacts" / name).resolve().as_uri() if local else None)
