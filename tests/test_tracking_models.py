"""The logged model: signature, example, pinned requirements, no pickle; and the MLproject."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from lossbench.data.dataset import Dataset
from lossbench.params import load_params
from lossbench.recipe import Compute
from lossbench.tasks import task_class
from lossbench.tracking.models import median_seed
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.server import connect
from lossbench.tracking.track import track
from lossbench.training import predict
from tests.test_tracking_ship import empty_store, role, runs_of
from tests.tracking_study import train, write_study

__all__ = ["empty_store"]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def study(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_study(tmp_path, losses=("focal",), seeds=3)
    content = json.loads((tmp_path / "params.yaml").read_text())
    content["tracking"]["log_models"] = True
    (tmp_path / "params.yaml").write_text(json.dumps(content))
    params = load_params(tmp_path / "params.yaml")
    train(tmp_path, params, "toy-focal", weights=True)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def test_the_median_replicate_is_logged_and_predicts_as_training_does(study):
    from safetensors.torch import load_file

    params = load_params(study / "params.yaml")
    track(params, study)
    (parent,) = role(runs_of(study), "arm")
    (output,) = parent.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    outs = ArmOuts(study, "toy", "toy-focal")
    seed = median_seed(outs, "accuracy")
    assert seed == 1  # the curves of the made-up histories rise with the seed
    data = Dataset.open(study / "data" / "toy")
    inputs = data.split("test").inputs
    task = task_class("classification")(data.info)
    state = load_file(outs.folder / f"seed-{seed}.safetensors")
    expected = predict(task, params.experiments["toy"].model, state, inputs, Compute()).numpy()
    answers = model.predict(np.asarray(inputs), params={"raw": True})
    np.testing.assert_allclose([one["outputs"] for one in answers], expected, rtol=1e-6)
    assert [one["class"] for one in answers] == [data.info.classes[index] for index in expected.argmax(1)]


def test_the_model_states_its_signature_example_and_requirements_and_holds_no_pickle(study):
    track(load_params(study / "params.yaml"), study)
    (found,) = study.glob("mlartifacts/**/MLmodel")
    described = yaml.safe_load(found.read_text())
    assert json.loads(described["signature"]["inputs"])[0]["tensor-spec"]["shape"] == [-1, 1, 8, 8]
    assert described["metadata"]["classes"] == ["cat", "dog"]
    assert (found.parent / "input_example.json").exists()
    requirements = (found.parent / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)
    assert {line.partition("==")[0] for line in requirements} >= {"torch", "mlflow", "safetensors"}
    suspicious = [path for path in found.parent.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".bin")]
    assert suspicious == []


def test_a_model_is_logged_once(study):
    params = load_params(study / "params.yaml")
    track(params, study)
    track(params, study)
    client = connect(study)
    experiment = client.get_experiment_by_name("toy").experiment_id
    assert len(client.search_logged_models([experiment])) == 1


def test_a_model_half_logged_by_a_killed_pass_is_replaced(study):
    params = load_params(study / "params.yaml")
    track(params, study)
    (parent,) = role(runs_of(study), "arm")
    client = connect(study)
    client.delete_tag(parent.info.run_id, "lossbench.model")  # as if killed just before the last step
    track(params, study)
    assert len(client.search_logged_models([parent.info.experiment_id])) == 1


def test_a_diverged_replicate_is_not_the_median(study):
    outs = ArmOuts(study, "toy", "toy-focal")
    history = outs.folder / "history.csv"
    rows = [line for line in history.read_text().splitlines() if not line.startswith("1,3,validation")]
    history.write_text("\n".join([*rows, "1,3,validation,accuracy,nan"]) + "\n")
    assert median_seed(ArmOuts(study, "toy", "toy-focal"), "accuracy") == 0


@pytest.mark.slow
def test_a_logged_model_loads_without_this_checkout(study, tmp_path):
    """The package travels in the model: another process, without the checkout on its path, loads it."""
    track(load_params(study / "params.yaml"), study)
    (found,) = study.glob("mlartifacts/**/MLmodel")
    code = (
        "import sys, mlflow.pyfunc, numpy as np; m = mlflow.pyfunc.load_model(sys.argv[1]);"
        "import lossbench; print(lossbench.__file__);"
        "print(m.predict(np.zeros((1, 1, 8, 8), dtype=np.uint8))[0]['class'] in ('cat', 'dog'))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(found.parent)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    where, known = done.stdout.split("\n")[:2]
    assert str(found.parent) in where
    assert known == "True"


@pytest.mark.slow
def test_mlflow_run_finds_the_entry_points(study):
    for name in ("MLproject", "python_env.yaml"):
        shutil.copy(ROOT / name, study / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "mlflow", "run", ".", "-e", "track", "--env-manager", "local"]
    done = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (parent,) = role([run for run in runs_of(study) if "lossbench.role" in run.data.tags], "arm")
    assert parent.data.tags["arm"] == "toy-focal"


def test_the_mlproject_calls_what_exists():
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert set(project["entry_points"]) >= {"main", "train", "evaluate", "report", "track"}
    for entry in project["entry_points"].values():
        for part in entry["command"].split("&&"):
            words = part.split()
            assert words[0] == "dvc" or (ROOT / f"{words[2].replace('.', '/')}.py").exists()
