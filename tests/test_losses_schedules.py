"""Numbers of a loss that change over the epochs, and weights of a sum that are learned."""

import math
from typing import Any

import pytest
import torch
from conftest import ROOT
from docs_cases import blocks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples
from losses_cases import CASES, CLASSES, inputs
from ruamel.yaml import YAML
from training_cases import digest, labels_dataset, masks_dataset, setting

from lossbench.errors import UserError
from lossbench.losses import CrossEntropy, Dice, LossContext, Sum, build, check
from lossbench.losses.schedules import Change, changes_stated, is_scheduled, marks, number_at, progress_of
from lossbench.params import Range, Tuning
from lossbench.training.checkpoint import Checkpoint
from lossbench.training.fitting import fit
from lossbench.training.interruption import EXIT_CODE, Interruption
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.tuning.search import own_ranges, trial_points

CONTEXT = LossContext(classes=CLASSES, class_counts=(50, 20, 5, 1))
RISING = {"from": 0.01, "to": 1.0, "over": 0.5}
BOUNDARY = {"sum": {"dice": 1.0, "boundary": RISING}}
REWEIGHTED = {
    "sum": {
        "plain": {"name": "cross_entropy", "weight": {"from": 1, "to": 0, "at": 0.5}},
        "deferred": {
            "name": "cross_entropy",
            "class_weights": "class_balanced",
            "weight": {"from": 0, "to": 1, "at": 0.5},
        },
    }
}
LEARNED = {"sum": {"cross_entropy": "learned", "focal": {"weight": "learned", "gamma": 1.0}}}

numbers = st.floats(-1e3, 1e3)
shares = st.floats(0, 1)
ends = st.floats(0.01, 1)


@given(numbers, numbers, ends, shares, st.booleans())
def test_a_number_goes_from_one_end_to_the_other_and_stays_between(
    first: float, last: float, end: float, progress: float, step: bool
) -> None:
    change = Change(first, last, end, step)
    assert change.at(0.0) == first
    assert change.at(1.0) == change.at(end) == last
    low, high = sorted((first, last))
    assert low - 1e-9 <= change.at(progress) <= high + 1e-9
    if step:
        assert change.at(progress) in (first, last)


@given(st.integers(1, 500))
def test_the_last_epoch_is_the_end_and_the_first_the_beginning(epochs: int) -> None:
    run = [progress_of(epoch, epochs) for epoch in range(1, epochs + 1)]
    assert run[-1] == 1.0
    assert run == sorted(set(run))
    assert run[0] == (0.0 if epochs > 1 else 1.0)


@settings(max_examples=examples(20))
@given(shares)
def test_a_loss_at_a_share_of_the_training_is_the_one_with_these_numbers(progress: float) -> None:
    smooth = {"from": 0.5, "to": 3.0}
    spec = {"sum": {"cross_entropy": RISING, "dice": {"weight": 2.0, "smooth": smooth}}}
    check(spec, "losses.x")
    plain = {
        "sum": {
            "cross_entropy": number_at(RISING, progress, "x"),
            "dice": {"weight": 2.0, "smooth": number_at(smooth, progress, "x")},
        }
    }
    logits, target = torch.randn(2, CLASSES, 6), torch.randint(CLASSES, (2, 6))
    assert torch.equal(
        build(spec, CONTEXT, "x", progress)(logits, target), build(plain, CONTEXT)(logits, target)
    )


def test_what_parameters_become_is_computed_anew() -> None:
    spec = {"name": "ldam", "margin": {"from": 0.1, "to": 1.0}}
    check(spec)
    early, late = (build(spec, CONTEXT, "x", progress) for progress in (0.0, 1.0))
    assert float(early._margins.max()) == pytest.approx(0.1)
    assert float(late._margins.max()) == pytest.approx(1.0)


