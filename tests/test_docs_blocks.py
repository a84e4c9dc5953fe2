"""Every block of every page is run as it stands there, or says above it who runs it, or why nobody can."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT, tiny_params, train_study, write_params
from data_cases import class_folder
from docs_cases import PAGES, Block, blocks_of
from dvc_cases import BIN, checkout, environment
from law_cases import each
from ruamel.yaml import YAML

from lossbench.checking import check
from lossbench.params import load_params

LANGUAGES = {"bash", "python", "yaml", "text", "csv", "json"}
RUN_BY = re.compile(r"run by (\S+)")
REASON = re.compile(r"(shown only|needs an? [\w ]+), (\S+ ){2,}\S+")
"""What stands above a block that no test runs: a reason of three words at least."""
FILE = re.compile(r"file (\S+)")
MADE_UP = {"/path/to/folder": "pictures"}
"""What stands in a page for the reader's own, and what the test has there."""
ALL = [block for page in PAGES for block in blocks_of(page)]


def name_of(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@each("block", ALL)
def test_a_block_is_run_or_says_who_runs_it_or_why_nobody_does(block: Block) -> None:
    assert block.language in LANGUAGES, "say the block's language"
    if found := RUN_BY.fullmatch(block.mark):
        assert (ROOT / found[1]).is_file()
        return
    plain = not block.mark or (block.mark == "printed" and block.language == "text")
    known = plain or FILE.fullmatch(block.mark) or REASON.fullmatch(block.mark)
    assert known, (
        f"'{block.mark}'; allowed: run by FILE; shown only, REASON; needs a …, REASON; file NAME; printed"
    )


def test_no_fence_is_passed_over() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks_of(page)), page
        marks = re.findall(r"^ *<!-- block: ", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(marks) == len([one for one in blocks_of(page) if one.mark]), (
            f"{page}: a mark above no block"
        )


STUDIES = sorted({study for block in ALL for study in re.findall(r"STUDY=(studies/\w+)", block.text)})


def test_the_studies_that_blocks_name_ship_or_are_the_readers() -> None:
    readers = {"studies/mine", "studies/name"}
    assert [one for one in STUDIES if one not in readers and not (ROOT / one / "params.yaml").is_file()] == []


def script(blocks: list[Block]) -> str:
    """A page's blocks as one script for bash that ends at the first failure and names its block."""
    lines = ["set -euo pipefail", "trap 'echo \"FAILED: $at\" >&2' ERR"]
    for block in blocks:
        text = block.text
        for made_up, there in MADE_UP.items():
            text = text.replace(made_up, there)
        lines.append(f"at='{name_of(block)}'")
        lines.append(f"python - <<'END'\n{text}END" if block.language == "python" else text)
    return "\n".join(lines)


def run(blocks: list[Block], folder: Path) -> str:
    """Run blocks in a folder, in one shell; return what they print."""
    venv = folder / "venv"
    if not venv.is_dir():  # make asks for nothing to be installed: it is, in the environment of the tests
        venv.mkdir()
        (venv / "bin").symlink_to(BIN)
        for stamp in ("installed", "installed-dev"):
            (venv / stamp).touch()
    code = folder if (folder / "lossbench").is_dir() else ROOT
    ended = subprocess.run(
        ["bash", "-c", script(blocks)],
        cwd=folder,
        env=environment(PYTHONPATH=str(code), MAKEFLAGS="VENV=venv"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which nothing has run, with a Makefile."""
    folder = tmp_path_factory.mktemp("ground")
    write_params(folder, tiny_params())
    for name in (
        "Makefile",
        "dvc.yaml",
        "requirements.lock",
        "requirements-dev.lock",
        "requirements-uv.lock",
    ):
        shutil.copy2(ROOT / name, folder)
    shutil.copytree(ROOT / "plugins", folder / "plugins")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if any(one.language in ("bash", "python") and not one.mark for one in blocks_of(page))
    ],
    ids=lambda page: page.name,
)
def test_the_blocks_of_a_page_run_as_they_stand(page: Path, ground: Path) -> None:
    for block in blocks_of(page):
        if found := FILE.fullmatch(block.mark):
            (ground / found[1]).write_text(block.text, encoding="utf-8")
    printed = run(
        [one for one in blocks_of(page) if one.language in ("bash", "python") and not one.mark], ground
    )
    for block in blocks_of(page):
        if block.mark == "printed":
            assert block.text in printed, f"{name_of(block)}: printed was\n{printed}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_folder_of_ones_own_becomes_a_study_that_runs(tmp_path: Path) -> None:
    """docs/own-data.md's first blocks; between them seeds and epochs are cut down to seconds."""
    folder = checkout(tmp_path / "checkout")
    for name in ("Makefile", "requirements-dev.lock", "requirements-uv.lock"):
        shutil.copy2(ROOT / name, folder)
    class_folder(folder.parent / "pictures", per_class=12, classes=("cat", "dog"))
    (folder / "pictures").symlink_to(folder.parent / "pictures")
    block = next(one for one in blocks_of(ROOT / "docs/own-data.md") if one.language == "bash")
    making, running = block.text.splitlines()
    assert "proposed: classification" in run([replace(block, text=making)], folder)
    file = folder / "studies/mine/params.yaml"
    content: dict[str, Any] = YAML(typ="safe").load(file.read_text())
    arms = {name: one for name, one in content["arms"].items() if one["loss"] in ("cross_entropy", "focal")}
    content |= {"seeds": [0, 1], "tuning": {"trials": 0}, "arms": arms}
    content["experiments"]["mine"]["recipe"]["epochs"] = 1
    write_params(file.parent, content)
    assert "mine" in run([replace(block, text=running)], folder)
    assert (file.parent / "reports/index.html").is_file()


TASKS = ("classification", "segmentation", "detection", "multi-label", "anomaly", "language-model")


def whole_params(task: str) -> dict[str, Any]:
    """The params.yaml that a task's page shows."""
    (block,) = [one for one in blocks_of(ROOT / f"docs/{task}.md") if one.mark == "file params.yaml"]
    content: dict[str, Any] = YAML(typ="safe").load(block.text)
    return content


@each("task", TASKS)
def test_the_params_of_a_task_s_page_are_whole_and_make_sense(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path, whole_params(task))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    (tmp_path / "plugins").mkdir()
    monkeypatch.chdir(tmp_path)
    check(load_params())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", TASKS)
def test_the_params_of_a_task_s_page_train_and_are_scored(task: str, tmp_path: Path) -> None:
    """All that the page shows, on little data for an epoch or two."""
    content = whole_params(task)
    (dataset,) = content["datasets"].values()
    small = {"train": 32, "validation": 16, "test": 16, "reference": 4}
    dataset.update(small if dataset["source"] == "digit_scenes" else {"subset": 120})
    (experiment,) = content["experiments"].values()
    experiment["recipe"] |= {"epochs": 1, "batch_size": 16}
    content |= {"seeds": [0, 1], "tuning": {"trials": 0}}
    study = tmp_path / "study"
    train_study(study, content)
    (scores,) = study.glob("reports/evaluation/*/scores.csv")
    found = pd.read_csv(scores)
    assert {experiment["metric"]} <= set(found["metric"])
    assert set(found["loss"]) == set(content["losses"])
