"""The study of all the articles' systems, shrunken: every arm trains, every system has its section, every claim its answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, train_study
from ruamel.yaml import YAML

from lossbench.params import load_params
from lossbench.reporting.write import write_report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = {"train": 32, "validation": 16, "test": 16, "reference": 4}


def shrunken() -> dict[str, Any]:
    """The study's params with two seeds, an epoch and as little data as it takes."""
    content: dict[str, Any] = YAML(typ="safe").load((ROOT / "studies/articles/params.yaml").read_text())
    content["root"] = "."
    content["seeds"] = [0, 1]
    for one in content["datasets"].values():
        one["path"] = "requirements.lock"
        one.update(SMALL if one["source"] == "digit_scenes" else {"subset": 120})
    for one in content["experiments"].values():
        one["recipe"] |= {"epochs": 1, "batch_size": 16}
    return content


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("articles") / "study"
    train_study(root, shrunken())
    write_report(load_params(root / "params.yaml"), root, root / ".lossbench")
    return root


def test_every_system_has_a_section_with_samples_of_its_own(study: Path) -> None:
    html = (study / "reports/index.html").read_text()
    for name in load_params(study / "params.yaml").experiments:
        section = html.split(f'<section id="{name}"')[1].split("</section>")[0]
        assert "Leaderboard" in section
        assert 'class="sample"' in section, name
    assert "What the networks write" in html
    assert "nearest neighbour" in html
    assert "5-gram (Kneser–Ney)" in html


def test_every_claim_stands_on_the_claims_page_with_its_limits(study: Path) -> None:
    params = load_params(study / "params.yaml")
    answers = json.loads((study / "reports/verdicts.json").read_text())["hypotheses"]
    assert [one["name"] for one in answers] == list(params.hypotheses)
    assert {one["answer"] for one in answers} <= {"undecided", "not trained"}  # two seeds can show nothing
    html = (study / "reports/claims.html").read_text()
    assert html.count("<article") == len(params.hypotheses)
    assert html.count("What it can and cannot say") == len(params.hypotheses)


def test_every_claim_of_the_articles_is_there() -> None:
    names = "\n".join(load_params(ROOT / "studies/articles/params.yaml").hypotheses)
    assert all(f"c{number}_" in names for number in range(1, 11))


def test_the_seeds_suffice_to_decide_the_first_of_so_many_tests() -> None:
    params = load_params(ROOT / "studies/articles/params.yaml")
    least = 2 / 2 ** len(params.seeds) * len(params.hypotheses)
    assert least <= params.comparison.level
