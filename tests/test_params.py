"""params.yaml: what is refused, and with which words."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import stage, tiny_params, write_params
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each

from lossbench.checking import check
from lossbench.errors import UserError
from lossbench.params import load_params

BAD: list[tuple[str, list[str], Any, list[str]]] = [
    ("an unknown top-level key", ["sedes"], [1], ["sedes", "did you mean 'seeds'"]),
    ("an unknown loss", ["losses", "focal", "name"], "focall", ["losses.focal.name", "focall", "'focal'"]),
    ("a negative γ", ["losses", "focal", "gamma"], -1, ["losses.focal.gamma", "-1"]),
    ("an unknown parameter of a loss", ["losses", "focal", "gama"], 1, ["losses.focal.gama", "gamma"]),
    ("a negative rate", ["experiments", "digits", "recipe", "optimizer", "learning_rate"], -0.1,
     ["experiments.digits.recipe.optimizer.learning_rate", "-0.1", "greater than 0"]),
    ("an arm that names no experiment", ["arms", "digits-focal", "experiment"], "digitz",
     ["arms.digits-focal.experiment", "digitz", "'digits'"]),
    ("an arm with another dataset than its experiment", ["arms", "digits-focal", "dataset"], "scenes",
     ["arms.digits-focal.dataset", "scenes", "digits"]),
    ("an arm that names no loss", ["arms", "digits-focal", "loss"], "fokal", ["arms.digits-focal.loss", "'focal'"]),
    ("two arms alike", ["arms", "again"], {"experiment": "digits", "dataset": "digits", "loss": "focal"},
     ["digits-focal", "again"]),
    ("no seeds", ["seeds"], [], ["seeds", "[]"]),
    ("a seed twice", ["seeds"], [1, 1], ["seeds", "twice"]),
    ("an unknown source", ["datasets", "digits", "source"], "digit", ["datasets.digits.source", "'digits'"]),
    ("an unknown option of a source", ["datasets", "scenes", "sise"], 3, ["datasets.scenes.sise", "'size'"]),
    ("scenes too small", ["datasets", "scenes", "size"], 16, ["datasets.scenes.size", "16"]),
    ("an unknown model", ["experiments", "digits", "model", "name"], "simple_cn",
     ["experiments.digits.model", "'simple_cnn'"]),
    ("an unknown option of a model", ["experiments", "digits", "model", "widht"], 3,
     ["experiments.digits.model.widht", "'width'"]),
    ("an unknown task", ["experiments", "digits", "task"], "classify",
     ["experiments.digits.task", "'classification'"]),
    ("an unknown metric", ["experiments", "digits", "metric"], "acuracy",
     ["experiments.digits.metric", "'accuracy'"]),
    ("an unknown optimizer", ["experiments", "digits", "recipe", "optimizer", "name"], "adm", ["adm", "adam"]),
    ("a missing key", ["experiments", "digits", "recipe"], {"epochs": 1}, ["recipe.batch_size", "missing"]),
    ("a mistyped key that is required", ["experiments", "digits", "recipe"], {"epochz": 1, "batch_size": 8},
     ["unknown key", "recipe.epochz", "'epochs'"]),
    ("a mistyped value", ["experiments", "digits", "recipe", "epochs"], "many", ["recipe.epochs", "many"]),
    ("shares that leave nothing", ["datasets", "digits", "splits"], {"test": 0.9}, ["datasets.digits.splits"]),
    ("a baseline that is no loss", ["comparison", "baseline"], "ce", ["comparison.baseline", "ce"]),
    ("a hypothesis on an unknown metric", ["hypotheses", "focal_wins", "on"], "f1", ["hypotheses.focal_wins.on"]),
    ("a tuning range upside down", ["tuning"], {"trials": 2, "learning_rate": {"low": 1, "high": 0.1}},
     ["tuning.learning_rate", "low"]),
    ("tuning seeds that replicates reuse", ["tuning"], {"trials": 2, "seeds": [1]}, ["tuning.seeds", "[1]"]),
]  # fmt: skip


def changed(path: list[str], value: Any) -> dict[str, Any]:
    """The tiny params with one value replaced."""
    content = copy.deepcopy(tiny_params())
    block = content
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = value
    return content


@each(("path", "value", "words"), [case[1:] for case in BAD])
def test_bad_params_are_refused_in_one_sentence_that_names_the_key(
    path: list[str], value: Any, words: list[str], tmp_path: Path
) -> None:
    write_params(tmp_path, changed(path, value))
    with pytest.raises(UserError) as refusal:
        check(load_params(tmp_path / "params.yaml"))
    message = str(refusal.value)
    assert message.startswith("params.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_cuda_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_params(tmp_path, changed(["compute"], {"device": "cuda"}))
    with pytest.raises(UserError, match=r"compute\.device"):
        check(load_params(tmp_path / "params.yaml"))


def test_good_params_pass(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params())
    check(load_params(tmp_path / "params.yaml"))


def test_the_stage_check_exits_2_without_a_traceback(tmp_path: Path) -> None:
    write_params(tmp_path, changed(["seeds"], []))
    run = stage(tmp_path, "check")
    assert run.returncode == 2
    assert run.stderr.startswith("error: params.yaml: 'seeds'")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "content", ["", "- 1\n", "a: [\n", "a: 1\na: 2\n", "x: !!python/object:os.system {}\n"]
)
def test_files_that_are_no_mapping_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(content)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
KEYS = [
    "datasets",
    "experiments",
    "losses",
    "arms",
    "seeds",
    "compute",
    "tuning",
    "comparison",
    "hypotheses",
    "tracking",
]


@settings(deadline=None)  # the first check imports models and losses
@given(st.sampled_from(KEYS), VALUES)
def test_nonsense_anywhere_gives_a_sentence_and_no_traceback(key: str, value: Any) -> None:
    from lossbench.params import parse_params

    with contextlib.suppress(UserError):  # anything else fails the test
        check(parse_params({**tiny_params(), key: value}))
