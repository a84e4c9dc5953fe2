"""What the docs show works as shown, and what they link to is there."""

import argparse
import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from conftest import ROOT, write_params
from docs_cases import LINE, PAGES, blocks, follow
from law_cases import each
from ruamel.yaml import YAML

from lossbench.checking import check
from lossbench.cli import VERBS
from lossbench.params import load_params


@each("page", PAGES)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@each("page", PAGES)
def test_make_targets_that_docs_name_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    prose = re.sub(r"```text.*?```", "", page.read_text(), flags=re.DOTALL)  # docstrings of losses
    named = set(re.findall(r"\bmake ([a-z-]+)", " ".join(re.findall(r"`+[^`]+`+", prose))))
    assert not [
        target
        for target in named
        if not re.search(rf"^([a-z -]* )?{target}( [a-z -]*)?:", makefile, re.MULTILINE)
    ]


def commands(page: Path) -> list[str]:
    """What a page tells people to type: lines of its blocks, and code spans, without comments."""
    text = re.sub(r"^```text\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in found for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [re.sub(r"\s+#.*|\s*…", "", " ".join(one.split())) for one in lines + spans]


def words_of(command: str) -> list[str]:
    """Split a command, without what is set before it and without what the shell makes of its output."""
    words = shlex.split(re.split(r"\s*(?:\||&&|;|2?>)\s*", command)[0])
    return [one for one in words if one not in ("sudo", "--preserve-env=MLFLOW_TRACKING_URI")]


@each("page", PAGES)
def test_the_verbs_and_options_that_pages_name_are_taken(page: Path) -> None:
    wrong = []
    for command in commands(page):
        found = re.search(r"(?:^|\s|/)(?:python -m )?lossbench ([a-z][a-z-]*\b.*)", command)
        if not found or "lossbench.yaml" in command:
            continue
        verb, *words = words_of(found[1])
        if verb not in VERBS:
            wrong.append(command)
            continue
        taken = argparse.ArgumentParser(add_help=True)
        import_module(f"lossbench.commands.{verb.replace('-', '_')}").arguments(taken)
        options = {one for action in taken._actions for one in action.option_strings}
        wrong += [command for one in words if one.startswith("--") and one.partition("=")[0] not in options]
    assert wrong == []


OF_THE_ENVIRONMENT = re.compile(r"^\s*(?:lossbench|dvc|mlflow|python|pytest|uv) ", re.MULTILINE)


@each("page", PAGES)
def test_a_page_says_where_the_commands_come_from_that_it_has_people_type(page: Path) -> None:
    """A fresh shell knows none of them: the environment has to be activated, or installed into."""
    if any(OF_THE_ENVIRONMENT.search(block) for block in blocks(page, "bash")):
        said = ("#where-the-commands-come-from", ".venv/bin/activate", "pip install")
        assert any(words in page.read_text(encoding="utf-8") for words in said)


@each("page", PAGES)
def test_the_blocks_of_python_compile_and_import_what_is_there(page: Path) -> None:
    for block in re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        if LINE.fullmatch(block.split("\n", 1)[0]):
            continue  # lines for the middle of a file
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lossbench"):
                module = import_module(str(node.module))
                assert [one.name for one in node.names if not hasattr(module, one.name)] == []


PATH = re.compile(
    r"(?<![\w/.<-])(?:(?:tests|lossbench|docs|deploy|benchmarks|studies|plugins|stages|\.github|\.ci)/[\w./*-]*\w"
    r"|requirements[\w-]*\.(?:lock|in)|[A-Z_]+\.(?:md|cff)|(?:params|dvc|looks)\.yaml|Makefile|MLproject|pyproject\.toml)"
)
READERS = re.compile(
    r"studies/(?:mine|name|NAME)\b|plugins/(?:mine|stripes)\.py|tests/test_x\.py|lossbench/losses/mine\.py"
)
"""What pages call the reader's own."""


@each("page", [*PAGES, ROOT / "CHANGELOG.md"])
def test_paths_of_ours_that_pages_name_lead_somewhere(page: Path) -> None:
    named = {one for command in commands(page) for one in PATH.findall(command)}
    assert [one for one in sorted(named) if not READERS.match(one) and not list(ROOT.glob(one))] == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)\)", index))


