"""What MLflow reads of the environment; needs nothing but Python, as `lossbench verdict --mlflow` does."""

import os

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""How long one call may take; what the user sets in the environment wins."""
SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
HIJACKERS = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Variables (`mlflow run` sets them) that would make MLflow write into a run that is not ours."""


def prepare_environment() -> None:
    """Set MLflow's environment; must come before its import."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.update(SILENT)
    for name in HIJACKERS:
        os.environ.pop(name, None)
