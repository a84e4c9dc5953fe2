"""The store at any address: whole files, one sentence for what stands in the way, pruning."""

import argparse
import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples

from lossbench.backing import File, Folder, Remote, absolute, place_of, without_secrets
from lossbench.commands import store as command
from lossbench.errors import GateError, UserError
from lossbench.execution.checkpoints import SharedCheckpoint, checkpoint_of
from lossbench.execution.jobs import Where
from lossbench.pruning import DAY, items, read_size, remove, say_size, to_prune
from lossbench.store import FORMAT, MARKER, DamagedError, Store, opened

KINDS = ["folder", "file", "memory", "dir"]


def address(kind: str, folder: Path) -> str:
    return {
        "folder": str(folder / "s"),
        "file": f"file://{folder}/s",
        "memory": f"memory://places-{folder.name}",
        "dir": f"dir://s::file://{folder}",
    }[kind]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(address(request.param, tmp_path))


def test_an_entry_goes_round_and_is_listed_with_size_and_time(store: Store) -> None:
    store.put("things", "ab12", {"n": 1}, {"w": b"x" * 100})
    found = store.get("things", "ab12")
    assert found is not None
    assert found.read("w") == b"x" * 100
    ((which, files),) = store.contents().items()
    assert which == ("things", "ab12")
    assert {one.size for one in files} >= {100}
    assert all(abs(one.written - time.time()) < 100 for one in files)
    (item,) = items(store.place)
    assert item.size == sum(one.size for one in files)
    store.drop("things", "ab12")
    assert store.contents() == {}


def test_a_store_has_one_id_whoever_asks(store: Store) -> None:
    asked: list[str] = []
    threads = [threading.Thread(target=lambda: asked.append(store.identify())) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(asked) == 8
    if isinstance(store.place, Folder) or store.place._objects:  # type: ignore[attr-defined]
        assert set(asked) == {store.identify()}, "nobody overwrites what somebody may have read"
    assert Store(store.address).identify() == store.identify()


def test_a_store_of_a_later_version_is_refused_and_a_torn_marker_mended(store: Store) -> None:
    store.place.write(MARKER, b"{to")
    assert store.identify() == store.identify()
    store.place.write(MARKER, json.dumps({"format": FORMAT + 1, "id": "x"}).encode())
    with pytest.raises(UserError, match="later version"):
        store.identify()


def test_create_writes_once(store: Store) -> None:
    assert store.place.create("a/b", b"1")
    assert not store.place.create("a/b", b"2")
    assert store.place.read("a/b") == b"1"
    store.prove()
    assert [one.path for one in store.place.files()] == ["a/b"], "what is tried leaves nothing"


@pytest.mark.parametrize("kind", ["memory", "dir"])
def test_writers_and_readers_at_once_see_whole_files(kind: str, tmp_path: Path) -> None:
    """In threads, which share what fsspec keeps; processes and folders: tests/test_store.py."""
    store = Store(address(kind, tmp_path))
    contents = [bytes([number]) * 200_000 for number in range(4)]
    wrong: list[bytes] = []

    def write(content: bytes) -> None:
        for _ in range(5):
            store.place.write("things/one", content)

    def read() -> None:
        for _ in range(20):
            try:
                found = store.place.read("things/one")
            except FileNotFoundError:
                continue
            if found not in contents:
                wrong.append(found)

    threads = [threading.Thread(target=write, args=(one,)) for one in contents]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []
    assert [one.path for one in store.place.files()] == ["things/one"]


def test_an_entry_under_another_key_is_noticed(store: Store) -> None:
    store.put("things", "ab12", {"n": 1}, {"w": b"1"})
    store.place.write("things/ab/ab34/entry.json", store.place.read("things/ab/ab12/entry.json"))
    assert store.get("things", "ab34") is None
    ((kind, key, sentence),) = store.damaged()
    assert (kind, key) == ("things", "ab34")
    assert "is that of things/ab/ab12" in sentence


def test_a_file_that_is_gone_is_said(store: Store) -> None:
    entry = store.put("things", "ab12", {}, {"w": b"1"})
    store.place.remove(f"{entry.folder}/{entry.files['w']}")
    with pytest.raises(DamagedError, match="'w' is gone"):
        entry.read("w")


def refuse(*_: object) -> None:
    raise GateError("the store does not answer")


def test_a_checkpoint_is_found_on_another_machine(store: Store, tmp_path: Path) -> None:
    here, there = (Where(tmp_path, tmp_path / name, store.address) for name in ("here", "there"))
    one, other = (checkpoint_of(where, store, "ab") for where in (here, there))
    assert other.load() is None
    one.save({"epoch": 3})
    assert other.load() == {"epoch": 3}
    if isinstance(other, SharedCheckpoint):
        other.save({"epoch": 5})
        assert one.load() == {"epoch": 5}, "what lay here would be older"
        assert not [*here.home.glob("**/*.pt"), *there.home.glob("**/*.pt")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Remote, "write", refuse)
            one.save({"epoch": 7})
        assert one.load() == {"epoch": 7}, "what the store did not take is not lost"
        one.remove()
        assert checkpoint_of(Where(tmp_path, tmp_path / "third", store.address), store, "ab").load() is None
    else:
        one.remove()
        assert other.load() is None


AGES = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 1000)), max_size=8)


class Listed:
    """A place that only lists."""

    def __init__(self, ages: list[tuple[int, int]]) -> None:
        self.there = {
            f"k/ab/ab{number:02}/f{part}": File(f"k/ab/ab{number:02}/f{part}", size, -days * DAY)
            for number, (days, size) in enumerate(ages)
            for part in range(2)
        }

    def files(self) -> list[File]:
        return list(self.there.values())

    def remove(self, path: str) -> None:
        self.there = {name: one for name, one in self.there.items() if not f"{name}/".startswith(f"{path}/")}