BAD: list[tuple[Any, str]] = [
    (
        {"name": "focal", "gamma": {"from": -1, "to": 2}},
        r"losses.x.gamma is -1.0; allowed: a finite number ≥ 0",
    ),
    ({"name": "focal", "gamma": {"from": 1, "to": -2}}, r"losses.x.gamma is -2.0; allowed"),
    ({"name": "focal", "gamma": {"from": 1}}, r"losses.x.gamma has no to; allowed: from, to, and over"),
    (
        {"name": "focal", "gamma": {"from": 1, "to": "2"}},
        r"losses.x.gamma.to is '2'; allowed: a finite number",
    ),
    ({"name": "focal", "gamma": {"from": 1, "to": math.nan}}, r"losses.x.gamma.to is nan; allowed"),
    (
        {"name": "focal", "gamma": {"from": 1, "to": 2, "over": 0}},
        r"losses.x.gamma.over is 0; allowed: a share",
    ),
    (
        {"name": "focal", "gamma": {"from": 1, "to": 2, "at": 1.5}},
        r"losses.x.gamma.at is 1.5; allowed: a share",
    ),
    (
        {"name": "focal", "gamma": {"from": 1, "to": 2, "at": 1, "over": 1}},
        r"gamma has over beside at; allowed",
    ),
    ({"name": "focal", "gamma": {"from": 1, "to": 2, "until": 1}}, r"losses.x.gamma.until is no key of"),
    ({"name": "focal", "reduction": {"from": 1, "to": 2}}, r"losses.x.reduction is 1.0; allowed: mean"),
    (
        {"name": "focal", "class_weights": {"from": 1, "to": 2}},
        r"losses.x.class_weights is 1.0; allowed: a list",
    ),
    ({"sum": {"dice": {"from": 0, "to": 0}}}, r"losses.x.sum: all weights are 0 0% into the training"),
    (
        {"sum": {"dice": {"from": 1, "to": 0, "over": 0.3}}},
        r"all weights are 0 100% into the training; allowed",
    ),
    ({"sum": {"dice": {"from": -1, "to": 1}}}, r"losses.x.sum.dice is -1.0; allowed: a finite number > 0"),
    ({"sum": {"dice": {"weight": {"from": 1, "to": -1}}}}, r"losses.x.sum.dice.weight is -1.0; allowed"),
    (
        {"sum": {"dice": 1, "boundary": "learned"}},
        r"losses.x.sum: boundary may be negative.*allowed: a number",
    ),
    (
        {"sum": {"dice": "learned"}},
        r"losses.x.sum: the weight of dice alone cannot be learned.*allowed: a number, or a further part",
    ),
    ({"sum": {"dice": "learnt"}}, r"losses.x.sum.dice is 'learnt'; allowed: a finite number > 0, or learned"),
]


@each(("spec", "message"), BAD)
def test_a_bad_schedule_is_refused_by_key_value_and_what_is_allowed(spec: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(spec, "losses.x")


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1]), ends, st.booleans()), min_size=1))
def test_what_is_checked_at_some_moments_holds_at_all(parts: list[tuple[int, int, float, bool]]) -> None:
    changes = [{"from": first, "to": last, "at" if step else "over": end} for first, last, end, step in parts]
    spec = {"sum": {f"part{number}": one for number, one in enumerate(changes)}}
    tried = [sum(number_at(one, p, "x") for one in changes) for p in marks(spec, "x")]
    finely = [sum(number_at(one, p / 997, "x") for one in changes) for p in range(998)]
    assert all(tried) <= all(finely)


def test_the_numbers_that_change_are_stated_as_they_were_written() -> None:
    assert changes_stated(BOUNDARY) == {"sum.boundary": RISING}
    assert sorted(changes_stated(REWEIGHTED)) == ["sum.deferred.weight", "sum.plain.weight"]
    assert not is_scheduled({"name": "focal", "class_weights": {"class_balanced": 0.9}})


def test_what_changes_or_is_learned_is_not_searched() -> None:
    spec = {
        "sum": {"dice": 1.0, "focal": {"weight": RISING, "gamma": {"from": 0, "to": 2}}, "boundary": RISING}
    }
    assert not any(where[1] == "focal" and where[2] in ("weight", "gamma") for where in own_ranges(spec))
    tuning = Tuning(
        trials=3, learning_rate=Range(low=1e-3, high=1e-1, scale="log"), loss_parameters=True, seeds=(91,)
    )
    for point in trial_points(tuning, spec):
        check(point["loss"], "x")
        assert point["loss"]["sum"]["focal"]["weight"] == RISING
    assert ("sum", "focal", "weight") not in own_ranges(LEARNED)


def test_the_block_of_the_page_is_one():
    page = ROOT / "docs/imbalance-and-regularisation.md"
    (block,) = [one for one in blocks_of(page) if "test_losses_schedules" in one.mark]
    for name, spec in YAML(typ="safe").load(block.text)["losses"].items():
        check(spec, f"losses.{name}")
        build(spec, CONTEXT, f"losses.{name}", 0.3)


# --- learned weights ---


