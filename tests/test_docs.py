"""What the docs show works as shown, and what they link to is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


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
from lossbench.params import Network
assert build(Network(name="mlp", hidden=5), (1, 8, 8), 10)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
"""


@pytest.mark.parametrize(("page", "check"), [("new-loss", NEW_LOSS), ("new-model", NEW_MODEL)])
def test_the_code_a_page_shows_runs(page: str, check: str, tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(blocks(ROOT / f"docs/{page}.md", "python")[0] + check)
    run = subprocess.run(
        [sys.executable, tmp_path / "shown.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
