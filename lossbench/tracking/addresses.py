"""Addresses of the MLflow UI that answer the question at once.

The UI opens an experiment on another page, shows no metric columns, and mixes parents with children and
with runs of earlier params; so the table is addressed through a view of its own.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lossbench.params import Params
from lossbench.tracking.identity import digest
from lossbench.tracking.names import experiment_name
from lossbench.tracking.ship import CURRENT, KEY, ROLE

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENTS = f"tags.`{ROLE}` = 'arm' and tags.`{CURRENT}` = 'true'"
VIEW = "mlflow.sharedViewState."
COLUMNS = ("rank", "difference", "p_holm", "seconds_per_replicate")


@dataclass(frozen=True)
class Pages:
    """Pages of one experiment."""

    experiment: str
    table: str
    charts: str
    compare: str


def addresses(client: "MlflowClient", params: Params, root: Path, base: str) -> Iterator[Pages]:
    """List the pages of every recorded experiment.

    Args:
        client: of the store.
        params: of the study.
        root: its folder.
        base: where the UI is, such as ``http://127.0.0.1:5000``.

    """
    for name, experiment in params.experiments.items():
        found = client.get_experiment_by_name(experiment_name(params, root, name))
        if found is None:
            continue
        metric = f"test/{experiment.metric}"
        runs = client.search_runs([found.experiment_id], PARENTS, order_by=[f"metrics.`{metric}` DESC"])
        arms = [run.info.run_id for run in runs if KEY in run.data.tags]
        if not arms:
            continue
        view = _share_view(client, found.experiment_id, metric)
        page = f"{base}/#/experiments/{found.experiment_id}/runs?" + _query(
            workflowType="machine_learning", viewStateShareKey=view
        )
        both = _query(  # in this order: the page takes the runs from the first parameter, whatever its name
            runs=json.dumps(arms),
            experiments=json.dumps([found.experiment_id]),
            workflowType="machine_learning",
        )
        yield Pages(
            name,
            table=page,
            charts=f"{page}&compareRunsMode=CHART",
            compare=f"{base}/#/compare-runs?{both}",
        )


def _share_view(client: "MlflowClient", experiment_id: str, metric: str) -> str:
    """Store filter, order and columns as a shared view, the tag that the UI's own "share" button writes."""
    columns = [f"metrics.`{name}`" for name in (metric, f"{metric}_sd", *COLUMNS)]
    view = {
        "searchFilter": PARENTS,
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": False,
        "selectedColumns": [f"tags.`{name}`" for name in ("verdict", "score")] + columns,
    }
    state = json.dumps(view)
    key = digest(state)
    client.set_experiment_tag(experiment_id, f"{VIEW}{key}", state)
    return key


def _query(**values: str) -> str:
    return "&".join(f"{key}={quote(value, safe='')}" for key, value in values.items())
