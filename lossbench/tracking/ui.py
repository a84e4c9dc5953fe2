"""The MLflow UI on 127.0.0.1, a child that ends with its parent, and the pages that answer the question.

The UI opens an experiment on another page, shows no metric columns, and mixes parents with children and with
runs of earlier params; so the table is addressed through a view of its own.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lossbench.errors import GateError
from lossbench.params import Params
from lossbench.tracking.experiment import CURRENT, KEY, ROLE, experiment_name
from lossbench.tracking.provenance import digest
from lossbench.tracking.store import HIJACKERS, SILENT

if TYPE_CHECKING:
    from mlflow import MlflowClient

HOST = "127.0.0.1"
START_TIMEOUT = 180.0
STOP_TIMEOUT = 5.0


def free_port(wanted: int) -> int:
    """Find a free port: the wanted one, or any."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise GateError(f"no free port on {HOST}")


@contextmanager
def mlflow_server(uri: str, log: Path, port: int = 5000, artifacts: Path | None = None) -> Iterator[str]:
    """Serve a store while the block runs; yields the address.

    Only this machine can reach it. The job runner for generative-AI features stays out.

    Args:
        uri: of the store.
        log: file for what the server says.
        port: wanted; the next free one is taken.
        artifacts: folder for what clients upload; ``mlartifacts`` beside the log if not given.

    Raises:
        GateError: it does not come up; the message names its log.

    """
    port = free_port(port)
    server = begin_server(uri, log, port, str(artifacts or log.parent / "mlartifacts"))
    base = f"http://{HOST}:{port}"
    try:
        _wait_until_up(server, base, log)
        yield base
    finally:
        end_group(server)


def begin_server(uri: str, log: Path, port: int, artifacts: str) -> "subprocess.Popen[bytes]":
    """Start MLflow's server, in a session of its own; it does not answer yet.

    Args:
        uri: of the store.
        log: file for what the server says.
        port: that is free.
        artifacts: folder or address for what clients upload.

    """
    environment = {key: value for key, value in os.environ.items() if key not in HIJACKERS}
    environment |= {**SILENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["MLFLOW_BACKEND_STORE_URI"] = uri  # on the command line every user would see its password
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", artifacts]  # else it would put them wherever it was started
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment,
        )


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process started in a session of its own, and all its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _wait_until_up(server: "subprocess.Popen[bytes]", base: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise GateError(f"the MLflow server ended with code {server.returncode}; see {log}")
        try:
            with urllib.request.urlopen(f"{base}/health", timeout=2):  # noqa: S310 (an address of our own)
                return
        except OSError:
            time.sleep(0.2)
    raise GateError(f"the MLflow server did not come up within {START_TIMEOUT:.0f} s; see {log}")


PARENTS = f"tags.`{ROLE}` = 'arm' and tags.`{CURRENT}` = 'true'"
VIEW = "mlflow.sharedViewState."
RANK = "metrics.`rank`"
"""By the deciding metric, the best first whichever way is better."""
COLUMNS = {"tags.`score`": 195, "tags.`verdict`": 95, RANK: 75, "tags.`versus`": 270}
"""Columns in order, and their widths in pixels: the first three stand uncut beside the assistant's panel."""


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
    for name in params.experiments:
        found = client.get_experiment_by_name(experiment_name(params, root, name))
        if found is None:
            continue
        runs = client.search_runs([found.experiment_id], PARENTS, order_by=[f"{RANK} ASC"])
        arms = [run.info.run_id for run in runs if KEY in run.data.tags]
        if not arms:
            continue
        view = _share_view(client, found.experiment_id)
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


def _share_view(client: "MlflowClient", experiment_id: str) -> str:
    """Store filter, order and columns as a shared view, the tag that the UI's own "share" button writes."""
    view = {
        "searchFilter": PARENTS,
        "orderByKey": RANK,
        "orderByAsc": True,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
    }
    state = json.dumps(view)
    key = digest(state)
    client.set_experiment_tag(experiment_id, f"{VIEW}{key}", state)
    return key


def _query(**values: str) -> str:
    return "&".join(f"{key}={quote(value, safe='')}" for key, value in values.items())
