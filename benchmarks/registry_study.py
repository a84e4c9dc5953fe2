"""A study whose challenger waits to be judged, for benchmarks.registry: trained once, judged often.

No DVC: :func:`judge` does what a retraining does once `make repro` is through.
"""

import csv
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.fault_study import params
from benchmarks.small_study import fetch_data, train

NAME = "digits"
EPOCHS = {"strong": 12, "weak": 1}
SCENARIOS = ("no champion", "a weaker champion", "a stronger champion")


@dataclass(frozen=True)
class Bench:
    """What all trials share.

    Attributes:
        strong: folder of a study with a well-trained challenger.
        weak: the same, hardly trained.
        models: "strong", "weak" → (run, model) in the store.

    """

    strong: Path
    weak: Path
    models: dict[str, tuple[str, str]]

    def root(self, scenario: str) -> Path:
        """Find the study whose challenger is judged."""
        return self.weak if scenario == "a stronger champion" else self.strong

    def champion(self, scenario: str) -> str | None:
        """Name the model that is champion before."""
        return {"a weaker champion": "weak", "a stronger champion": "strong"}.get(scenario)


def make(folder: Path) -> tuple[Path, Path]:
    """Train both studies by the library; returns their folders."""
    return _study(folder / "strong", EPOCHS["strong"]), _study(folder / "weak", EPOCHS["weak"])


def _study(root: Path, epochs: int) -> Path:
    content = params()
    name = f"{root.name}-cross_entropy"
    content["arms"] = {name: content["arms"]["digits-cross_entropy"]}
    content["losses"] = {"cross_entropy": content["losses"]["cross_entropy"]}
    content["experiments"]["digits"]["recipe"]["epochs"] = epochs
    content["retraining"]["model_name"] = NAME
    fetch_data(root, content)
    train(root, scores=False)
    return root


def record(strong: Path, weak: Path) -> Bench:
    """Record both studies in the store that ``MLFLOW_TRACKING_URI`` names."""
    from lossbench.params import load_params
    from lossbench.serving.logged import log_model
    from lossbench.tracking.server import connect
    from lossbench.tracking.track import track

    models = {}
    for root in (strong, weak):
        track(load_params(root / "params.yaml"), root, log_model=log_model)
        client = connect(root)
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = client.search_logged_models(experiments)
        (model,) = [one for one in found if one.name == f"{root.name}-cross_entropy"]
        models[root.name] = (model.source_run_id, model.model_id)
    return Bench(strong, weak, models)


def reset(bench: Bench, scenario: str) -> None:
    """Begin a trial: the registry has the champion alone, and nothing is recorded."""
    from lossbench.retraining.registry import Registry
    from lossbench.tracking.server import AbsentError, connect

    root = bench.root(scenario)
    for file in root.glob("reports/retraining*"):
        file.unlink()
    client = connect(root)
    with suppress(AbsentError):  # the trial before made none
        client.delete_registered_model(NAME)
    champion = bench.champion(scenario)
    if champion is not None:
        run, model = bench.models[champion]
        registry = Registry(client, NAME)
        version = registry.register("planted", model, run, {}, "planted")
        registry.take_over(version, registry.standing(), {"version": version})


def judge(root: Path) -> int:
    """Judge the challenger as a retraining does after `make repro`; the exit code."""
    from lossbench.params import load_params
    from lossbench.retraining import run

    with (
        patch.object(run._Attempt, "_in_use", lambda _: False),
        patch.object(run._Attempt, "_repro", lambda _: None),
        patch.object(run, "changed_stages", lambda _: set()),
    ):
        return run.retrain(load_params(root / "params.yaml"), root, say=lambda _: None)


def rows(root: Path) -> list[dict[str, str]]:
    """Read the record."""
    file = root / "reports/retraining.csv"
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one run of the benchmark, away from the checkout's own outs."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def quiet() -> None:
    """Have every answer count: no second try hides what the first was told, and nobody waits for long."""
    os.environ |= {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "DO_NOT_TRACK": "true",
    }


Row = dict[str, Any]
