"""The store: an entry is there whole or not at all, and what was damaged is noticed."""

import os
import random
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossbench.backing import Folder
from lossbench.errors import GateError, UserError
from lossbench.store import DamagedError, Store, opened

ADDRESSES = ["folder", "memory://lossbench-test"]


@pytest.fixture(params=ADDRESSES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    address = str(tmp_path / "store") if request.param == "folder" else f"{request.param}-{tmp_path.name}"
    return Store(address)


def test_what_is_put_is_got_to_the_last_bit(store: Store) -> None:
    content = {"b": [0.1 + 0.2, float("inf")], "a": {"z": 1, "y": "é"}}
    assert store.get("things", "ab12") is None
    store.put("things", "ab12", content, {"w": b"\x00\x01"})
    found = store.get("things", "ab12")
    assert found is not None
    assert found.content == content
    assert list(found.content) == ["b", "a"], "order is kept: outs are written from it"
    assert found.read("w") == b"\x00\x01"
    assert list(store.entries()) == [("things", "ab12")]
    assert store.damaged() == []
    store.drop("things", "ab12")
    assert store.get("things", "ab12") is None


@given(st.integers(0, 2**31 - 1))
def test_any_flipped_bit_is_noticed(seed: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        said: list[str] = []
        store = Store(folder, said.append)
        store.put("things", "ab12", {"history": [0.88] * 20}, {"w": bytes(range(200))})
        files = sorted(one for one in Path(folder).rglob("*") if one.is_file())
        rng = random.Random(seed)
        file = rng.choice(files)
        written = bytearray(file.read_bytes())
        written[rng.randrange(len(written))] ^= 1 << rng.randrange(8)
        file.write_bytes(written)
        assert len(store.damaged()) == 1
        found = store.get("things", "ab12")
        if found is None:
            assert len(said) == 1
            assert "computed anew" in said[0]
        else:
            with pytest.raises(DamagedError, match="not what was written"):
                found.read("w")


def test_an_entry_without_its_last_file_is_none(tmp_path: Path) -> None:
    """A writer that was killed before the end."""
    store = Store(str(tmp_path))
    store.put("things", "ab12", {}, {"w": b"1"})
    (tmp_path / "things/ab/ab12/entry.json").unlink()
    assert store.get("things", "ab12") is None
    assert [kind for kind, *_ in store.damaged()] == ["things"]


def test_two_writers_at_once_leave_one_whole_entry(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(50):
                store.put("things", "ab12", {"seconds": number}, {"w": b"same" * 1000})
            os._exit(0)
        children.append(child)
    for _ in range(200):
        found = store.get("things", "ab12")
        assert found is None or found.read("w") == b"same" * 1000
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert store.damaged() == []
    assert not list(Path(tmp_path).rglob("*.part"))


def test_a_fresh_run_has_an_empty_store_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOSSBENCH_STORE", raising=False)
    with opened(tmp_path) as kept:
        kept.put("things", "ab12", {})
    monkeypatch.setenv("LOSSBENCH_FRESH", "1")
    with opened(tmp_path) as fresh:
        assert fresh.get("things", "ab12") is None
        fresh.put("things", "cd34", {})
        assert os.environ["LOSSBENCH_STORE"] == fresh.address, "processes that it starts share it"
        with opened(tmp_path) as inner:
            assert inner.get("things", "cd34") is not None
    assert os.environ["LOSSBENCH_FRESH"] == "1"
    monkeypatch.delenv("LOSSBENCH_FRESH")
    with opened(tmp_path) as kept:
        assert kept.get("things", "ab12") is not None
        assert kept.get("things", "cd34") is None


def test_an_address_that_nobody_knows_is_refused_without_its_password() -> None:
    with pytest.raises(UserError, match="LOSSBENCH_STORE") as refused:
        Store("nosuch://me:secret@host/x").get("things", "ab12")
    assert "secret" not in str(refused.value)


def test_a_folder_shows_no_unfinished_files(tmp_path: Path) -> None:
    (tmp_path / ".half.part").touch()
    (tmp_path / "whole").touch()
    assert [one.path for one in Folder(tmp_path).files()] == ["whole"]


@pytest.mark.parametrize("address", ["memory://anywhere", "FILE"])
def test_a_store_that_other_processes_find_nothing_in_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOSSBENCH_STORE", address.replace("FILE", str(tmp_path / "file")))
    with (
        pytest.raises(UserError, match=r"LOSSBENCH_STORE is .*; allowed: a folder, or an address"),
        opened(tmp_path),
    ):
        pass


def test_what_is_not_there_may_be_dropped(store: Store) -> None:
    store.drop("things", "ab12")
    assert store.get("things", "ab12") is None


def test_a_store_that_does_not_answer_is_told_in_a_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        store = Store(f"http://me:secret@127.0.0.1:{unused.getsockname()[1]}/x")
        for ask in (lambda: store.get("things", "ab12"), lambda: store.put("things", "ab12", {})):
            with pytest.raises(GateError, match="LOSSBENCH_STORE is 'http://127") as refused:
                ask()
            assert "\n" not in str(refused.value)
            assert "secret" not in str(refused.value)
