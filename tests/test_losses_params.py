"""Bad parameters are refused at construction, and a block of params.yaml becomes the loss it describes."""

import itertools
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each
from losses_cases import CLASSES, Case, every_name

from lossbench.errors import UserError
from lossbench.losses import (
    REGISTRY,
    CrossEntropy,
    Dice,
    Focal,
    LossContext,
    ParameterError,
    Sum,
    balanced,
    build,
    check,
    class_balanced,
)

torch.set_num_threads(1)
CONTEXT = LossContext(classes=CLASSES, class_counts=(50, 20, 5, 1))
LABELS = LossContext(classes=CLASSES, class_counts=(50, 20, 5, 1), multilabel=True, positions=100)


def make(name: str, **parameters: Any) -> torch.nn.Module:
    return Case(name, False).make(**parameters)


# --- ranges ---


NONSENSE: list[Any] = [float("nan"), float("inf"), -1e9, "nonsense", [], {}, [1.0, float("nan")], True]


@every_name
def test_every_parameter_refuses_nonsense_by_name_value_and_range(name: str) -> None:
    for parameter, value in itertools.product(REGISTRY[name].declared, NONSENSE):
        declared = REGISTRY[name].declared[parameter]
        if isinstance(declared.default, bool) and value is True:
            continue
        if value == -1e9 and declared.allowed.startswith("a finite number <"):  # no lower end: log_zero
            continue
        given = {"class_counts": [1] * CLASSES} if needs_counts(name) else {}
        with pytest.raises(ParameterError) as caught:
            REGISTRY[name](**{**given, parameter: value})
        for part in (REGISTRY[name].__name__, parameter, repr(value), declared.allowed):
            assert part in str(caught.value)


def needs_counts(name: str) -> bool:
    return "class_counts" in REGISTRY[name].declared


@each(
    ("name", "parameters"),
    [
        ("focal", {"gamma": -0.1}),
        ("focal", {"alpha": 1.1}),
        ("focal", {"alpha": -0.1}),
        ("cross_entropy", {"label_smoothing": 1.0}),
        ("cross_entropy", {"class_weights": [1.0, -1.0]}),
        ("cross_entropy", {"class_weights": [0.0, 0.0]}),
        ("cross_entropy", {"class_weights": "balanced"}),
        ("cross_entropy", {"ignore_index": 1.5}),
        ("cross_entropy", {"reduction": "median"}),
        ("generalized_cross_entropy", {"q": 0.0}),
        ("bi_tempered", {"t2": 0.9}),
        ("dice", {"preset": "keras"}),
        ("dice", {"power": 3}),
        ("tversky", {"beta": 2.0}),
        ("top_k", {"kept": 0.0}),
    ],
)
def test_the_ends_of_ranges_hold(name: str, parameters: dict[str, Any]) -> None:
    (parameter,) = parameters
    with pytest.raises(ParameterError, match=f"{parameter} is .*; allowed: "):
        REGISTRY[name](**parameters)


def test_an_unknown_parameter_is_refused_with_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"Focal has no parameter 'gama'; it has ignore_index, .*gamma"):
        Focal(gama=2.0)


def test_weights_of_the_wrong_length_are_refused_when_the_classes_are_known() -> None:
    with pytest.raises(
        UserError, match=r"losses.x.class_weights is \[1.0, 2.0\]; allowed: 4 numbers, one per class"
    ):
        build({"name": "focal", "class_weights": [1, 2]}, CONTEXT, "losses.x")
    with pytest.raises(ParameterError, match=r"class_weights is .*allowed: 4 numbers"):
        Focal(class_weights=[1.0, 2.0])(torch.zeros(1, 4), torch.tensor([0]))


@every_name
def test_what_may_be_tuned_lies_in_the_range_and_builds(name: str) -> None:
    for parameter, (low, high, scale) in REGISTRY[name].tunable.items():
        assert low < high
        assert scale in ("linear", "log")
        assert low > 0 or scale == "linear"
        for value in (low, (low + high) / 2, high):
            loss = make(name, **{parameter: value})
            assert getattr(loss, parameter) == value


# --- from params.yaml ---


def test_a_distribution_is_refused_where_a_sample_has_several_labels() -> None:
    spec = {"name": "dice", "labels": "exclusive"}
    assert build(spec, CONTEXT, "losses.x").labels == "exclusive"
    with pytest.raises(
        UserError, match=r"losses.x.labels is 'exclusive'.*several labels.*allows: independent"
    ):
        build(spec, LABELS, "losses.x")


@every_name
def test_every_loss_can_be_built_by_its_name(name: str) -> None:
    cls = REGISTRY[name]
    spec: dict[str, Any] = {"sum": {name: 1.0}} if cls.only_in_sum else {"name": name}
    check(spec, "losses.x")
    for context in (CONTEXT, LABELS):
        if cls.multi if context.multilabel else cls.single:
            loss = build(spec, context, "losses.x")
            stated = loss.parameters_stated()
            assert json.loads(json.dumps(stated, allow_nan=False)) == stated
            assert "reduces" in stated
        else:
            with pytest.raises(UserError, match="does not fit a task with"):
                build(spec, context, "losses.x")


