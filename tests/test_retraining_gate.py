"""The gate: what is better gets in, what is in doubt stays out."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples, few

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.params import Dataset as DatasetParams
from lossbench.params import Retraining
from lossbench.recipe import Compute, Network, Recipe
from lossbench.retraining.gate import _first, decide, judge
from lossbench.retraining.scoring import Contender, Scored, paired_difference, score
from lossbench.tasks import task_class
from lossbench.tasks.base import CONSTANT, Metric, Task
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.setting import prepare

RULES = Retraining(max_class_drop=1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Handwritten digits with a test split and a reference split."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    splits = {"validation": 0.1, "test": 0.15, "reference": 0.2}
    fetch(DatasetParams(source="digits", path="requirements.lock", splits=splits), "digits", folder)
    return Dataset.open(folder)


def contender_of(data: Dataset, epochs: int) -> Contender:
    task = task_class("classification")(data.info)
    recipe = Recipe(epochs=max(1, epochs), batch_size=32, optimizer={"learning_rate": 0.005})
    network = Network(name="simple_cnn", width=4, layers=2, hidden=16)
    made = prepare(task, data, network, recipe, {"name": "cross_entropy"}, Compute())
    state = train_replicate(made, Member(0)).state if epochs else made.model_of(0).state_dict()
    return Contender(f"{epochs} epochs", task, network, state)


@pytest.fixture(scope="module")
def weak(data: Dataset) -> Contender:
    """Weights as initialised."""
    return contender_of(data, 0)


@pytest.fixture(scope="module")
def strong(data: Dataset) -> Contender:
    return contender_of(data, 8)


def test_a_planted_better_model_gets_in(data: Dataset, weak: Contender, strong: Contender) -> None:
    decision = decide(strong, weak, data, "accuracy", RULES)
    assert decision.promote, decision.reason
    assert decision.evidence["test"].low > 0
    assert "better on the test split" in decision.reason


def test_a_planted_worse_model_stays_out(data: Dataset, weak: Contender, strong: Contender) -> None:
    decision = decide(weak, strong, data, "accuracy", RULES)
    assert not decision.promote
    assert "not shown to be better" in decision.reason


def test_the_champion_itself_is_recognised(data: Dataset, strong: Contender) -> None:
    decision = decide(replace(strong, name="again"), strong, data, "accuracy", RULES)
    assert (decision.promote, decision.reason) == (False, "the challenger is the champion, bit for bit")


def test_the_first_one_has_to_hold_the_floor(data: Dataset, weak: Contender, strong: Contender) -> None:
    floor = RULES.model_copy(
        update={"floor": 0.9 * score(strong, data.split("test")).scores.metrics["accuracy"]}
    )
    assert decide(strong, None, data, "accuracy", floor).promote
    refused = decide(weak, None, data, "accuracy", floor)
    assert not refused.promote
    assert "misses the floor" in refused.reason


@each("floor", [None, 0.0, -5.0])
@each("margin", [0.0, 0.02])
def test_what_says_the_same_of_every_sample_is_no_first_champion(
    data: Dataset, strong: Contender, floor: float | None, margin: float
) -> None:
    """Whatever floor is declared: a majority class's share may pass it."""
    rules = RULES.model_copy(update={"floor": floor, "margin": margin})
    nothing = {name: torch.zeros_like(value) for name, value in strong.state.items()}
    shares = np.bincount(np.asarray(data.split("test").targets))
    assert shares.argmax() != np.argmax(data.info.counts)  # a class that would pass for better than a floor
    bias = [name for name, value in nothing.items() if value.shape == (10,)][-1]
    nothing[bias][int(shares.argmax())] = 1.0
    decision = decide(replace(strong, state=nothing), None, data, "accuracy", rules)
    assert (decision.promote, sorted(decision.challenger)) == (False, ["reference", "test"])
    assert "does not beat" in decision.reason
    assert CONSTANT in decision.reason
    kept = decide(strong, None, data, "accuracy", rules)
    assert kept.promote
    assert f"a {CONSTANT} has 0." in kept.reason


@settings(max_examples=examples(60), deadline=None)
@given(
    st.booleans(),
    st.floats(0, 2),
    st.one_of(st.floats(0, 2), st.just(math.nan), st.none()),
    st.floats(0, 0.5),
)
def test_the_first_champion_beats_the_constant_whichever_way_the_metric_counts(
    higher: bool, value: float, constant: float | None, margin: float
) -> None:
    """A task of the user's own may name no constant prediction, or no value of it: then the record says so."""
    floors = {} if constant is None else {CONSTANT: {"score": constant}}
    task = cast(
        "Task",
        SimpleNamespace(
            name="mine",
            info=SimpleNamespace(kind="mine"),
            floors=lambda _: floors,
            direction=lambda _: Metric("score", higher_is_better=higher),
        ),
    )
    found = _first(
        task, cast("Dataset", None), {"test": value}, "score", RULES.model_copy(update={"margin": margin})
    )
    if constant is None or math.isnan(constant):
        assert (found.promote, "names no constant prediction" in found.reason) == (True, True)
    else:
        assert found.promote == ((value - constant if higher else constant - value) > margin)