NEW_LOSS = """
import torch
from lossbench.losses import LossContext, build
loss = build({"name": "tempered_cross_entropy", "temperature": 2.0}, LossContext(classes=3))
logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
assert torch.allclose(loss(logits, target), torch.nn.functional.cross_entropy(logits / 2, target))
"""
NEW_MODEL = """
import torch
from lossbench.models.base import build
from lossbench.recipe import Network
assert build(Network(name="mlp", hidden=5), (1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
"""


NEW_TASK = """
import sys
from pathlib import Path
import pandas as pd
sys.path.insert(0, sys.argv[2])
from conftest import tiny_params, train_study
from lossbench.params import load_params
from lossbench.reporting.write import write_report
content = tiny_params()
for block in ("datasets", "experiments"):
    del content[block]["scenes"]
content["arms"] = {name: arm for name, arm in content["arms"].items() if arm["experiment"] == "digits"}
content["hypotheses"] = {}
content["experiments"]["digits"] |= {"task": "ordinal", "metric": "mean_distance", "margin": 0.05}
content["experiments"]["digits"]["recipe"]["epochs"] = 6
root = Path(sys.argv[1])
train_study(root, content)
write_report(load_params(root / "params.yaml"), root, root / ".lossbench")
board = pd.read_csv(root / "reports/leaderboard.csv").set_index(["loss", "metric"])["mean"]
# Guessing the middle of ten digits is 2.5 off on average.
assert board["cross_entropy", "mean_distance"] < 2.0, board
assert {"nll", "within_one", "generalisation_gap"} <= set(board["focal"].index), board
assert "mean distance" in (root / "reports/report.md").read_text(), "no verdict"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "check"), [("new-loss", NEW_LOSS), ("new-model", NEW_MODEL), ("new-task", NEW_TASK)]
)
def test_the_code_a_page_shows_runs(page: str, check: str, tmp_path: Path) -> None:
    # Compiled files too, which saves a second, but for those that somebody is writing.
    shutil.copytree(ROOT / "lossbench", tmp_path / "lossbench", ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    follow(f"docs/{page}.md", tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", check, tmp_path / "study", ROOT / "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loss_of_the_page_holds_the_contract_that_the_page_names(tmp_path: Path) -> None:
    """The command of the page, without the laws and what compiles: these take minutes."""
    for name in ("lossbench", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    follow("docs/new-loss.md", tmp_path)
    (command,) = blocks(ROOT / "docs/new-loss.md", "bash")
    words = shlex.split(command.replace("\\\n", ""))[1:]
    words.remove("tests/test_losses_laws.py")
    run = subprocess.run(
        [sys.executable, *words, "-m", "not slow"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr
    assert re.search(r"\b[1-9]\d* passed", run.stdout), run.stdout


def test_the_script_of_the_page_is_checked_and_writes_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs/own-training.md"
    (tmp_path / "scripts").mkdir()
    script = blocks(page, "python")[0]
    (tmp_path / script.split("\n", 1)[0].removeprefix("# ")).write_text(script)
    content = YAML(typ="safe").load(blocks(page, "yaml")[0])
    write_params(tmp_path, content)
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    check(load_params())
    words = content["experiments"]["mine"]["command"]
    told = {"loss": "focal", "learning_rate": 0.01, "seed": 0, "epochs": 2, "data": ".", "out": "."}
    subprocess.run([sys.executable, *(word.format(**told) for word in words[1:])], check=True)
    written = json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert written.keys() == content["experiments"]["mine"]["metrics"].keys()