BAD = [
    ({"name": "focall"}, r"losses.x.name is 'focall'; did you mean 'focal'\?"),
    ({"name": 3}, "losses.x.name is 3; "),
    ({"gamma": 2.0}, "losses.x has no name"),
    ({}, "losses.x is {}"),
    ("focal", "losses.x is 'focal'"),
    ({"name": "focal", "gama": 2.0}, r"losses.x.gama is no parameter of focal; did you mean 'gamma'\?"),
    ({"name": "focal", "gamma": -1}, r"losses.x.gamma is -1; allowed: a finite number ≥ 0"),
    ({"name": "focal", "gamma": "2"}, "losses.x.gamma is '2'"),
    (
        {"name": "focal", "class_weights": "balance"},
        "losses.x.class_weights is 'balance'; .*balanced, class_balanced",
    ),
    (
        {"name": "focal", "class_weights": {"class_balanced": 1.0}},
        "class_weights.class_balanced is 1.0; allowed",
    ),
    ({"name": "focal", "reduction": "none"}, "losses.x.reduction is 'none'; allowed in training: mean, sum"),
    ({"name": "boundary"}, "losses.x.name is boundary, which collapses alone; allowed: as a part of a sum"),
    ({"sum": {}}, "losses.x.sum is {}"),
    ({"sum": {"dice": 1.0}, "gamma": 2.0}, "losses.x.gamma stands beside sum:"),
    ({"sum": {"dice": 0.0}}, "losses.x.sum.dice is 0.0; allowed: a finite number > 0"),
    ({"sum": {"dice": "1"}}, "losses.x.sum.dice is '1'; allowed: a finite number > 0"),
    ({"sum": {"dice": {"weight": -1}}}, "losses.x.sum.dice.weight is -1; allowed"),
    ({"sum": {"dice": {"smooth": -1}}}, "losses.x.sum.dice.smooth is -1; allowed"),
    ({"sum": {"dise": 1.0}}, r"losses.x.sum.dise.name is 'dise'; did you mean 'dice'\?"),
]


@each(("spec", "message"), BAD)
def test_a_bad_block_is_refused_by_key_value_and_what_is_allowed(spec: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(spec, "losses.x")
    with pytest.raises(UserError, match=message):
        build(spec, CONTEXT, "losses.x")


def test_a_sum_is_the_weighted_sum_of_its_parts() -> None:
    spec = {"sum": {"cross_entropy": 2.0, "dice": {"weight": 0.5, "smooth": 3.0}, "again": {"name": "focal"}}}
    check(spec)
    loss = build(spec, CONTEXT)
    logits = torch.randn(2, CLASSES, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(CLASSES, (2, 5))
    parts = (
        2.0 * CrossEntropy()(logits, target)
        + 0.5 * Dice(smooth=3.0)(logits, target)
        + Focal()(logits, target)
    )
    torch.testing.assert_close(loss(logits, target), parts)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, logits)[0] for value in (loss(logits, target), parts))
    )
    stated = loss.parameters_stated()
    assert stated["sum"]["dice"]["weight"] == 0.5
    assert stated["sum"]["dice"]["smooth"] == 3.0
    assert stated["sum"]["again"]["name"] == "focal"


def test_a_sum_computes_one_log_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = torch.Tensor.log_softmax
    monkeypatch.setattr(torch.Tensor, "log_softmax", lambda *args: (calls.append(1), original(*args))[1])
    monkeypatch.setattr(torch.Tensor, "softmax", lambda *_: pytest.fail("a second softmax"))
    Sum({"ce": CrossEntropy(), "focal": Focal(), "dice": Dice()})(
        torch.randn(2, 3, 4), torch.zeros(2, 4).long()
    )
    assert len(calls) == 1


def test_a_sum_hands_the_maps_to_the_parts_that_need_them() -> None:
    loss = build({"sum": {"cross_entropy": 1.0, "boundary": 0.1}}, CONTEXT)
    assert loss.auxiliary
    assert not CrossEntropy().auxiliary
    target = torch.randint(CLASSES, (2, 6, 5))
    logits, maps = torch.randn(2, CLASSES, 6, 5), loss.prepare(target, CLASSES)
    expected = CrossEntropy()(logits, target) + 0.1 * (logits.softmax(1) * maps).mean()
    torch.testing.assert_close(loss(logits, target, maps), expected)
    with pytest.raises(ValueError, match=r"needs the maps of its prepare"):
        loss(logits, target)


