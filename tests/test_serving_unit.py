"""A serving unit follows its alias: no request is dropped, and each is answered by one version."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import requests

from lossbench.data.dataset import Dataset
from lossbench.errors import GateError, UserError
from lossbench.retraining.contents import UNREADABLE
from lossbench.serving import unit
from lossbench.serving.unit import Follower, Serving, application
from lossbench.tracking.server import ServerGoneError

PIXELS = [[[[0, 255], [3, 4]]]]


class Echo:
    """Answers with the name of its version."""

    def __init__(self, version):
        self.version = version

    def predict(self, inputs, params):
        if inputs != PIXELS:
            raise UserError("inputs hold a fraction (0.5); this model takes (N, 1, 2, 2) of uint8")
        time.sleep(0.002)
        return [{"class": self.version, "raw": bool(params.get("raw"))}]


class Alias:
    """A registry whose alias can be moved, taken away, or made unreachable."""

    name = "digits"

    def __init__(self):
        self.version, self.gone, self.made = "1", False, "first"

    def mark_of(self, version):
        return self.made

    def version_of(self, alias):
        assert alias == "champion"
        if self.gone:
            raise ServerGoneError("does not answer")
        return self.version

    def folder_of(self, version):
        if version == "broken":
            raise GateError("weights.safetensors is not what was promoted")
        return nullcontext(version)


@pytest.fixture
def follower(monkeypatch):
    monkeypatch.setattr(unit, "ReplicateModel", Echo)
    made = object.__new__(Follower)
    said = []
    made.__dict__.update(
        alias="champion", fixed=None, address="models:/digits@champion", say=said.append, said=said,
        registry=Alias(), now=None, trouble="", _ended=threading.Event(),
    )  # fmt: skip
    made.look()
    return made


def looks(follower, count):
    """Have it look so often, without waiting between."""
    left = iter([False] * count)
    with mock.patch.object(follower, "_ended", mock.Mock(wait=lambda _: next(left, True))):
        follower.follow(3.0)


@contextmanager
def listening(follower):
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(application(follower), host="127.0.0.1", port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def test_requests_under_way_while_the_alias_moves_are_all_answered_by_one_version_each(follower):
    threading.Thread(target=follower.follow, args=(0.01,), daemon=True).start()
    heard, over = [], threading.Event()

    def ask(address):
        while not over.is_set():
            answer = requests.post(f"{address}/invocations", json={"inputs": PIXELS}, timeout=20)
            heard.append(
                (
                    answer.status_code,
                    answer.headers["X-Model-Version"],
                    answer.json()["predictions"][0]["class"],
                )
            )

    with listening(follower) as address:
        crowd = [threading.Thread(target=ask, args=(address,)) for _ in range(4)]
        for one in crowd:
            one.start()
        for version in ("2", "1", "3"):
            follower.registry.version = version
            before, deadline = len(heard), time.monotonic() + 60
            while version not in {one for _, one, _ in heard[before:]}:
                assert time.monotonic() < deadline
                time.sleep(0.005)
        over.set()
        for one in crowd:
            one.join()
        last = requests.post(f"{address}/invocations", json={"inputs": PIXELS}, timeout=20)
    follower.end()
    assert {status for status, _, _ in heard} == {200}
    assert all(header == version for _, header, version in heard)
    assert {version for _, _, version in heard} == {"1", "2", "3"}
    assert last.headers["X-Model-Version"] == "3"


@pytest.mark.parametrize("trouble", ["gone", "broken", "no alias"])
def test_what_cannot_be_loaded_changes_nothing_and_is_told_once(follower, trouble):
    follower.registry.gone = trouble == "gone"
    follower.registry.version = {"broken": "broken", "no alias": None}.get(trouble, "2")
    looks(follower, 3)
    assert follower.now == Serving("1", follower.now.model, "first")
    assert len([line for line in follower.said if "serves on" in line]) == 1
    assert follower.trouble
    follower.registry.gone, follower.registry.version = False, "2"
    looks(follower, 1)
    assert (follower.now.version, follower.trouble) == ("2", "")


REQUESTS = [
    (json.dumps({"inputs": PIXELS}), 200, "predictions"),
    (json.dumps({"inputs": PIXELS, "params": {"raw": True}}), 200, "predictions"),
    (json.dumps({"inputs": [[0.5]]}), 400, "a fraction"),
    ("{", 400, "no JSON"),
    ("[" * 100_000, 400, "no JSON"),
    ("\xff", 400, "no JSON"),
    ("[]", 400, "list"),
    (json.dumps({"instances": PIXELS}), 400, "instances"),
    (json.dumps({"inputs": PIXELS, "params": {"raw": 1}}), 400, "params"),
    (json.dumps({"inputs": PIXELS, "params": []}), 200, "predictions"),
    (json.dumps({"inputs": PIXELS, "params": [1]}), 400, "params"),
    ("", 400, "no JSON"),
    ("{}", 400, "expected"),
    ('{"\\ud800": 1}', 400, "ud800"),  # no text that UTF-8 can say
    (json.dumps(dict.fromkeys(map(str, range(9999)))), 400, "..."),
]


def test_requests_are_answered_or_refused_by_name(follower):
    with listening(follower) as address:
        for body, status, named in REQUESTS:
            answer = requests.post(f"{address}/invocations", data=body.encode("latin-1"), timeout=20)
            assert (answer.status_code, named in answer.text) == (status, True), (body[:50], answer.text)
            assert requests.get(f"{address}/health", timeout=20).json() == {"version": "1", "trouble": ""}


@pytest.mark.parametrize(
    "address", ["digits", "models:/digits", "models:/a/b@c", "runs:/x/model", "models:/digits/latest"]
)
def test_only_a_registered_model_is_followed(tmp_path, monkeypatch, address):
    monkeypatch.setattr("lossbench.tracking.server.connect", lambda _: SimpleNamespace())
    with pytest.raises(UserError, match="allowed: models:/NAME@ALIAS or models:/NAME/VERSION"):
        Follower(tmp_path, address)


@pytest.mark.parametrize("raised", UNREADABLE)
def test_a_version_that_is_no_whole_model_of_ours_is_told_in_a_sentence(follower, monkeypatch, raised):
    """Registered by hand, of another library, or cut short: no tags say what its files have to be."""

    def broken(_):
        raise raised("no arm.json\nand more")

    follower.registry.version = "2"
    monkeypatch.setattr(unit, "ReplicateModel", broken)
    with pytest.raises(GateError, match=r"version 2 of 'digits' cannot be loaded \(.*no arm\.json.*\)"):
        follower.look()
    assert follower.now.version == "1"


def test_an_answer_that_makes_no_sense_while_files_are_fetched_is_a_registry_s(follower, monkeypatch):
    from mlflow.exceptions import MlflowException

    def nonsense(_):
        raise MlflowException("API request to endpoint failed with error code 503")

    follower.registry.version = "2"
    monkeypatch.setattr(follower.registry, "folder_of", nonsense)
    with pytest.raises(ServerGoneError):
        follower.look()


def test_a_version_of_a_model_made_anew_is_another_though_its_number_is_the_same(follower):
    before = follower.now
    follower.look()
    assert follower.now is before
    follower.registry.made = "anew"
    follower.look()
    assert (follower.now.version, follower.now is before) == ("1", False)


@pytest.mark.parametrize("alias", ["champion", "trial"])
def test_an_alias_that_names_no_version_is_one_sentence_that_helps(follower, alias):
    follower.alias, follower.now = alias, None
    follower.registry = SimpleNamespace(
        name="digits", version_of=lambda _: None, aliases=lambda: {"previous_champion"}
    )
    helps = {"champion": "`lossbench retrain` makes the first", "trial": "there are: previous_champion"}
    with pytest.raises(GateError, match=helps[alias]) as refused:
        follower.look()
    assert "'digits'" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [
        ({"port": 65536}, UserError, "--port is 65536"),
        ({"port": -1}, UserError, "--port is -1"),
        ({"every": 0.0}, UserError, "--every is 0"),
        ({"every": -1.0}, UserError, "--every is -1"),
        ({"every": float("nan")}, UserError, "--every is nan"),
        ({"every": 1e300}, UserError, "--every is 1e"),
        ({"host": "no.such.host.invalid"}, GateError, "no.such.host.invalid"),
        ({"host": "a" * 70}, GateError, "cannot be listened on"),
        ({"host": "192.0.2.1"}, GateError, "192.0.2.1"),  # nobody's: RFC 5737
        ({"port": "taken"}, GateError, "in use"),
    ],
)
def test_where_nobody_may_listen_is_one_sentence_before_anything_is_loaded(
    tmp_path, monkeypatch, given, error, named
):
    monkeypatch.setattr(unit, "Follower", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        if given.get("port") == "taken":
            given = {"port": other.getsockname()[1]}
        asked = {"host": "127.0.0.1", "port": 0, "every": 3.0} | given
        with pytest.raises(error, match=named):
            unit.serve(tmp_path, "models:/digits@champion", **asked)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rollback_beside_a_running_server_is_served_within_seconds(trained_study, tmp_path, monkeypatch):
    """The real thing: MLflow's registry, `lossbench serve` in a process of its own, `roll_back`."""
    from lossbench.params import load_params
    from lossbench.retraining.registry import Registry
    from lossbench.serving.logged import log_model
    from lossbench.tracking.server import connect
    from lossbench.tracking.track import track

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "study"
    shutil.copytree(trained_study, root)
    track(load_params(root / "params.yaml"), root, log_model=log_model)
    client = connect(root)
    experiment = client.get_experiment_by_name("digits").experiment_id
    registry = Registry(client, "service")
    for model in client.search_logged_models([experiment])[:2]:
        judged = registry.standing()
        version = registry.register(model.model_id, model.model_id, model.source_run_id, {}, "planted")
        registry.take_over(version, judged, {"version": version})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", "--model", "models:/service@champion", "--port", str(port), "--every", "0.5"]
    with (root / "serve.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "lossbench", *command], cwd=root, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}/invocations"
    inputs = np.asarray(Dataset.open(root / "data/digits").split("test").inputs[:2])

    def version() -> str:
        answer = requests.post(address, json={"inputs": inputs.tolist()}, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Model-Version"]

    def waited(wanted: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if version() == wanted:
                    return True
            except requests.ConnectionError:
                assert server.poll() is None, (root / "serve.log").read_text()
            time.sleep(0.2)
        return False

    try:
        assert waited("2", 120), (root / "serve.log").read_text()
        assert registry.roll_back({}) == ("1", "2")
        assert waited("1", 60), (root / "serve.log").read_text()
        for sent, named in (
            ((inputs / 255).tolist(), "a fraction"),
            ((inputs > 0).tolist(), "a truth value"),
            (inputs.astype(str).tolist(), "text"),
            (inputs[0].tolist(), "shape"),
        ):
            refused = requests.post(address, json={"inputs": sent}, timeout=30)
            assert (refused.status_code, named in refused.text) == (400, True), refused.text
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
