"""Scores from runs that somebody recorded in MLflow, which is imported here alone."""

import math
from typing import Any

from lossbench.errors import UserError, nearest
from lossbench.verdicts.table import Row, name_of

PLACES = ("params", "tags")


def read_runs(uri: str, experiment: str | None, loss: str, seed: str, metric: str | None) -> list[Row]:
    """Read one score per finished run.

    Args:
        uri: of the tracking server or store.
        experiment: its name.
        loss: where a run says its loss: ``tags.NAME`` or ``params.NAME``.
        seed: where it says its seed.
        metric: name of the deciding metric.

    Raises:
        UserError: if MLflow is not installed or does not answer, or no run has all three.

    """
    if not experiment or not metric:
        raise UserError("--mlflow needs --experiment (its name) and --metric (the one that decides)")
    places = [_place(loss, "--loss"), _place(seed, "--seed")]
    runs = _runs(uri, experiment)
    kept = [run for run in runs if all(_said(run, *place) is not None for place in places)]
    scored = [run for run in kept if metric in run.data.metrics]
    if not scored:
        there = sorted({name for run in runs for name in run.data.metrics})
        raise UserError(
            f"MLflow experiment '{experiment}': none of {len(runs)} runs has {loss}, {seed} and metric "
            f"'{metric}' "
            f"({len(kept)} have the first two); metrics there: {nearest(metric, there) if there else 'none'}"
        )
    rows = [_row(run, places, metric) for run in scored]
    rows += [_row(run, places, metric) for run in kept if _diverged(run, metric)]
    return rows


def _runs(uri: str, experiment: str) -> list[Any]:
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise UserError("--mlflow needs the package mlflow: pip install mlflow-skinny") from None
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = [one.name for one in client.search_experiments()]
            raise UserError(f"MLflow at {uri} has no experiment '{experiment}'; {nearest(experiment, names)}")
        runs: list[Any] = []
        token = None
        while True:
            page = client.search_runs([found.experiment_id], max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs
    except MlflowException as error:
        raise UserError(f"MLflow at {uri}: {' '.join(str(error).split())}") from None


def _place(where: str, option: str) -> tuple[str, str]:
    kind, _, name = where.partition(".")
    if kind not in PLACES or not name:
        raise UserError(f"{option} is '{where}'; say tags.NAME or params.NAME")
    return kind, name


def _said(run: Any, kind: str, name: str) -> str | None:
    value = getattr(run.data, kind).get(name)
    return None if value is None else str(value)


def _row(run: Any, places: list[tuple[str, str]], metric: str) -> Row:
    where = f"run {run.info.run_id}"
    loss, seed = (name_of(_said(run, *place), f"{where}, '{'.'.join(place)}'") for place in places)
    score = run.data.metrics.get(metric, math.nan)
    return Row(where, loss, seed, float(score), metric, "", "")


def _diverged(run: Any, metric: str) -> bool:
    """Whether a run failed without the score: it counts, and the caller has to say as what."""
    return run.info.status == "FAILED" and metric not in run.data.metrics
