"""What the docs show works as shown, and what they link to is there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from docs_cases import follow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_docs_name_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z-]+)", " ".join(re.findall(r"`([^`]+)`", page.read_text()))))
    assert not [
        target
        for target in named
        if not re.search(rf"^([a-z -]* )?{target}( [a-z -]*)?:", makefile, re.MULTILINE)
    ]


NEW_LOSS = """
import torch
from lossbench.losses import LossContext, build
loss = build({"name": "tempered_cross_entropy", "temperature": 2.0}, LossContext(classes=3))
logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
assert torch.allclose(loss(logits, target), torch.nn.functional.cross_entropy(logits / 2, target))
"""
NEW_MODEL = """
import torch
from lossbench.models import build
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
from lossbench.reporting import write_report
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


@pytest.mark.parametrize(
    ("page", "check"), [("new-loss", NEW_LOSS), ("new-model", NEW_MODEL), ("new-task", NEW_TASK)]
)
def test_the_code_a_page_shows_runs(page: str, check: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lossbench", tmp_path / "lossbench", ignore=shutil.ignore_patterns("__pycache__"))
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
