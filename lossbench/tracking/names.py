"""Names in MLflow."""

from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.params import Params
from lossbench.tracking import artifacts
from lossbench.tracking.identity import study_name
from lossbench.tracking.server import RefusedError, tracking_uri
from lossbench.tracking.ship import Shelf

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

    Raises:
        RefusedError: its files cannot be written; the message says what helps.

    """
    name, uri = experiment_name(params, root, experiment), tracking_uri(root)
    local = artifacts.folder(uri)
    shelf = Shelf(client, name, None if local is None else (local / name).as_uri())
    problem = artifacts.unusable(name, shelf.location, uri)
    if problem is not None:
        raise RefusedError(problem)
    return shelf
