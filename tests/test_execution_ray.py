"""Jobs on a Ray cluster that the test starts, in a network that has ``lo`` alone.

Ray listens on every interface, whatever it is told: so this file runs itself again in a network namespace.
"""

import importlib.util
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT
from service_cases import free_port
from test_execution import own, study, written

from benchmarks.fault_ray import serving
from lossbench.errors import GateError
from lossbench.execution.jobs import Floors, Score, Train, Where
from lossbench.execution.remote import Task, facts
from lossbench.params import load_params
from lossbench.training.member import Member

__all__ = ["own", "study"]
INSIDE = "LOSSBENCH_TEST_NETWORK"
WITHOUT = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: make cluster"),
]
inside = pytest.mark.skipif(INSIDE not in os.environ, reason="runs within the network of its own")
outside = pytest.mark.skipif(INSIDE in os.environ, reason="starts the others")


@outside
@pytest.mark.timeout(900)
def test_all_of_it_in_a_network_of_its_own(pytestconfig: pytest.Config) -> None:
    if subprocess.run(
        [*WITHOUT, "ip", "link", "set", "lo", "up"], check=False, capture_output=True
    ).returncode:
        pytest.skip("no network of one's own is to be had here (unshare --net): Ray would listen to others")
    command = [sys.executable, "-m", "pytest", "-n0", "--timeout", "900", "-m", pytestconfig.option.markexpr]
    ran = subprocess.run(
        [*WITHOUT, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command, str(Path(__file__))], cwd=ROOT, env={**os.environ, INSIDE: "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-6000:]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head of one processor; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    folder = Path("/tmp") / f"lossbench-ray-{os.getpid()}"  # Ray's sockets want a short path
    ray = [str(Path(sys.executable).parent / "ray")]
    command = [
            *ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}",
            "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}",
            "--object-store-memory=100000000",
    ]  # fmt: skip
    # The machine's memory may be others', who are no reason to kill our workers.
    environment = {**os.environ, "RAY_memory_monitor_refresh_ms": "0", "RAY_worker_niceness": "0"}
    log, deadline = tmp_path_factory.mktemp("ray") / "log", time.monotonic() + 300
    node = None
    while node is None or b"Ray runtime started" not in log.read_bytes():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        if node is None or node.poll() is not None:  # a node gets 30 s to start, and then gives up
            with log.open("wb") as stream:
                node = subprocess.Popen(
                    command, env=environment, stdout=stream, stderr=stream, process_group=0
                )
        time.sleep(0.5)
    yield address
    children = psutil.Process(node.pid).children(recursive=True)
    node.terminate()
    _, alive = psutil.wait_procs(children, timeout=20)
    for one in alive:
        one.kill()
    node.kill()
    node.wait()
    shutil.rmtree(folder, ignore_errors=True)


def start(root: Path, arm: str, address: str, store: Path, log: Path) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "LOSSBENCH_EXECUTOR": "ray", "RAY_ADDRESS": address,
        "LOSSBENCH_STORE": str(store),
    }  # fmt: skip
    with log.open("w") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "lossbench.stages.train", arm],
            cwd=root,
            env=environment,
            stdout=stream,
            stderr=stream,
        )


@inside
def test_a_task_travels_without_what_all_of_its_arm_have(own: Path) -> None:
    from lossbench.execution.ray_worker import Common, Parcel

    params, place = load_params(own / "params.yaml"), Where(own, own, str(own / "store"))
    facts_of_it = facts(params, "digits-focal", own)
    recipe = params.experiments["digits"].recipe
    for job in (
        Train(place, params, "digits-focal", recipe, (Member(1),), ("key",)),
        Score(place, params, "digits-focal", 0, own / "weights", "key", shown=True),
        Floors(place, params, "digits", "key"),
    ):
        task = Task(job, "digits-focal", facts_of_it, "store", b"weights")
        written = pickle.dumps(Parcel.of(task))
        found = pickle.loads(written)  # noqa: S301  # our own bytes
        assert found.task(Common(params, facts_of_it, "store", None, None)) == task
        assert len(written) < len(pickle.dumps(task)) / 4