def test_a_gain_below_the_margin_is_none(data: Dataset, weak: Contender, strong: Contender) -> None:
    decision = decide(strong, weak, data, "accuracy", RULES.model_copy(update={"margin": 0.999}))
    assert not decision.promote
    assert "more than 0.999" in decision.reason


def test_outputs_that_are_not_finite_never_get_in(data: Dataset, strong: Contender) -> None:
    broken = {name: torch.full_like(value, torch.nan) for name, value in strong.state.items()}
    for champion in (None, strong):
        decision = decide(replace(strong, state=broken), champion, data, "accuracy", RULES)
        assert not decision.promote
        assert "not finite" in decision.reason


def test_a_class_that_the_champion_does_not_know_keeps_the_gate_shut(
    data: Dataset, weak: Contender, strong: Contender
) -> None:
    known = replace(weak.info, classes=("other", *weak.info.classes[1:]))
    old = replace(weak, task=type(weak.task)(known))
    decision = decide(strong, old, data, "accuracy", RULES)
    assert not decision.promote
    assert f"does not know the class '{data.info.classes[0]}'" in decision.reason


def test_a_regression_in_one_class_keeps_the_gate_shut(
    data: Dataset, weak: Contender, strong: Contender
) -> None:
    """The challenger is better overall, and never says the class that the champion always finds."""
    test = data.split("test")
    recall = score(weak, test).scores.per_class["recall"]
    found = int(np.nanargmax(recall))
    blind = {name: value.clone() for name, value in strong.state.items()}
    bias = [name for name, value in blind.items() if value.shape == (len(data.info.classes),)][-1]
    blind[bias][found] = -1e4
    challenger = replace(strong, state=blind)
    wide = decide(challenger, weak, data, "accuracy", RULES)
    strict = decide(challenger, weak, data, "accuracy", RULES.model_copy(update={"max_class_drop": 0.05}))
    assert wide.promote, wide.reason
    assert not strict.promote
    assert f"class '{data.info.classes[found]}' loses" in strict.reason


@few(
    ("samples", "missed", "promoted"),
    [
        (35, 2, True),  # 5.7 points, standard error 3.9: noise
        (35, 8, False),  # 22.9 points, standard error 7.1
        # 5.7 points, standard error 1.2: beyond the limit by less than that
        (350, 20, True),
        (350, 28, False),  # 8 points, standard error 1.5
        (5, 3, False),  # few samples, but more than half of them
        (1, 1, False),
    ],
)
def test_chance_alone_shuts_no_class_s_gate(data: Dataset, samples: int, missed: int, promoted: bool) -> None:
    """The champion always finds class 0 and half of the others; the challenger finds all but some of class 0."""
    task = task_class("classification")(data.info)
    targets = np.concatenate([np.zeros(samples, np.int64), np.repeat(np.arange(1, 10), 40)])
    held, asked = targets.copy(), targets.copy()
    held[samples::2] = 1 + held[samples::2] % 9  # another of the others
    asked[:missed] = 1

    def scored(said: np.ndarray) -> Scored:
        digests = np.eye(10, dtype=np.float32)[said]
        return Scored(digests, True, task.score(digests, targets))

    rules = Retraining(max_class_drop=0.05)
    decision = judge(
        {"test": scored(held)}, {"test": scored(asked)}, {"test": targets}, task, "accuracy", rules
    )
    assert decision.promote is promoted, decision.reason
    assert promoted or "class '0' loses" in decision.reason


def test_a_slice_that_gets_worse_keeps_the_gate_shut(
    data: Dataset, weak: Contender, strong: Contender
) -> None:
    test = data.split("test")
    lost = np.flatnonzero(score(weak, test).digests.argmax(1) == test.targets)
    state = {name: value.clone() for name, value in strong.state.items()}
    bias = [name for name, value in state.items() if value.shape == (len(data.info.classes),)][-1]
    state[bias][int(test.targets[lost[0]])] = -1e4  # never again the class of the slice's first sample
    part = np.array([row for row in lost if test.targets[row] == test.targets[lost[0]]])
    slices = {"test": {"site=a": part}}
    rules = RULES.model_copy(update={"max_class_drop": 0.99})
    decision = decide(replace(strong, state=state), weak, data, "accuracy", rules, slices)
    assert not decision.promote
    assert decision.reason.startswith("slice 'site=a' loses 1.0000 accuracy on the test split")


