"""Scores from runs that somebody recorded in MLflow, which is imported here alone."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lossbench.errors import UserError, nearest
from lossbench.tracking.store import prepare_environment
from lossbench.verdicts.table import Row, empty, name_of

PLACES = ("params", "tags")
SQLITE = "sqlite:///"
OVER = ("FINISHED", "FAILED", "KILLED")
MOST_NAMED = 5


def read_runs(
    uri: str, experiment: str | None, loss: str, seed: str, metric: str | None
) -> tuple[list[Row], list[str]]:
    """Read one score per run that is over: the last value of its metric.

    Args:
        uri: of the tracking server or store.
        experiment: its name.
        loss: where a run says its loss: ``tags.NAME`` or ``params.NAME``.
        seed: where it says its seed.
        metric: name of the deciding metric.

    Returns:
        The scores, and a sentence on every kind of run that is left out, or counts though it did not finish.

    Raises:
        UserError: if MLflow is not installed or does not answer, or no run has all three.

    """
    if not experiment or not metric:
        raise UserError("--mlflow needs --experiment (its name) and --metric (the one that decides)")
    places = {"loss": _place(loss, "--loss"), "seed": _place(seed, "--seed")}
    runs = _runs(uri, experiment)
    kept = [run for run in runs if None not in _key(run, list(places.values()))]
    scored = [run for run in kept if metric in run.data.metrics]
    if not scored:
        raise UserError(f"MLflow experiment '{experiment}': {_lacking(runs, kept, places, metric)}")
    ended, going = _split(scored, lambda run: run.info.status in OVER)
    if not ended:
        raise UserError(f"MLflow experiment '{experiment}': of {_count(scored)} with a score none is over")
    at = list(places.values())
    there = {_key(run, at) for run in ended}
    unscored = [run for run in kept if metric not in run.data.metrics]
    again, lost = _split(unscored, lambda run: _key(run, at) in there)  # repeated, it did not diverge
    diverged, others = _split(lost, lambda run: run.info.status == "FAILED")
    said = [
        _left_out(_split(runs, lambda run: None in _key(run, at))[0], f"without {loss} or {seed}"),
        _left_out(going, "not over yet"),
        _left_out(again, f"without {metric}, but run again"),
        _left_out(others, f"without {metric}, though not failed"),
        _cut_short(_split(ended, lambda run: run.info.status != "FINISHED")[0], metric),
    ]
    return [_row(run, at, metric) for run in (*ended, *diverged)], [one for one in said if one]


def _split(runs: Sequence[Any], which: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    return [run for run in runs if which(run)], [run for run in runs if not which(run)]


def _key(run: Any, places: Sequence[tuple[str, str]]) -> tuple[str | None, ...]:
    return tuple(_said(run, *place) for place in places)


def _left_out(runs: Sequence[Any], which: str) -> str:
    return f"left out: {_named(runs)} {which}" if runs else ""


def _cut_short(runs: Sequence[Any], metric: str) -> str:
    if not runs:
        return ""
    return (
        f"{_named(runs)} failed or killed, after {metric} was logged: counted with its last value; delete "
        "in MLflow what was cut short and run it again"
    )


def _named(runs: Sequence[Any]) -> str:
    names = ", ".join(run.info.run_id for run in runs[:MOST_NAMED])
    further = ", …" if len(runs) > MOST_NAMED else ""
    return f"{len(runs)} run{'s' * (len(runs) > 1)} ({names}{further})"


def _lacking(
    runs: Sequence[Any], kept: Sequence[Any], places: dict[str, tuple[str, str]], metric: str
) -> str:
    """Say why no run has a score: which of the three is not there, and what is."""
    if not runs:
        return "it has no runs"
    for option, (kind, name) in places.items():
        there = {one for run in runs for one in getattr(run.data, kind) if not one.startswith("mlflow.")}
        if name not in there:
            return f"none of {_count(runs)} has --{option} {kind}.{name}; {kind}: {_there(name, there)}"
    if not kept:
        return f"none of {_count(runs)} has both {' and '.join('.'.join(one) for one in places.values())}"
    there = {name for run in kept for name in run.data.metrics}
    return f"none of {_count(kept)} has the metric '{metric}'; metrics: {_there(metric, there)}"


def _count(runs: Sequence[Any]) -> str:
    return f"{len(runs)} run{'s' * (len(runs) > 1)}"


def _there(name: str, there: set[str]) -> str:
    return nearest(name, there).replace("allowed", "there are") if there else "none"


def _runs(uri: str, experiment: str) -> list[Any]:
    prepare_environment()
    try:
        from mlflow import MlflowClient
        from mlflow.entities import LifecycleStage
        from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise UserError("--mlflow needs the package mlflow: pip install mlflow-skinny") from None
    _check_store(uri)
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = [one.name for one in client.search_experiments()]
            raise UserError(f"MLflow at {uri} has no experiment '{experiment}'; {nearest(experiment, names)}")
        if found.lifecycle_stage != LifecycleStage.ACTIVE:
            raise UserError(
                f"MLflow at {uri}: experiment '{experiment}' is deleted; `mlflow experiments restore "
                f"--experiment-id {found.experiment_id}` brings it back"
            )
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


def _check_store(uri: str) -> None:
    """Refuse a database that is not there: asked for it, MLflow would make an empty one."""
    file = Path(uri.removeprefix(SQLITE).partition("?")[0])
    if uri.startswith(SQLITE) and not file.is_file():
        raise UserError(f"MLflow at {uri}: no such file, {file}")


def _place(where: str, option: str) -> tuple[str, str]:
    kind, _, name = where.partition(".")
    if kind not in PLACES or not name:
        raise UserError(f"{option} is '{where}'; say tags.NAME or params.NAME")
    return kind, name


def _said(run: Any, kind: str, name: str) -> str | None:
    value = getattr(run.data, kind).get(name)
    return None if empty(value) or not str(value).strip() else str(value)


def _row(run: Any, places: Sequence[tuple[str, str]], metric: str) -> Row:
    where = f"run {run.info.run_id}"
    loss, seed = (name_of(_said(run, *place), f"{where}, '{'.'.join(place)}'") for place in places)
    score = float(run.data.metrics.get(metric, math.nan))
    if abs(score) >= sys.float_info.max:  # what MLflow's database holds in the place of an infinite one
        score = math.copysign(math.inf, score)
    return Row(where, loss, seed, score, metric, "", "")