@inside
@pytest.mark.parametrize("listens", [False, True])
def test_an_address_that_is_no_heads_is_one_sentence(own: Path, tmp_path: Path, listens: bool) -> None:
    shutil.rmtree(own / "models")
    with socket.socket() as other:  # a port that somebody else has, and does not answer at
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        child = start(own, "digits-focal", address, tmp_path / "shared", tmp_path / "log")
        assert child.wait(timeout=400 if listens else 120) == 2
    said = (tmp_path / "log").read_text()
    assert f"RAY_ADDRESS is '{address}', where no cluster takes us" in said
    assert "Traceback" not in said


@inside
def test_what_is_told_of_an_error_is_its_last_line_and_our_own_sentences_alone() -> None:
    from lossbench.execution.ray_site import said

    assert said(GateError("the store is full")) == "the store is full"
    assert said(OSError("frames\n\n  of Ray's\n  no space left\n")) == "OSError: no space left"
    assert said(RuntimeError()) == "RuntimeError"


@inside
def test_nodes_that_come_later_get_jobs_and_those_without_room_none(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossbench.execution import ray_site

    def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"NodeID": name, "NodeManagerHostname": name, "Alive": alive, "Resources": resources}

    nodes = [node("first", CPU=2), node("head"), node("gone", False, CPU=2)]
    monkeypatch.setattr(ray_site, "connect", lambda: None)
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr(ray_site.Cluster, "_look", lambda *_: {})
    params = load_params(own / "params.yaml")
    made = ray_site.Cluster(params, Where(own, own, str(own / "store")), "id", 1.0)
    assert made.seats == {"first": 2}
    nodes[:] = [node("first", False, CPU=2), node("second", CPU=4)]
    made.count()
    assert made.seats == {"second": 4}
    made.demand["num_gpus"] = 0.1  # a tenth of a GPU: ten jobs, where 1 // 0.1 is nine
    nodes += [node("third", CPU=16, GPU=1)]
    made.count()
    assert made.seats == {"third": 10}
    made.refuse("fourth", "it differs")
    nodes[:] = [node("fifth", CPU=2, GPU=1)]  # jobs were handed out for named nodes, which this is not
    with pytest.raises(GateError, match="no node is left"):
        made.count()