@settings(max_examples=examples(50))
@given(AGES, st.none() | st.integers(0, 100), st.none() | st.integers(0, 5000))
def test_pruning_leaves_what_is_young_and_fits_the_youngest_first(
    ages: list[tuple[int, int]], days: int | None, size: int | None
) -> None:
    place = Listed(ages)
    if days is None and size is None:
        with pytest.raises(UserError, match="allowed: one of them"):
            list(to_prune(place, days, size, 0.0))  # type: ignore[arg-type]
        return
    gone = list(to_prune(place, days, size, 0.0))  # type: ignore[arg-type]
    for one in gone:
        remove(place, one)  # type: ignore[arg-type]
    left = items(place)  # type: ignore[arg-type]
    assert {one.path for one in gone}.isdisjoint(one.path for one in left)
    assert len(gone) + len(left) == len(ages)
    if days is not None:
        assert all(-one.written <= days * DAY for one in left)
    if size is not None:
        assert sum(one.size for one in left) <= size
    if gone and left:
        assert max(one.written for one in gone) <= min(one.written for one in left), "the oldest go first"
    if gone and days is None:
        last = gone[-1].size + sum(one.size for one in left)
        assert size is not None
        assert last > size, "no more than necessary"


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 TiB", int(1.5 * 2**40)), ("12", 12), ("3k", 3000)]
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "2 parsecs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="allowed: a size such as"):
        read_size(text)
    assert say_size(2_000) == "2.0 kB"


def run(folder: Path, *words: str) -> None:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    command.main(parser.parse_args([*words, "--study", str(folder)]))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOSSBENCH_STORE", f"file://{tmp_path}/shared")
    (tmp_path / "params.yaml").touch()
    kept = Store(str(tmp_path / "shared"))
    kept.identify()
    for key in ("ab12", "cd34"):
        kept.put("things", key, {}, {"w": b"x" * 1000})
    os.utime(tmp_path / "shared/things/ab/ab12/entry.json", (0, 0))
    os.utime(next((tmp_path / "shared/things/ab/ab12").glob("[0-9a-f]*")), (0, 0))
    return kept


def test_the_verb_lists_verifies_and_prunes(
    study: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "list")
    assert "things" in (said := capsys.readouterr().out)
    assert "kB" in said
    assert "0 to " in said
    run(tmp_path, "prune", "--older-than", "30", "--dry-run")
    assert "1 of the store's entries would go" in capsys.readouterr().out
    assert len(study.contents()) == 2
    run(tmp_path, "prune", "--older-than", "30")
    assert set(study.contents()) == {("things", "cd34")}
    run(tmp_path, "verify")
    assert "1 of 1 entries are what was written" in capsys.readouterr().out
    next((tmp_path / "shared/things/cd/cd34").glob("[0-9a-f]*")).write_bytes(b"y")
    with pytest.raises(GateError, match="1 entries are damaged"):
        run(tmp_path, "verify")
    run(tmp_path, "prune", "--keep", "0B")
    assert study.contents() == {}
    assert (tmp_path / "shared" / MARKER).is_file()


@pytest.mark.parametrize("days", ["-1", "soon", "nan"])
def test_senseless_days_are_refused(study: Store, tmp_path: Path, days: str) -> None:
    with pytest.raises(UserError, match="allowed: a number of days"):
        run(tmp_path, "prune", f"--older-than={days}")


@pytest.mark.parametrize(
    ("given_address", "said"),
    [
        ("s3://me:hunter2@bucket/x", "allowed: the address alone"),
        ("simplecache::s3://bucket/x", "too late"),
        ("file://relative/x", "a folder's whole path"),
        ("nosuch://me:hunter2@host", "allowed: a folder, or an address"),
        ("ftp://", "allowed: a folder, or an address"),
        ("/dev/null/x/y", "but /dev/null is no folder; allowed"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_in_a_sentence(given_address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        place_of(given_address)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UserError, match=r"s3fs.*requirements-services\.lock"):
        place_of("s3://bucket/x")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError("Access Denied for me:hunter2"), "no right to read or write there"),
        (OSError("Could not connect to ftp://me:hunter2@host\nmore"), "Could not connect"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_what_a_file_system_says_is_one_sentence_without_secrets(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Remote(f"memory://errors-{tmp_path.name}")
    place._address = "ftp://me:hunter2@host/x"

    def fail(*_: object, **__: object) -> bytes:
        raise error

    for name in ("cat_file", "pipe_file", "find", "rm"):
        monkeypatch.setattr(place._files, name, fail)
    for ask in (
        lambda: place.read("a"), lambda: place.write("a", b""), lambda: list(place.files()),
        lambda: place.remove("a"),
    ):  # fmt: skip
        with pytest.raises(GateError, match=said) as refused:
            ask()
        assert "hunter2" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_bucket_that_is_not_there_is_refused_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Remote(f"memory://bucket-{tmp_path.name}")

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(place._files, "pipe_file", fail)
    with pytest.raises(UserError, match="bucket does not exist; allowed: a place that is there"):
        place.write("a", b"")


def test_what_the_environment_keeps_secret_is_told_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abcd1234")
    assert without_secrets("signed with abcd1234.", "s3://bucket") == "signed with ***."


def test_a_file_address_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBENCH_STORE", f"file://{tmp_path}/a%20b")
    with opened(tmp_path) as kept:
        assert isinstance(kept.place, Folder)
        assert absolute(kept.address) == str(tmp_path / "a b")
        kept.put("things", "ab12", {})
    assert (tmp_path / "a b/things/ab/ab12/entry.json").is_file()