@given(st.floats(0.01, 50), st.floats(0.01, 50))
def test_learned_weights_are_least_at_half_the_inverse_of_each_loss(first: float, second: float) -> None:
    """The minimum of e^(−s) ℓ + s / 2 is at e^s = 2ℓ: parts of any size come to count alike."""
    loss = Sum({"a": CrossEntropy(), "b": Dice()}, {"a": "learned", "b": "learned"})
    values = torch.tensor([first, second])
    (spreads,) = loss.learned
    with torch.no_grad():
        spreads.copy_((2 * values).log())
    total = sum(loss._weighed(name, value) for name, value in zip("ab", values, strict=True))
    (gradient,) = torch.autograd.grad(total, spreads)
    torch.testing.assert_close(gradient, torch.zeros(2), atol=1e-5, rtol=0)


def test_learned_weights_begin_at_one() -> None:
    logits, target = torch.randn(2, CLASSES, 6), torch.randint(CLASSES, (2, 6))
    fixed, learned = (
        Sum({"a": CrossEntropy(), "b": Dice()}, {"a": weight, "b": weight}) for weight in (1.0, "learned")
    )
    assert torch.equal(learned(logits, target), fixed(logits, target))
    assert learned.weights_learned() == {"a": 1.0, "b": 1.0}
    assert learned.parameters_stated()["sum"]["a"]["weight"] == "learned"


def test_a_loss_below_zero_says_so() -> None:
    for case in CASES:
        loss = case.make()
        for seed in range(3):
            given = inputs(case, seed=seed)
            value = loss(given.logits * 8, given.target, given.auxiliary)
            assert loss.signed or value > -1e-6, case


# --- training ---


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return masks_dataset(tmp_path_factory.mktemp("masks"))


@pytest.mark.parametrize("engine", ["loop", "population"])
def test_training_uses_each_epochs_numbers(labels, engine):
    """Deferred re-weighting: the first half is plain training, the second is not."""
    compute = {"engine": engine}
    plain, deferred = (
        fit(setting(labels, loss=loss, compute=compute, epochs=4), [Member(0), Member(1)])[0]
        for loss in ({"sum": {"cross_entropy": 1.0}}, REWEIGHTED)
    )
    same = [
        one == other
        for one, other in zip(plain.history, deferred.history, strict=True)
        if one.metric == "loss"
    ]
    assert same == [True, True, False, False]


def test_a_loss_without_a_schedule_stays_the_same_object(labels):
    made = setting(labels)
    before = made.loss_of(Member(0))
    assert made.loss_during(2, Member(0), before) is before
    assert not before.learned


def test_a_constant_schedule_changes_no_bit(labels):
    constant = {"name": "focal", "gamma": {"from": 2.0, "to": 2.0}}
    made = [
        fit(setting(labels, loss=loss), [Member(0)])[0]
        for loss in (constant, {"name": "focal", "gamma": 2.0})
    ]
    assert digest(made[0]) == digest(made[1])


def test_the_boundary_loss_comes_in_as_its_paper_has_it(masks):
    found = fit(setting(masks, loss=BOUNDARY, epochs=3), [Member(0)])[0]
    assert not found.diverged


class After(Interruption):
    """Asks for an end after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @property
    def asked(self) -> bool:  # type: ignore[override]  # looked at after each step, as the attribute is
        self.left -= 1
        return self.left < 0


@each("steps", [3, 9, 14])
@each("loss", [LEARNED, {"sum": {"cross_entropy": "learned", "focal": RISING}}])
def test_learned_weights_go_on_where_they_were(labels, tmp_path, loss, steps):
    made = setting(
        labels, loss=loss, epochs=3, optimizer={"name": "adam", "learning_rate": 0.01, "weight_decay": 0.1}
    )
    undisturbed = train_replicate(made, Member(0))
    kept = Checkpoint(tmp_path / "a.pt")
    with pytest.raises(SystemExit) as ended:
        train_replicate(made, Member(0), checkpoint=kept, interruption=After(steps))
    assert ended.value.code == EXIT_CODE
    assert digest(train_replicate(made, Member(0), checkpoint=kept)) == digest(undisturbed)
    weights = [one.value for one in undisturbed.history if one.metric == "weight_of_cross_entropy"]
    assert len(weights) == 3
    assert weights[-1] != 1.0


def test_a_population_cannot_learn_weights(labels):
    with pytest.raises(UserError, match=r"'compute.engine' is 'population'.*learned weights; allowed: loop"):
        fit(setting(labels, loss=LEARNED, compute={"engine": "population"}), [Member(0)])