@inside
def test_a_node_that_lacks_only_the_files_has_them_sent_and_one_that_fails_gets_no_more_jobs(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossbench.execution import ray_site
    from lossbench.execution.remote import BlindError, NodeError, Outcome

    monkeypatch.setattr(ray_site, "connect", lambda: None)
    monkeypatch.setattr(ray_site.Cluster, "_look", lambda *_: {})
    monkeypatch.setattr(ray_site.RayExecutor, "__post_init__", lambda _: None)
    monkeypatch.setattr("ray.put", lambda one: one)
    nodes = [
        {"NodeID": name, "NodeManagerHostname": name, "Alive": True, "Resources": {"CPU": 1}}
        for name in ("first", "late", "full")
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    params, place = load_params(own / "params.yaml"), Where(own, own, str(own / "store"))

    def after(node: str, error: Exception, most: int = 10**9) -> tuple[ray_site.RayExecutor, bool]:
        monkeypatch.setattr(ray_site, "TRAVELS", most)
        executor = ray_site.RayExecutor(ray_site.Cluster(params, place, "id", 1.0))
        job = Floors(place, params, "digits", "key")
        executor._over(job, Outcome(node, error, interrupted=True))
        return executor, list(executor._account.waiting) == [job]

    executor, again = after("late", BlindError("node late does not see the data"))
    assert again
    assert executor.cluster.bundle is not None
    assert not executor.cluster.refused
    executor, again = after("late", BlindError("node late does not see the data"), most=0)
    assert again
    assert "above the 0.0 GB that travel" in executor.cluster.refused["late"]
    executor, again = after("full", NodeError("/scratch: No space left on device"))
    assert again
    assert set(executor.cluster.seats) == {"first", "late"}
    nodes[1:] = []
    executor, again = after("first", NodeError("/scratch: No space left on device"))
    assert not again
    (event,) = executor._account.news
    told = (
        "no node of the cluster is left that computes what is wanted here: /scratch: No space left on device"
    )
    assert (event.kind, str(event.content)) == ("failed", told)


@inside
def test_data_that_do_not_travel_cost_only_the_nodes_that_do_not_see_them(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossbench.execution import ray_site
    from lossbench.execution.ray_worker import Seen

    params, place = load_params(own / "params.yaml"), Where(own, own, str(own / "store"))
    seen = facts(params, "digits-cross_entropy", own)
    looks = {"sees": Seen(seen, "id"), "blind": Seen(None, "id")}
    monkeypatch.setattr(ray_site, "connect", lambda: None)
    monkeypatch.setattr(ray_site.Cluster, "_look", lambda _, nodes: {one: looks[one] for one in nodes})
    monkeypatch.setattr(ray_site, "TRAVELS", 0)
    nodes = [
        {"NodeID": name, "NodeManagerHostname": name, "Alive": True, "Resources": {"CPU": 1}}
        for name in looks
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    made = ray_site.Cluster(params, place, "id", 1.0)
    assert set(made.seats) == {"sees"}
    assert "node blind: the data take" in made.refused["blind"]


@inside
def test_the_same_bytes_as_at_home_though_a_worker_is_killed(
    cluster: str, own: Path, study: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own / "models")
    log = tmp_path / "log"
    child = start(own, "digits-focal", cluster, tmp_path / "shared", log)
    killed = False
    while child.poll() is None:
        if not killed and (found := serving()):
            found[0].send_signal(signal.SIGKILL)
            killed = True
        time.sleep(0.2)
    said = log.read_text()
    assert child.returncode == 0, said[-3000:]
    assert killed
    assert "was lost with its worker or node; it is tried again (1 of 3)" in said
    assert "Traceback" not in said
    second = start(own, "digits-cross_entropy", cluster, tmp_path / "shared", log)
    assert second.wait() == 0, log.read_text()[-3000:]
    assert written(own) == written(study)


@inside
def test_short_jobs_share_a_task_and_the_one_that_was_lost_is_done_again_alone(
    cluster: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import ray

    from benchmarks.cluster_ray import KEPT, sleeping
    from lossbench.execution import ray_site
    from lossbench.outs import Outs
    from lossbench.store import Store

    monkeypatch.setenv("RAY_ADDRESS", cluster)
    params, store = load_params(own / "params.yaml"), Store(str(tmp_path / "store"))
    recipe, arm = params.experiments["digits"].recipe, "digits-focal"
    site = ray_site.RaySite(params, Outs(own), store)
    place, tasks = site.where(), 0

    def serve_here(number: int, written: bytes, common: Any) -> Any:
        os.environ[KEPT] = "0.3"
        return sleeping(number, written, common)

    def begun(executor: ray_site.RayExecutor) -> ray_site.Batch:
        nonlocal tasks
        tasks += 1
        return take(executor)

    take = ray_site.RayExecutor._batch
    monkeypatch.setattr(ray_site.RayExecutor, "_batch", begun)
    monkeypatch.setattr(ray_site, "serve", ray.remote(serve_here))
    executor = site.executor()
    executor.submit([Train(place, params, arm, recipe, (Member(one),), (f"key{one}",)) for one in range(40)])
    done: list[int] = []
    while (event := executor.next()) is not None:
        assert event.kind != "failed", event.content
        if event.kind == "done":
            done.append(event.job.members[0].seed)  # type: ignore[union-attr]  # all of them train
            if len(done) == 12:
                serving()[0].send_signal(signal.SIGKILL)
    executor.cancel()
    ray.shutdown()
    assert sorted(done) == list(range(40))
    assert tasks < 30
    assert capfd.readouterr().err.count("was lost with its worker or node") == 1