def test_the_bootstrap_of_sums_agrees_with_scoring_resamples_anew(
    data: Dataset, weak: Contender, strong: Contender
) -> None:
    test = data.split("test")
    targets = np.asarray(test.targets)
    first, second = score(weak, test), score(strong, test)
    summed = paired_difference(first, second, strong.task, "accuracy", targets, 0.05)
    plain = [replace(one, scores=replace(one.scores, statistics={})) for one in (first, second)]
    anew = paired_difference(plain[0], plain[1], strong.task, "accuracy", targets, 0.05)
    assert summed.gain == anew.gain
    assert summed.low == pytest.approx(anew.low, abs=0.06)
    assert summed.high == pytest.approx(anew.high, abs=0.06)


@pytest.mark.slow
def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    from conftest import ROOT

    from lossbench.lock import HeldError, only_one

    lock = tmp_path / "retraining.lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom lossbench.lock import only_one\n"
        f"with only_one(Path({str(lock)!r}), 'retraining'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(HeldError, match=f"process {holder.pid} on "), only_one(lock, "retraining"):
        pass
    holder.kill()
    holder.wait()
    with only_one(lock, "retraining"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_copies_of_examples_are_no_evidence_of_their_own(
    data: Dataset, weak: Contender, strong: Contender, metric: str
) -> None:
    """Four copies of each example, as groups of four, say what the examples say; as examples they say more."""
    test = data.split("test")
    targets = np.asarray(test.targets)
    task, first, second = strong.task, score(weak, test), score(strong, test)
    single = paired_difference(first, second, task, metric, targets, 0.05)

    def fourfold(one: Scored) -> Scored:
        digests = np.repeat(one.digests, 4, axis=0)
        return Scored(digests, True, task.score(digests, np.repeat(targets, 4)))

    copies = fourfold(first), fourfold(second)
    groups = np.arange(4 * len(targets)) // 4
    grouped = paired_difference(*copies, task, metric, np.repeat(targets, 4), 0.05, groups)
    naive = paired_difference(*copies, task, metric, np.repeat(targets, 4), 0.05)
    width = single.high - single.low
    assert grouped.high - grouped.low == pytest.approx(width, rel=0.1)
    assert naive.high - naive.low < 0.6 * width
    assert (grouped.examples, grouped.groups) == (4 * len(targets), len(targets))


def test_a_spent_level_asks_for_more(data: Dataset, weak: Contender, strong: Contender) -> None:
    test = data.split("test")
    first, second = score(weak, test), score(strong, test)
    lows = [
        paired_difference(first, second, strong.task, "accuracy", np.asarray(test.targets), level).low
        for level in (0.05, 0.01, 1e-4, 1e-8, 1e-16)
    ]
    assert lows == sorted(lows, reverse=True)
    assert len(set(lows)) == len(lows)


def test_the_level_is_spent_where_it_comes_to_a_look_and_only_there(
    data: Dataset, weak: Contender, strong: Contender
) -> None:
    asked: list[float] = []

    def spend() -> float:
        asked.append(0.001)
        return 0.001

    decide(strong, None, data, "accuracy", RULES, spend=spend)
    decide(replace(strong, name="again"), strong, data, "accuracy", RULES, spend=spend)
    assert asked == []
    decision = decide(strong, weak, data, "accuracy", RULES, spend=spend)
    assert (asked, decision.level) == ([0.001], 0.001)
    assert "99.9 %" in decision.reason


def test_the_arm_is_chosen_on_validation_scores_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import tiny_params, write_params

    from lossbench.params import load_params
    from lossbench.retraining import choice

    write_params(tmp_path, tiny_params())
    params = load_params(tmp_path / "params.yaml")
    arms = list(params.arms_of("digits"))
    baseline = params.baseline_of("digits")
    scores = {arm: {seed: 0.8 + seed / 1000 for seed in range(10)} for arm in arms}
    monkeypatch.setattr(choice, "validation_scores", lambda outs, _: scores[outs.arm])

    def chosen() -> str:
        return choice.challenger_arm(params, tmp_path, "digits")

    other = next(arm for arm in arms if arm != baseline)
    assert chosen() == baseline
    scores[other] = {seed: 0.9 + seed / 1000 for seed in range(10)}
    assert chosen() == other
    scores[other][3] = float("nan")  # one replicate that diverged is worth what the worst is
    assert chosen() == other
    scores[other] = {seed: 0.7 if seed % 2 else 0.99 for seed in range(10)}  # higher on average, by luck
    assert chosen() == baseline
