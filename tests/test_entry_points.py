"""What stands around the chain: make's targets, the summary, a checkout without git, paths with ~."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, stage, tiny_params, write_params
from data_cases import class_folder
from dvc_cases import checkout, dvc, python
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each

from lossbench.chain import without_git
from lossbench.checking import check
from lossbench.commands.summary import aligned
from lossbench.editing import write_out_homes, write_values
from lossbench.errors import UserError
from lossbench.params import load_params
from lossbench.reporting.write import write_report
from lossbench.studies import new_study


def _dry_run(target: str, *variables: str) -> str:
    """The last command that a target would run."""
    # CI runs the tests by make, and a make inside another would end its output by "Leaving directory".
    return subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target, "VENV=.none", *variables],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()[-1]  # fmt: skip


@each(
    "target",
    [
        "backup",
        "clean",
        "doctor",
        "repro",
        "restore",
        "retrain",
        "rollback",
        "serve",
        "summary",
        "track",
        "ui",
    ],
)
def test_every_target_goes_where_study_says(target: str) -> None:
    command = _dry_run(target, "STUDY=studies/my one")
    assert 'cd "studies/my one"' in command or '--study "studies/my one"' in command
    plain = _dry_run(target)
    assert "studies" not in plain


def test_the_licence_names_the_authors() -> None:
    holders = re.findall(r"^\s*Copyright .*$", (ROOT / "LICENSE").read_text(), re.MULTILINE)
    assert [one.strip() for one in holders if re.search(r"\d{4}", one)] == [
        "Copyright 2026 The Lossbench authors"
    ]


@given(
    st.lists(
        st.lists(st.text("abc_", min_size=1, max_size=40), min_size=3, max_size=3), min_size=1, max_size=5
    )
)
def test_columns_never_run_into_each_other(rows: list[list[str]]) -> None:
    lines = aligned(rows).splitlines()
    assert [line.split() for line in lines] == rows


@pytest.mark.slow
def test_the_summary_names_the_report_where_the_user_has_it(trained_study: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(trained_study, study)
    write_report(load_params(study / "params.yaml"), study, study / ".lossbench")
    hashed = tmp_path / "cache/files/md5/ab/cdef"
    hashed.parent.mkdir(parents=True)
    (study / "reports/index.html").rename(hashed)  # as DVC leaves it with `cache.type symlink`
    (study / "reports/index.html").symlink_to(hashed)
    ran = stage(study, "summary")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == str(study / "reports/index.html")


# Without git.


def test_without_git_dvc_is_told_so_once_and_only_there(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / ".dvc", tmp_path / "code/.dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local")
    )
    said: list[str] = []
    for _ in range(2):
        without_git(tmp_path / "code", said.append)
    assert len(said) == 1
    assert "no git repository" in said[0]
    ran = dvc(tmp_path / "code", "root")
    assert ran.returncode == 0, ran.stderr
    (tmp_path / "code/.dvc/config.local").unlink()
    (tmp_path / ".git/objects").mkdir(parents=True)
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    without_git(tmp_path / "code", said.append)
    assert len(said) == 1
    without_git(tmp_path, said.append)  # no DVC either
    assert len(said) == 1


def repository(folder: Path) -> Path:
    (folder / "objects").mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    return folder


GITS: dict[str, tuple[Callable[[Path], object], bool]] = {
    "a repository": (repository, True),
    "a worktree or submodule": (
        lambda git: git.write_text(f"gitdir: {repository(git.parent / 'elsewhere')}\n"),
        True,
    ),
    "a relative submodule": (lambda git: (repository(git.parent / "x"), git.write_text("gitdir: x")), True),
    "a link": (lambda git: git.symlink_to(repository(git.parent / "elsewhere")), True),
    "nothing": (lambda git: None, False),
    "a copied worktree": (lambda git: git.write_text("gitdir: /nonexistent/worktrees/x\n"), False),
    "a copied submodule": (lambda git: git.write_text("gitdir: ../.git/modules/x\n"), False),
    "another file": (lambda git: git.write_bytes(b"\xff\xfe"), False),
    "an empty file": (lambda git: git.touch(), False),
    "an empty folder": (lambda git: git.mkdir(), False),
    "a folder without objects": (lambda git: shutil.rmtree(repository(git) / "objects"), False),
    "a dead link": (lambda git: git.symlink_to("/nonexistent"), False),
}


@each("what", GITS)
def test_what_is_called_git_and_is_none_is_told_to_dvc(what: str, tmp_path: Path) -> None:
    make, whole = GITS[what]
    (tmp_path / "code/.dvc").mkdir(parents=True)
    (tmp_path / "code/.dvc/config").touch()
    make(tmp_path / "code/.git")
    said: list[str] = []
    without_git(tmp_path / "code", said.append)
    assert len(said) == (0 if whole else 1)
    if not whole:
        assert "no_scm = True" in (tmp_path / "code/.dvc/config.local").read_text()


@pytest.mark.slow
def test_a_download_without_git_runs(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    shutil.rmtree(folder / ".dvc")
    shutil.copytree(
        ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local")
    )
    assert "not a git repository" in dvc(folder, "status").stderr
    made = tiny_params()
    del made["experiments"]["scenes"], made["datasets"]["scenes"]
    made["arms"] = {name: arm for name, arm in made["arms"].items() if arm["experiment"] == "digits"}
    write_params(folder, made)
    ran = python(folder, "lossbench", "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == str(folder / "reports/index.html")


# ~ is the home folder.


def study_at_home(folder: Path, path: str) -> dict[str, Any]:
    made = tiny_params()
    made["datasets"]["digits"] = {"source": "image_folder", "path": path, "size": [8, 8], "channels": 1}
    write_params(folder, made)
    return made


def test_a_path_at_home_is_written_out_aloud_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    class_folder(tmp_path / "me/data1", 8, ("cat", "dog"))
    study_at_home(tmp_path, "~/data1")
    file = tmp_path / "params.yaml"
    file.write_text("# mine\n" + file.read_text())
    before, said = file.read_text(), []
    params = write_out_homes(load_params(file), tmp_path, said.append)
    full = str(tmp_path / "me/data1")
    assert params.datasets["digits"].path == full
    assert load_params(file) == params
    assert file.read_text() == before.replace("~/data1", full)
    assert len(said) == 1
    assert full in said[0]
    assert write_out_homes(params, tmp_path, said.append) == params
    assert len(said) == 1


def test_without_make_repro_check_says_what_to_write(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    class_folder(tmp_path / "me/data1", 8, ("cat", "dog"))
    study_at_home(tmp_path, "~/data1")
    with pytest.raises(
        UserError, match=rf"'datasets.digits.path' is '~/data1', .* write '{tmp_path}/me/data1'"
    ):
        check(load_params(tmp_path / "params.yaml"), study=tmp_path)


def test_nobody_s_home_is_a_sentence(tmp_path: Path) -> None:
    study_at_home(tmp_path, "~nobody-of-this-name/x")
    with pytest.raises(UserError, match=r"datasets\.digits\.path"):
        check(load_params(tmp_path / "params.yaml"), study=tmp_path)
    with pytest.raises(UserError, match="DATA is"):
        new_study("mine", Path("~nobody-of-this-name/x"), tmp_path)


def test_new_study_takes_a_folder_at_home(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    class_folder(tmp_path / "me/data1", 8, ("cat", "dog"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    study = new_study("mine", Path("~/data1"), tmp_path)
    assert load_params(study / "params.yaml").datasets["mine"].path == str(tmp_path / "me/data1")


@pytest.mark.slow
def test_make_repro_with_a_path_at_home_gets_through_dvc(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    folder = checkout(tmp_path / "code")
    class_folder(tmp_path / "me/data1", 40, ("cat", "dog"))
    made = study_at_home(folder, "~/data1")
    del made["experiments"]["scenes"], made["datasets"]["scenes"]
    made["arms"] = {name: arm for name, arm in made["arms"].items() if arm["experiment"] == "digits"}
    write_params(folder, made)
    ran = python(folder, "lossbench", "run", HOME=str(tmp_path / "me"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "written out for DVC" in ran.stdout


def test_a_value_that_stands_there_already_is_not_written_again(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a:   {b:   1}   # odd layout\n")
    write_values(file, {("a", "b"): 1})
    assert file.read_text() == "a:   {b:   1}   # odd layout\n"


def test_the_private_folder_may_be_at_home(monkeypatch: Any) -> None:
    from lossbench.written import home

    monkeypatch.setenv("LOSSBENCH_HOME", "~/scratch")
    assert home(Path("study")) == Path.home() / "scratch"
