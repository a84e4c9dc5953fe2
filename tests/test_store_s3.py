"""A store in an S3-compatible place, on a server that the test starts."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from service_cases import free_port, needs_s3, s3_server
from test_execution import own, study, written

from lossbench.errors import GateError, UserError
from lossbench.execution.checkpoints import checkpoint_of
from lossbench.execution.jobs import Where
from lossbench.pruning import remove, to_prune
from lossbench.store import Store

__all__ = ["own", "study"]
pytestmark = [pytest.mark.slow, pytest.mark.cluster, needs_s3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        yield dict(environment)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@pytest.fixture
def store(server: dict[str, str], tmp_path: Path) -> Store:
    return Store(f"s3://bucket/{tmp_path.name}")


def test_an_entry_goes_round_is_listed_and_pruned(store: Store, tmp_path: Path) -> None:
    assert store.get("things", "ab12") is None
    assert store.identify() == Store(store.address).identify()
    store.prove()
    store.put("things", "ab12", {"n": 1}, {"w": b"x" * 1000})
    found = store.get("things", "ab12")
    assert found is not None
    assert found.read("w") == b"x" * 1000
    assert set(store.contents()) == {("things", "ab12")}
    store.place.write(f"{found.folder}/{found.files['w']}", b"y")
    assert [sentence for *_, sentence in store.damaged()] == [
        f"{found.folder}: its file 'w' is not what was written"
    ]
    one, other = (checkpoint_of(Where(tmp_path, tmp_path / name, store.address), store, "c") for name in "ab")
    one.save({"epoch": 2})
    assert other.load() == {"epoch": 2}
    for item in list(to_prune(store.place, None, 0)):
        remove(store.place, item)
    assert [one.path for one in store.place.files()] == ["store.json"]


def test_writers_in_several_processes_leave_whole_entries(store: Store) -> None:
    code = (
        "import sys; from lossbench.store import Store; store = Store(sys.argv[1]); print(store.identify());"
        "[store.put('things', f'ab{n % 5}', {'who': sys.argv[2]}, {'w': b'same' * 1000}) for n in range(20)]"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, store.address, str(number)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    ids = {one.communicate(timeout=120)[0] for one in children}
    assert [one.returncode for one in children] == [0, 0, 0]
    assert ids == {f"{store.identify()}\n"}, "all see one store"
    assert store.damaged() == []
    assert len(store.contents()) == 5


def test_what_stands_in_the_way_is_one_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="bucket does not exist; allowed: a place that is there"):
        Store("s3://nobody-has-made-it/x").identify()
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(GateError, match="Could not connect") as refused:
        Store(f"{store.address}-gone").identify()
    assert "\n" not in str(refused.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(GateError, match="Unable to locate credentials"):
        Store(f"{store.address}-nobody").identify()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_second_checkout_that_shares_the_store_trains_nothing(
    own: Path, study: Path, store: Store, tmp_path: Path
) -> None:
    for root in (own, tmp_path / "twin"):
        if root != own:
            shutil.copytree(own, root)
        shutil.rmtree(root / ".lossbench", ignore_errors=True)
        shutil.rmtree(root / "models", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOSSBENCH_STORE": store.address}
    for arm in ("digits-focal", "digits-cross_entropy"):
        run(own, arm, environment)
    there = {one.path: one.written for one in store.place.files()}
    for arm in ("digits-focal", "digits-cross_entropy"):
        run(tmp_path / "twin", arm, environment)
    assert {one.path: one.written for one in store.place.files()} == there, "nothing was computed again"
    assert written(own) == written(tmp_path / "twin") == written(study)
    assert not [one for one in there if one.startswith("checkpoints/")]


def run(root: Path, arm: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lossbench.stages.train", arm], cwd=root, env=environment, capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert environment["AWS_SECRET_ACCESS_KEY"] not in done.stderr + done.stdout
