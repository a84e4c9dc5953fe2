"""The page of knobs names keys that exist, and the pages of the articles' systems give a command per study."""

import re
from pathlib import Path
from typing import Any

import pytest
from law_cases import each
from ruamel.yaml import YAML

from lossbench import losses
from lossbench.models.base import check as check_model
from lossbench.params import Corruption, Hypothesis
from lossbench.recipe import Network, Recipe

ROOT = Path(__file__).parent.parent
KNOBS = (ROOT / "docs/imbalance-and-regularisation.md").read_text(encoding="utf-8")
SHORT = {"epochs": 1, "batch_size": 1}


def read(text: str) -> Any:
    return YAML(typ="safe").load(text)


def spans(start: str) -> list[str]:
    """Code spans of the page that begin so, without that beginning."""
    found = [one.removeprefix(start) for one in re.findall(r"`([^`\n]+)`", KNOBS) if one.startswith(start)]
    assert found, start
    return found


@each("knob", [one for one in spans("recipe.") if ":" in one])
def test_a_knob_of_the_recipe_is_one(knob: str) -> None:
    key, value = next(iter(read(knob).items()))
    inner, _, rest = key.partition(".")
    Recipe(**SHORT, **{inner: {rest: value} if rest else value})


@pytest.mark.parametrize("knob", spans("recipe: "))
def test_a_block_of_the_recipe_is_one(knob: str) -> None:
    Recipe(**SHORT, **read(knob))


@pytest.mark.parametrize("knob", spans("corruption: "))
def test_a_corruption_is_one(knob: str) -> None:
    assert Corruption(**read(knob)) != Corruption()


@pytest.mark.parametrize("knob", spans("losses.<name>: "))
def test_a_loss_is_one(knob: str) -> None:
    losses.check(read(knob), "losses.x")


@pytest.mark.parametrize(
    "weights",
    [read(one.removeprefix("class_weights: ")) for one in spans("losses.<name>.") + spans("class_weights: ")],
)
def test_class_weights_are_some(weights: Any) -> None:
    losses.check({"name": "cross_entropy", "class_weights": weights}, "losses.x")


@pytest.mark.parametrize("knob", spans("model: "))
def test_an_option_of_a_model_is_one(knob: str) -> None:
    check_model(Network(**read(knob)), "model")


def test_the_models_that_the_page_gives_a_dropout_have_one() -> None:
    named = re.findall(r"`(\w+)`", KNOBS.split("before the head (")[1].split("contracting path")[0])
    assert named == ["simple_cnn", "mnist_cnn", "lenet", "unet"]
    for name in named:
        check_model(Network(name=name, dropout=0.5), "model")


def test_the_blocks_that_the_page_shows_are_read() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", KNOBS, re.DOTALL)
    changing, recipe, model, claim = (read(block) for block in blocks)
    for name, spec in changing["losses"].items():
        losses.check(spec, f"losses.{name}")
    Recipe(**SHORT, **recipe["recipe"])
    check_model(Network(**model["model"]), "model")
    for one in claim["hypotheses"].values():
        Hypothesis(**one)


@each(
    ("page", "study"),
    [
        ("classification", "a1_cifar10"),
        ("classification", "a6_mnist_mse_ce_hinge"),
        ("classification", "a7_mnist"),
        ("segmentation", "a2_nuclei"),
        ("language-model", "a3_characters"),
        ("language-model", "a3_words"),
        ("detection", "a4_bccd"),
        ("multi-label", "a8_labels"),
        ("anomaly", "a9_fashion_mnist"),
    ],
)
def test_the_page_and_the_study_give_the_same_command(page: str, study: str) -> None:
    for file in (ROOT / "docs" / f"{page}.md", ROOT / "studies" / study / "params.yaml"):
        assert f"make repro STUDY=studies/{study}" in file.read_text(encoding="utf-8"), file
