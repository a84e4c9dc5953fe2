"""A machine that fails (no room, no permission, no network): one sentence, no traceback, nothing damaged, and on it goes."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, stage, tiny_params, write_params
from data_cases import class_folder
from law_cases import mostly_slow
from server_cases import GOOD, ONE, Server, left_in

from lossbench.data.sources.obtaining import UnavailableError, download


def limited(folder: Path, *arguments: str, limit: Callable[[], None], before: Sequence[str] = ()) -> Any:
    """Run a stage, or a verb of `lossbench`, under a limit."""
    module = arguments[0] if arguments[0] == "lossbench" else f"lossbench.stages.{arguments[0]}"
    return subprocess.run(
        [*before, sys.executable, "-m", module, *arguments[1:]], cwd=folder, preexec_fn=limit,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def no_file_may_grow(most: int) -> Callable[[], None]:
    """Let every write beyond ``most`` bytes of a file fail, in libraries of C too, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def small() -> dict[str, Any]:
    """The tiny study with one arm per experiment's loss, on digits alone."""
    content = tiny_params()
    del content["datasets"]["scenes"], content["experiments"]["scenes"]
    content["arms"] = {name: arm for name, arm in content["arms"].items() if arm["experiment"] == "digits"}
    return content


def tree(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def one_sentence(ended: Any) -> str:
    """Whatever failed says so in one line, the last, and with a code of its own."""
    assert ended.returncode in (1, 2), ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    last = str(ended.stderr.splitlines()[-1])
    assert last.startswith(("error: ", "refused: ")), ended.stderr
    return last


@pytest.fixture
def study(trained_study: Path, tmp_path: Path) -> Path:
    """A copy of the trained study with digits alone, at which no disk has failed yet."""
    shutil.copytree(trained_study, tmp_path / "study")
    write_params(tmp_path / "study", small())
    for gone in ("data/scenes", "models/scenes", "reports/evaluation/scenes"):
        shutil.rmtree(tmp_path / "study" / gone)
    return tmp_path / "study"


STAGES = {  # stage → its out, and what a file may hold
    ("fetch", "digits"): ("data/digits", 2000),
    ("train", "digits-focal"): ("models/digits/digits-focal", 1000),
    ("evaluate", "digits"): ("reports/evaluation/digits", 500),
    ("report",): ("reports/index.html", 5000),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", list(STAGES), ids=lambda one: one[0])
def test_a_stage_on_a_full_disk_ends_with_a_sentence_and_runs_once_there_is_room(
    arguments: tuple[str, ...], study: Path
) -> None:
    out, most = STAGES[arguments]
    whole = stage(study, *arguments)
    assert whole.returncode == 0, whole.stderr
    expected = tree(study / out) if (study / out).is_dir() else (study / out).read_bytes()
    shutil.rmtree(study / ".lossbench", ignore_errors=True)  # finished replicates would be taken from there
    sentence = one_sentence(limited(study, *arguments, limit=no_file_may_grow(most)))
    assert "too large" in sentence or "written" in sentence or "room" in sentence, sentence
    again = stage(study, *arguments)
    assert again.returncode == 0, again.stderr
    assert (tree(study / out) if (study / out).is_dir() else (study / out).read_bytes()) == expected


@pytest.mark.slow
def test_the_record_in_mlflow_on_a_full_disk_is_completed_later(study: Path) -> None:
    one_sentence(limited(study, "lossbench", "track", limit=no_file_may_grow(100_000)))
    for file in study.glob("mlflow.db*"):  # whose tables were half made
        file.unlink()
    again = limited(study, "lossbench", "track", limit=lambda: None)
    assert again.returncode == 0, again.stderr
    assert "2 arms recorded now" in again.stdout


def as_anybody() -> list[str]:
    """A prefix that takes root's right to pass over permissions away."""
    if os.geteuid():
        return []
    program = shutil.which("setpriv")
    assert program, "setpriv is not installed; it is part of util-linux"
    return [program, "--bounding-set=-dac_override,-dac_read_search,-fowner"]


def closed(path: Path, mode: int, folder: Path, *arguments: str) -> Any:
    """Run a stage while a path has other permissions."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        return limited(folder, *arguments, limit=lambda: None, before=as_anybody())
    finally:
        path.chmod(before)


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    write_params(tmp_path, small())
    (tmp_path / "data").mkdir()
    sentence = one_sentence(closed(tmp_path / "data", 0o555, tmp_path, "fetch", "digits"))
    assert "data/" in sentence
    assert "Permission denied" in sentence
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("what", mostly_slow(["mine/ant/ant-3.png", "params.yaml", "mine", "mine/ant"], 4))
def test_what_may_not_be_read_is_named(what: str, tmp_path: Path) -> None:
    content = small()
    content["datasets"]["digits"] = {"source": "image_folder", "path": "mine"}
    write_params(tmp_path, content)
    class_folder(tmp_path / "mine")
    sentence = one_sentence(closed(tmp_path / what, 0o000, tmp_path, "fetch", "digits"))
    assert Path(what).name in sentence
    assert "Permission denied" in sentence
    assert not (tmp_path / "data").exists()


def test_a_network_that_goes_in_the_middle_of_a_file_leaves_nothing_behind(
    serve: type[Server],
    tmp_path: Path,
) -> None:
    dropping = serve(GOOD[:700])
    with pytest.raises(UnavailableError, match=dropping.address):
        download([ONE], [dropping.address], tmp_path / "downloads")
    assert not (tmp_path / "downloads").exists() or left_in(tmp_path / "downloads") == []
    download([ONE], [serve(GOOD).address], tmp_path / "downloads")
    assert (tmp_path / "downloads/file.gz").read_bytes() == GOOD
