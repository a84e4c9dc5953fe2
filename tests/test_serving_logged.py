"""The logged model: signature, example, pinned requirements, no pickle; and the MLproject."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from lossbench.cli import VERBS
from lossbench.data.dataset import Dataset
from lossbench.params import load_params
from lossbench.recipe import Compute
from lossbench.serving.logged import carry_code, log_model, median_seed
from lossbench.tasks import task_class
from lossbench.tracking.experiment import open_experiment
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.server import connect
from lossbench.tracking.track import track
from lossbench.tracking.ui import end_group, free_port, mlflow_server
from lossbench.training.prediction import predict
from tests.test_tracking_ship import role, runs_of
from tests.tracking_study import train, write_study

ROOT = Path(__file__).resolve().parents[1]


def made(root, empty_store):
    write_study(root, losses=("focal",), seeds=3)
    content = json.loads((root / "params.yaml").read_text())
    content["tracking"]["log_models"] = True
    (root / "params.yaml").write_text(json.dumps(content))
    train(root, load_params(root / "params.yaml"), "toy-focal", weights=True)
    shutil.copy(empty_store, root / "mlflow.db")
    return root


@pytest.fixture
def study(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made(tmp_path, empty_store)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, empty_store):
    """A study whose model was logged: nobody changes it."""
    root = made(tmp_path_factory.mktemp("recorded"), empty_store)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        track(load_params(root / "params.yaml"), root, log_model=log_model)
    return root


def test_the_median_replicate_is_logged_and_predicts_as_training_does(recorded, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = load_params(recorded / "params.yaml")
    (parent,) = role(runs_of(recorded), "arm")
    (output,) = parent.outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    outs = ArmOuts(recorded, "toy", "toy-focal")
    seed = median_seed(outs, params)
    assert seed == 1  # the curves of the made-up histories rise with the seed
    data = Dataset.open(recorded / "data" / "toy")
    inputs = data.split("test").inputs
    task = task_class("classification")(data.info)
    state = load_file(outs.folder / f"seed-{seed}.safetensors")
    expected = predict(task, params.experiments["toy"].model, state, inputs, Compute()).numpy()
    answers = model.predict(np.asarray(inputs), params={"raw": True})
    np.testing.assert_allclose([one["outputs"] for one in answers], expected, rtol=1e-6)
    assert [one["class"] for one in answers] == [data.info.classes[index] for index in expected.argmax(1)]


def test_the_model_states_its_signature_example_and_requirements_and_holds_no_pickle(recorded):
    (found,) = recorded.glob("mlartifacts/**/MLmodel")
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
    track(params, study, log_model=log_model)
    track(params, study, log_model=log_model)
    client = connect(study)
    experiment = client.get_experiment_by_name("toy").experiment_id
    assert len(client.search_logged_models([experiment])) == 1


@pytest.mark.slow
def test_a_model_half_logged_by_a_killed_pass_is_replaced(study):
    params = load_params(study / "params.yaml")
    track(params, study, log_model=log_model)
    (parent,) = role(runs_of(study), "arm")
    client = connect(study)
    client.delete_tag(parent.info.run_id, "lossbench.model")  # as if killed just before the last step
    track(params, study, log_model=log_model)
    assert len(client.search_logged_models([parent.info.experiment_id])) == 1


def test_a_diverged_replicate_is_not_the_median(study):
    outs = ArmOuts(study, "toy", "toy-focal")
    history = outs.folder / "history.csv"
    rows = [line for line in history.read_text().splitlines() if not line.startswith("1,3,validation")]
    history.write_text("\n".join([*rows, "1,3,validation,accuracy,nan"]) + "\n")
    assert median_seed(ArmOuts(study, "toy", "toy-focal"), load_params(study / "params.yaml")) == 0


def test_the_median_is_by_the_metric_that_decides(study):
    content = json.loads((study / "params.yaml").read_text())
    content["experiments"]["toy"]["metric"] = "macro_f1"
    (study / "params.yaml").write_text(json.dumps(content))
    outs = ArmOuts(study, "toy", "toy-focal")
    values = {0: (0.9, 0.5), 1: (0.5, 0.9)}  # seed → accuracy, the metric that decides
    rows = [
        f"{seed},3,validation,{metric},{value}"
        for seed, pair in values.items()
        for metric, value in zip(("accuracy", "macro_f1"), pair, strict=True)
    ]
    (outs.folder / "history.csv").write_text("\n".join(["seed,epoch,split,metric,value", *rows]) + "\n")
    assert median_seed(ArmOuts(study, "toy", "toy-focal"), load_params(study / "params.yaml")) == 0


ANSWER = (
    "import sys, mlflow.pyfunc, numpy as np\n"
    "m = mlflow.pyfunc.load_model(sys.argv[1]); import lossbench; print(lossbench.__file__)\n"
    "print(m.predict(np.zeros((1, 1, 8, 8), dtype=np.uint8))[0]['class'] in ('cat', 'dog'))"
)
ALONE = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}


def answer(model, folder, **environment):
    """Load a model in a fresh process without this checkout, and say where its code was found."""
    # An installed package would answer as well: it is hidden.
    hide = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in str(f)]\n"
    done = subprocess.run(
        [sys.executable, "-c", hide + ANSWER, str(model)],
        cwd=folder,
        env={**os.environ, **ALONE, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, *done.stdout.split("\n")[:2]


def logged(study):
    track(load_params(study / "params.yaml"), study, log_model=log_model)
    (parent,) = role(runs_of(study), "arm")
    return parent.outputs.model_outputs[0].model_id


def test_the_code_is_uploaded_once_and_not_with_each_model(study):
    model = logged(study)
    client = connect(study)
    parent = role(runs_of(study), "arm")[0]
    shelf = open_experiment(client, load_params(study / "params.yaml"), study, "toy")
    outs = ArmOuts(study, "toy", "toy-focal")
    (archive,) = study.glob("mlartifacts/toy/code/*.zip")
    written = archive.stat().st_mtime_ns
    other = log_model(shelf, parent.info.run_id, load_params(study / "params.yaml"), outs)
    assert other != model
    assert [path.stat().st_mtime_ns for path in study.glob("mlartifacts/toy/code/*")] == [written]
    for one in (model, other):
        files = [path for path in study.glob(f"mlartifacts/toy/models/{one}/**/*") if path.is_file()]
        assert [path.name for path in files if path.suffix == ".py"] == ["lossbench_loader.py"]
        assert len(files) < 20
        assert sum(path.stat().st_size for path in files if path.suffix != ".safetensors") < 30_000


@pytest.mark.slow
def test_a_logged_model_loads_without_this_checkout_wherever_it_is(study, tmp_path, monkeypatch):
    """From the folder of the store, by its address alone, and as a folder that carries its code."""
    model = logged(study)
    away = tmp_path / "away"
    away.mkdir()
    (found,) = study.glob("mlartifacts/**/MLmodel")
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{study / 'mlflow.db'}"}
    for address, environment in ((found.parent, {}), (f"models:/{model}", store)):
        done, where, known = answer(address, away, **environment)
        assert known == "True", done.stderr
        assert str(ROOT) not in where
    shutil.copytree(found.parent, away / "copy")
    done, *_ = answer(away / "copy", away, MLFLOW_TRACKING_URI=f"sqlite:///{away / 'other.db'}")
    assert "set MLFLOW_TRACKING_URI to the store with model" in done.stderr
    done, _, known = answer(away / "copy", away, **store)
    assert known == "True", done.stderr
    code = [file.name for file in study.glob("mlartifacts/toy/code/*.zip")]
    monkeypatch.setattr("lossbench.installed.digest", lambda: "changed")  # since it was logged
    carry_code(connect(study), model)
    assert [file.name for file in found.parent.rglob("*.zip")] == code
    shutil.copytree(found.parent, away / "whole")
    done, _, known = answer(away / "whole", away, MLFLOW_TRACKING_URI=f"sqlite:///{away / 'other.db'}")
    assert known == "True", done.stderr


@pytest.mark.slow
def test_a_logged_model_is_served_through_a_server_without_this_checkout(study, tmp_path, monkeypatch):
    """Its code comes through the MLflow server, as the model itself does."""
    away = tmp_path / "away"
    away.mkdir()
    with mlflow_server(f"sqlite:///{study / 'mlflow.db'}", tmp_path / "server.log", port=0) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        model, port = logged(study), free_port(0)
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{model}"]
        serving = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port)],
            cwd=away,
            env={**os.environ, **ALONE},
            start_new_session=True,
        )
        try:
            body = json.dumps({"inputs": np.zeros((1, 1, 8, 8), dtype=np.uint8).tolist()}).encode()
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
            )
            deadline = time.monotonic() + 120
            while True:
                try:
                    with urllib.request.urlopen(asked, timeout=20) as answered:  # noqa: S310 (our own)
                        (told,) = json.load(answered)["predictions"]
                    break
                except OSError:
                    assert serving.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
        finally:
            end_group(serving)
    assert told["class"] in ("cat", "dog")


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
            assert words[0] == "dvc" or words[1] in VERBS