def test_a_sum_hands_each_part_the_kind_of_maps_that_it_needs() -> None:
    """Distances to two parts, the blobs' numbers to a third, whatever their order."""
    target = torch.zeros(2, 6, 5, dtype=torch.long)
    target[:, :2, :2], target[0, 4:], target[1, 3:, 3:] = 1, 2, 3
    logits = torch.randn(2, CLASSES, 6, 5)
    weights = {"hausdorff": 0.5, "blob": 2.0, "cross_entropy": 1.0, "boundary": 0.1}
    parts = {name: build({"sum": {name: 1.0}}, CONTEXT) for name in weights}
    alone = {
        name: part(logits, target, part.prepare(target, CLASSES) if part.auxiliary else None)
        for name, part in parts.items()
    }
    for names in (list(weights), list(weights)[::-1]):
        loss = build({"sum": {name: weights[name] for name in names}}, CONTEXT)
        maps = loss.prepare(target, CLASSES)
        assert maps.shape == (2, 2 * CLASSES, 6, 5)
        expected = sum(weights[name] * alone[name] for name in names)
        torch.testing.assert_close(loss(logits, target, maps), expected)
        with pytest.raises(ValueError, match=r"needs the maps .*\(2, 8, 6, 5\); got \(2, 4, 6, 5\)"):
            loss(logits, target, maps[:, :CLASSES])


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (
            {"cross_entropy": {"labels": "exclusive"}, "dice": 1.0},
            r"the parts have labels \['exclusive', 'ind",
        ),
        (
            {"focal": {"ignore_index": 3}, "dice": {"ignore_index": 4}},
            r"the parts have ignore_index \['3', '4'",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_there_are_data(
    parts: dict[str, Any], found: str
) -> None:
    for refuse in (
        lambda: check({"sum": parts}, "losses.x"),
        lambda: build({"sum": parts}, CONTEXT, "losses.x"),
    ):
        with pytest.raises(UserError, match=rf"losses.x.sum: {found}.*allowed: one for all parts"):
            refuse()


def test_what_the_data_say_reaches_the_losses_that_ask() -> None:
    assert build({"name": "distribution_balanced"}, LABELS).positions == 100
    assert build({"name": "distribution_balanced", "positions": 7}, LABELS).positions == 7
    spec = {"name": "expected_cost", "cost": [[0, 1], [2, 0]]}
    check(spec, "losses.x")
    with pytest.raises(UserError, match=r"losses.x.cost is \[\[0.0, 1.0\], .*allowed: 4 rows of 4 numbers"):
        build(spec, CONTEXT, "losses.x")


def test_the_task_says_what_is_ignored_unless_the_block_does() -> None:
    context = LossContext(classes=2, ignore_index=255)
    assert build({"name": "dice"}, context).ignore_index == 255
    assert build({"name": "dice", "ignore_index": 0}, context).ignore_index == 0
    assert build({"sum": {"dice": 1.0, "focal": 1.0}}, context).ignore_index == 255
    with pytest.raises(ValueError, match="allowed: one for all parts"):
        Sum({"dice": Dice(ignore_index=1), "ce": CrossEntropy()})


def test_a_preset_yields_to_what_is_written_beside_it() -> None:
    loss = Dice(preset="nnunet", smooth=0.5)
    assert (loss.over, loss.smooth, loss.offset) == ("image", 0.5, 0.0)
    stated = loss.parameters_stated()
    assert (stated["preset"], stated["over"], stated["average"]) == ("nnunet", "image", "macro")


# --- weights from the training data ---


def test_class_weights_come_from_the_training_counts() -> None:
    assert build({"name": "focal", "class_weights": "balanced"}, CONTEXT).class_weights == balanced(
        (50, 20, 5, 1)
    )
    spec = {"name": "dice", "class_weights": "class_balanced"}
    assert build(spec, CONTEXT).class_weights == class_balanced((50, 20, 5, 1), 0.999)
    spec = {"name": "dice", "class_weights": {"class_balanced": 0.9}}
    assert build(spec, CONTEXT).class_weights == class_balanced((50, 20, 5, 1), 0.9)
    spec = {"name": "binary_cross_entropy", "pos_weight": "balanced"}
    assert build(spec, LABELS).pos_weight == (1.0, 4.0, 19.0, 99.0)
    assert build({"name": "ldam"}, CONTEXT).class_counts == (50.0, 20.0, 5.0, 1.0)


@pytest.mark.parametrize(
    "spec", [{"name": "focal", "class_weights": "balanced"}, {"name": "ldam"}, {"name": "balanced_softmax"}]
)
def test_counts_that_are_not_there_are_asked_for(spec: dict[str, Any]) -> None:
    check(spec, "losses.x")
    with pytest.raises(UserError, match=r"losses.x.\w+ needs the number of training samples of each class"):
        build(spec, LossContext(classes=3), "losses.x")


counts = st.lists(st.integers(0, 10**6), min_size=2, max_size=30)


@given(counts, st.floats(0, 0.99999))
def test_class_weights_average_one_and_favour_the_rare(numbers: list[int], beta: float) -> None:
    for weights in (balanced(numbers), class_balanced(numbers, beta)):
        assert all(weight > 0 and math.isfinite(weight) for weight in weights)
        assert sum(weights) == pytest.approx(len(numbers))
        ordered = [weight for _, weight in sorted(zip(numbers, weights, strict=True))]
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(ordered))


@given(counts)
def test_class_balanced_weights_lie_between_equal_and_balanced_ones(numbers: list[int]) -> None:
    assert class_balanced(numbers, 0.0) == pytest.approx([1.0] * len(numbers))
    few = [number % 50 for number in numbers]
    assert class_balanced(few, 1 - 1e-9) == pytest.approx(balanced(few), rel=1e-5)
