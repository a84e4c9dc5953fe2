"""A champion behind `mlflow models serve`: names and probabilities over HTTP."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import ROOT
from data_cases import picture
from docs_cases import blocks
from dvc_cases import BIN

from lossbench.data.dataset import Dataset
from lossbench.params import load_params
from lossbench.retraining.registry import Registry
from lossbench.serving.logged import log_model
from lossbench.tracking.server import connect
from lossbench.tracking.track import track

pytestmark = pytest.mark.slow
NAME = "digits-service"


@contextmanager
def serving(root: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{root / 'mlflow.db'}"
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["mlflow", "models", "serve", "-m", f"models:/{NAME}@champion", "--env-manager", "local"]
    with (root / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait(f"http://127.0.0.1:{port}/ping", server, root / "serve.log")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=20)


def wait(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            if requests.get(address, timeout=2).ok:
                return
        except OSError:
            assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


def ask(address: str, content: object) -> tuple[int, dict]:
    answer = requests.post(address, json=content, timeout=60)
    return answer.status_code, answer.json()


@pytest.fixture(scope="module")
def tracked(trained_study, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("served") / "study"
    shutil.copytree(trained_study, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        track(load_params(root / "params.yaml"), root, log_model=log_model)
    return root


def promote(root: Path, experiment: str, arm: str) -> Path:
    """Register the arm's model as champion; return its folder."""
    client = connect(root)
    found = client.get_experiment_by_name(experiment).experiment_id
    (model,) = [one for one in client.search_logged_models([found]) if one.name == arm]
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    version = client.create_model_version(NAME, model.artifact_location, model_id=model.model_id)
    client.set_registered_model_alias(NAME, "champion", version.version)
    return Path(model.artifact_location.removeprefix("file://"))


@pytest.fixture
def own_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_classifier_answers_with_names_and_calibrated_probabilities(tracked, own_store):
    from lossbench.serving.replicate import ReplicateModel

    folder = promote(tracked, "digits", "digits-focal")
    data = Dataset.open(tracked / "data" / "digits")
    inputs = np.asarray(data.split("test").inputs[:3])
    with serving(tracked) as address:
        status, answer = ask(address, {"inputs": inputs.tolist()})
        refused, _ = ask(address, {"inputs": [[1, 2, 3]]})
        raw_status, raw = ask(address, {"inputs": inputs.tolist(), "params": {"raw": True}})
        for sent, named in (
            ((inputs / 255).tolist(), "a fraction"),
            ((inputs > 0).tolist(), "a truth value"),
            (inputs.astype(str).tolist(), "text"),
            ((inputs.astype(int) + 250).tolist(), "0 to 255"),
        ):
            for key in ("inputs", "instances"):
                code, told = ask(address, {key: sent})
                assert (code, named in str(told)) == (400, True), told
    assert status == 200, answer
    first = answer["predictions"][0]
    assert set(first["probabilities"]) == set(data.info.classes)
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert first["class"] == max(first["probabilities"], key=first["probabilities"].get)
    assert first["probability"] == max(first["probabilities"].values())
    assert answer["predictions"] == ReplicateModel(next(folder.glob("data/*"))).predict(inputs)
    assert refused == 400
    temperature = json.loads(next(folder.glob("data/*/serving.json")).read_text())["temperature"]
    assert raw_status == 200
    scaled = np.asarray(raw["predictions"][0]["outputs"]) / temperature
    expected = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
    np.testing.assert_allclose(list(first["probabilities"].values()), expected, atol=1e-5)


def test_a_segmenter_answers_with_a_mask_of_named_classes(tracked, own_store):
    promote(tracked, "scenes", "scenes-cross_entropy")
    data = Dataset.open(tracked / "data" / "scenes")
    inputs = np.asarray(data.split("test").inputs[:2])
    with serving(tracked) as address:
        status, answer = ask(address, {"inputs": inputs.tolist()})
    assert status == 200, answer
    one = answer["predictions"][1]
    assert one["classes"] == list(data.info.classes)
    assert np.asarray(one["mask"]).shape == data.info.target_shape
    assert np.asarray(one["mask"]).max() < len(data.info.classes)
    assert 0 < np.min(one["probability"]) <= np.max(one["probability"]) <= 1
    assert sum(one["shares"].values()) == pytest.approx(1, abs=1e-4)


def test_the_page_s_server_predictions_and_export_answer_as_shown(tracked, own_store, tmp_path):
    """docs/serving.md word for word, but for the model's name, the seed and the port."""
    folder = tmp_path / "study"
    shutil.copytree(tracked, folder)
    client = connect(folder)
    registry = Registry(client, "page")
    (model,) = [
        one
        for one in client.search_logged_models([client.get_experiment_by_name("digits").experiment_id])
        if one.name == "digits-focal"
    ]
    version = registry.register(model.model_id, model.model_id, model.source_run_id, {}, "planted")
    registry.take_over(version, registry.standing(), {"version": version})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"lossbench-digits@": "page@", "--seed 31": "--seed 1", "5001": port}
    serve, _, request, predict, export = (
        re.sub("|".join(told), lambda found: told[found[0]], one)
        for one in blocks(ROOT / "docs/serving.md", "bash")
    )
    (folder / "scans").mkdir()
    for name in ("photo1.jpg", "photo2.png", "scans/a.png"):
        picture(folder / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def shell(block: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", block], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(
            ["bash", "-euc", f"exec {serve}"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        wait(f"http://127.0.0.1:{port}/health", server, folder / "serve.log")
        answers = json.loads(shell(request))["predictions"]
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert [set(one) for one in answers] == [{"class", "probability", "probabilities"}] * 2
    table, row = shell(predict).strip().rsplit("\n", 1)
    assert "photo1.jpg" in table
    assert "photo2.png" in table
    assert json.loads(row)["file"] == "scans/a.png"
    shell(export)
    assert (folder / "digits.onnx").is_file()
