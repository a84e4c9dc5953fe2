"""Laws of what a loss means: where its minimum is, what counts, and what derivatives it has."""

import itertools
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from law_cases import shared, some
from losses_cases import (
    CASES,
    CLASSES,
    IGNORE,
    RANKING,
    Case,
    Input,
    every_loss,
    every_loss_alone,
    every_name,
    gradient,
    ignoring,
    inputs,
    over,
    saturated,
    takes,
    with_maps,
)
from torch import Tensor
from torch.autograd import forward_ad

from lossbench.losses import REGISTRY, Boundary, CrossEntropy, Dice, Loss, ParameterError, Sum, functional

torch.set_num_threads(1)
of_distributions = over(case for case in CASES if not case.multilabel and takes(case, "labels", "exclusive"))
#: Parts of a sum: they see borders, skeletons or what is to be found, and no constant offset.
PARTS = {"gradient"} | {name for name, cls in REGISTRY.items() if cls.only_in_sum}
#: They read regions, not their shares: they sort errors, take skeletons, number blobs.
REGIONS = {"lovasz", "lovasz_hinge", "cl_dice", "blob"}
#: Its share is of positions, however much they weigh.
WHOLE = {"top_k": {"kept": 1.0}}
WEIGHTED = [case for case in CASES if takes(case, "class_weights", [1.0] * CLASSES)]


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], **how: float) -> None:
    """Values and gradients agree."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **how)


def averages(case: Case) -> Iterator[dict[str, Any]]:
    """The settings that say what is averaged over."""
    names = [name for name in ("over", "absent") if has(case, name)]
    for values in itertools.product(*(options(case, name) for name in names)):
        yield dict(zip(names, values, strict=True))


def variants(case: Case) -> Iterator[dict[str, Any]]:
    """These, and every other setting that is one of several words, or yes."""
    yield from averages(case)
    for name in ("variant", "average", "operator", "weighting", "classes", "preset"):
        yield from ({name: option} for option in options(case, name))
    yield from ({name: True} for name in ("squared", "log", "detached") if has(case, name))


def made(case: Case, classes: int, /, **parameters: Any) -> Loss:
    """Make the loss for a number of classes; ``classes`` is also a parameter of some."""
    if has(case, "class_counts"):
        parameters["class_counts"] = [50, 20, 5, 1][:classes]
    if "classes" in parameters:
        return REGISTRY[case.name](**parameters)
    return case.make(**parameters)


def takes_one(loss: Loss) -> bool:
    """Say whether the loss takes one class: not where there is to be more than background."""
    return getattr(loss, "include_background", True)


def has(case: Case, parameter: str) -> bool:
    return case.name in REGISTRY and parameter in REGISTRY[case.name].declared


def options(case: Case, parameter: str) -> list[str]:
    if not has(case, parameter):
        return []
    return REGISTRY[case.name].declared[parameter].allowed.removesuffix(", or none").split(", ")


# --- where the minimum is ---


def constant_targets(case: Case, shape: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield targets that are the same everywhere, and the direction of logits that is wrong everywhere."""
    if not case.multilabel:
        for true, wrong in itertools.permutations(range(CLASSES), 2):
            direction = torch.full((CLASSES,), -1.0)
            direction[wrong] = 1.0
            yield torch.full((shape[0], *shape[1:]), true), direction
        return
    patterns = [[1, 0, 1, 0], [0, 1, 1, 1]] + ([] if case.name in RANKING else [[1] * 4, [0] * 4])
    for pattern in patterns:
        labels = torch.tensor(pattern).view(1, CLASSES, *[1] * (len(shape) - 1))
        yield labels.expand(shape[0], CLASSES, *shape[1:]).bool(), 1 - 2 * torch.tensor(pattern).float()


@pytest.mark.slow
@over(case for case in CASES if case.name not in PARTS)
def test_a_constant_confident_wrong_prediction_is_far_from_the_minimum(case: Case) -> None:
    """Along the whole line of constant logits: nothing, or one class everywhere, is never a way out."""
    settings: list[dict[str, Any]] = [{}]
    for name in ("over", "variant", "average", "weighting"):
        settings += [{name: option} for option in options(case, name)]
    for parameters in settings:
        is_far(case, case.make(check="never", **parameters))


def is_far(case: Case, loss: Loss) -> None:
    right = saturated(case, right=True)
    lengths = (0.1, 1.0, 5.0, 20.0, 60.0, 100.0)
    least = min(float(loss(right.logits / 100 * length, *right[1:])) for length in lengths)
    for shape in ((3, 8), (1, 64, 64)):
        targets = list(constant_targets(case, shape))
        for target, direction in targets if len(shape) == 2 else targets[-2:]:
            logits = direction.view(1, CLASSES, *[1] * (len(shape) - 1)).expand(shape[0], -1, *shape[1:])
            maps = with_maps(case, logits, target).auxiliary
            unsure = float(loss(torch.zeros_like(logits), target, maps)) - least
            assert unsure > 0.005, (shape, direction)
            for length in lengths if len(shape) == 2 else lengths[1::2]:
                wrong = float(loss(length * logits, target, maps)) - least
                assert wrong > 0.5 * unsure, f"{wrong:g} against {unsure:g} at {length:g} × {direction}"


@over(case for case in CASES if case.family == "region" and case.name not in REGIONS)
def test_a_region_loss_of_soft_labels_is_least_where_the_prediction_is_the_label(case: Case) -> None:
    """p = t costs nothing, and every step away from it something (2302.05666, 2303.16296)."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2, CLASSES, 6, generator=generator, dtype=torch.float64)
    labels = "independent" if case.multilabel else "exclusive"
    target = truth.sigmoid() if case.multilabel else truth.softmax(1)
    loss = case.make(labels=labels, **({"smooth": 1e-7} if case.name == "mcc" else {}))
    least = float(loss(truth, target))
    assert least == pytest.approx(0, abs=1e-5)
    for _ in range(5):
        step = 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
        step = step if case.multilabel else step - step.mean(1, keepdim=True)
        assert float(loss(truth + step, target)) > least + 1e-5


# --- what counts ---


@shared
@every_loss
def test_nan_in_a_logit_that_counts_is_nan_out(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the hand-written passes as in the plain ones, whatever class, whatever is averaged."""
    given = inputs(case)
    if case.multilabel:
        given.target[:, 2] = False  # a label that nobody has
        given.target[0] = True  # a sample that has all the others
    for plain in (False, True):
        with monkeypatch.context() as patched:
            if plain:
                patched.setattr("lossbench.losses.batch.inside_transform", lambda *_: True)
            for parameters in some(variants(case)):
                loss = made(case, CLASSES, **parameters)
                for place in ((0, 0, 0, 0), (1, 2, 3, 1), (2, 3, 4, 3), (2, 1, 0, 2)):
                    logits = given.logits.clone()
                    logits[place] = float("nan")
                    assert loss(logits, given.target, given.auxiliary).isnan(), (parameters, place, plain)
                nothing = torch.full_like(given.logits, float("nan"))
                assert loss(nothing, given.target, given.auxiliary).isnan()
                one = inputs(case, classes=1)
                of_one = made(case, 1, **parameters)
                if takes_one(of_one):
                    assert of_one(one.logits * float("nan"), *one[1:]).isnan(), parameters


@shared
@every_loss
def test_an_empty_batch_or_axis_is_zero_with_its_graph(case: Case) -> None:
    for shape in ((0, CLASSES, 5, 4), (2, CLASSES, 0, 4), (2, CLASSES, 5, 0), (0, CLASSES, 0, 0)):
        logits = torch.zeros(shape)
        target = logits.bool() if case.multilabel else torch.zeros(shape[0], *shape[2:], dtype=torch.long)
        maps = logits if case.make().auxiliary else None
        for parameters in some(variants(case)):
            value, grad = gradient(
                made(case, CLASSES, ignore_index=IGNORE, **parameters), Input(logits, target, maps)
            )
            assert value == 0
            assert grad.shape == logits.shape
        if takes(case, "reduction", "none"):
            full = case.make(reduction="none")(logits, target, maps)
            assert full.sum() == 0
            assert not full.isnan().any()
        if case.spatial == 0:
            points, few = (
                torch.zeros(0, CLASSES, requires_grad=True),
                (0, CLASSES) if case.multilabel else (0,),
            )
            value = case.make()(points, torch.zeros(few, dtype=torch.bool if case.multilabel else torch.long))
            assert value == 0
            assert value.requires_grad


@shared
@every_loss
def test_the_graph_is_always_attached(case: Case) -> None:
    """With one class, one position, nothing that counts."""
    for classes, spatial, samples in ((1, (4, 3), 2), (1, (1, 1), 1), (2, (1, 1), 1), (4, (5, 4), 3)):
        given = inputs(case, spatial, samples, classes=classes)
        for ignored, parameters in itertools.product((False, True), some([{}, *variants(case)])):
            everywhere = torch.full((samples, *spatial), ignored)
            loss = made(case, classes, ignore_index=IGNORE, **parameters)
            if classes > 1 or takes_one(loss):
                value, grad = gradient(loss, ignoring(given, case, everywhere))
                assert value.isfinite()
                assert grad.isfinite().all()


@every_loss
def test_targets_out_of_range_are_refused_in_every_batch(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(case)
    bad = [-1, 2, 255] if case.multilabel else [-1, CLASSES, 255]
    high = 1 if case.multilabel else CLASSES - 1
    loss, ignoring_some = case.make(), case.make(ignore_index=IGNORE)
    for _ in range(2):
        loss(*given)
        for value in bad:
            target = given.target.long().clone()
            target[1, ..., 0, 0] = value
            with pytest.raises(ValueError, match=rf"target {value} at .* out of range; allowed: 0..{high}"):
                loss(given.logits, target, given.auxiliary)
            if value != IGNORE:
                with pytest.raises(ValueError, match=rf"target {value} at .*allowed: 0..{high}, or 255"):
                    ignoring_some(given.logits, target, given.auxiliary)
        if case.multilabel:
            with pytest.raises(ValueError, match="target nan"):
                loss(given.logits, torch.full_like(given.logits, float("nan")), given.auxiliary)
        for weight in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=r"weights hold .*allowed: finite numbers ≥ 0"):
                loss(*given, torch.tensor([1.0, weight, 1.0]))
    with monkeypatch.context() as patched:
        patched.setattr("lossbench.losses.batch.in_range", lambda *_: pytest.fail("looked"))
        case.make(check="never")(*given)


def test_when_to_look_at_values_is_one_of_three_words() -> None:
    with pytest.raises(
        ParameterError, match="CrossEntropy: check is 'sometimes'; allowed: auto, always, never"
    ):
        CrossEntropy(check="sometimes")  # type: ignore[arg-type]  # on purpose


@shared
@every_loss
def test_weights_of_one_change_nothing_and_those_of_zero_are_ignored_positions(case: Case) -> None:
    given = inputs(case)
    generator = torch.Generator().manual_seed(1)
    ignored = torch.rand(3, 5, 4, generator=generator) < 0.3
    ignored[1] = True  # a whole sample
    for parameters in some(variants(case)):
        loss = made(case, CLASSES, ignore_index=IGNORE, **parameters)
        expected = gradient(loss, given)
        for ones in (torch.ones(3), torch.ones(3, 5, 4, dtype=torch.bool)):
            same(gradient(loss, given, ones), expected)
        expected = gradient(loss, ignoring(given, case, ignored))
        same(gradient(loss, given, (~ignored).float()), expected)
        spoilt = given._replace(logits=given.logits.masked_fill(ignored.unsqueeze(1), float("nan")))
        same(gradient(loss, spoilt, (~ignored).float()), expected)
        assert gradient(loss, spoilt, torch.zeros(3))[0] == 0


@every_loss
def test_a_sample_of_weight_two_is_as_two_samples(case: Case) -> None:
    given, times = inputs(case, dtype=torch.float64), torch.tensor([1, 2, 0])
    repeated = Input(*(None if part is None else part.repeat_interleave(times, 0) for part in given))
    for parameters in variants(case):
        loss = made(case, CLASSES, **parameters, **WHOLE.get(case.name, {}))
        torch.testing.assert_close(loss(*given, times.float()), loss(*repeated))


@over(case for case in CASES if case.spatial == 0)
def test_a_position_of_weight_two_is_as_two_positions(case: Case) -> None:
    given = inputs(case, (6,), dtype=torch.float64)
    times = torch.tensor([1, 2, 0, 1, 3, 1])
    repeated = Input(*(None if part is None else part.repeat_interleave(times, -1) for part in given))
    for parameters in variants(case):
        loss = made(case, CLASSES, **parameters, **WHOLE.get(case.name, {}))
        torch.testing.assert_close(loss(*given, times.float().expand(3, 6)), loss(*repeated))


@over(case for case in WEIGHTED if case.multilabel)
def test_a_class_of_weight_zero_is_as_if_it_were_ignored(case: Case) -> None:
    given = inputs(case)
    given.target[:, 1] = False
    without = given.target.long().clone()
    without[:, 3] = IGNORE
    for parameters in variants(case):
        weighted = made(case, CLASSES, class_weights=[1.0, 1.0, 1.0, 0.0], **parameters)
        expected = gradient(
            made(case, CLASSES, ignore_index=IGNORE, **parameters), given._replace(target=without)
        )
        same(gradient(weighted, given), expected)


@over(case for case in WEIGHTED if not case.multilabel and not takes(case, "absent", "include"))
def test_positions_of_a_class_of_weight_zero_are_as_if_they_were_ignored(case: Case) -> None:
    """Of losses of positions: where classes are counted, those positions are false alarms of others."""
    given = inputs(case)
    weighted = case.make(class_weights=[1.0, 1.0, 1.0, 0.0])
    expected = gradient(case.make(ignore_index=IGNORE), ignoring(given, case, given.target == 3))
    same(gradient(weighted, given), expected)


@over(case for case in CASES if takes(case, "include_background", False))
def test_without_background_class_0_weighs_nothing(case: Case) -> None:
    given, loss = inputs(case), case.make(include_background=False)
    if takes(case, "class_weights", [1.0] * CLASSES):
        expected = case.make(class_weights=[0.0, 1.0, 1.0, 1.0])(*given)
        torch.testing.assert_close(loss(*given), expected)
    elif case.multilabel:
        changed = given.logits.clone()
        changed[:, 0] = 5.0
        torch.testing.assert_close(loss(*given), loss(changed, given.target, given.auxiliary))
    one = inputs(case, classes=1)
    with pytest.raises(ValueError, match="include_background is false, but the logits have one class"):
        case.make(include_background=False, classes=1)(*one)


@over(case for case in CASES if takes(case, "reduction", "none"))
def test_reduction_none_is_what_the_others_reduce(case: Case) -> None:
    """A map of positions or labels; for losses of counts, of images and classes."""
    ignored = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    given = ignoring(inputs(case), case, ignored)
    for parameters in averages(case):
        full = case.make(ignore_index=IGNORE, reduction="none", **parameters)(*given)
        total = case.make(ignore_index=IGNORE, reduction="sum", **parameters)(*given)
        torch.testing.assert_close(full.sum(), total)
        if case.name == "blob":
            assert full.shape == (3, CLASSES)
        elif not takes(case, "over", "image"):
            assert full.shape in (given.target.shape, ignored.shape)
        elif case.name != "generalized_dice":  # one score an image
            assert full.shape == (3 if parameters["over"] == "image" else 1, CLASSES)
            if parameters["absent"] == "include":
                mean = case.make(ignore_index=IGNORE, **parameters)(*given)
                torch.testing.assert_close(full.mean(), mean)


# --- soft targets ---


@shared
@of_distributions
def test_a_one_hot_distribution_is_its_class_index(case: Case) -> None:
    """With ignored positions, class weights, smoothed labels and weights of positions too."""
    given = inputs(case, dtype=torch.float64)
    hot = torch.nn.functional.one_hot(given.target, CLASSES).movedim(-1, 1)
    ignored = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    weights = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(2))
    settings: list[dict[str, Any]] = [{}, *variants(case)]
    extra = {"class_weights": [0.5, 1.0, 2.0, 0.0], "label_smoothing": 0.1, "power": 2}
    settings += [{name: value} for name, value in extra.items() if takes(case, name, value)]
    for parameters in some(settings):
        loss = made(case, CLASSES, ignore_index=IGNORE, labels="exclusive", **parameters)
        expected = gradient(loss, given)
        for dtype in (torch.float64, torch.int64, torch.bool):
            same(gradient(loss, given._replace(target=hot.to(dtype))), expected, rtol=1e-7, atol=1e-9)
        same(gradient(loss, given._replace(target=hot), weights), gradient(loss, given, weights))
        missing = given._replace(target=hot.masked_fill(ignored.unsqueeze(1), IGNORE))
        same(gradient(loss, missing), gradient(loss, ignoring(given, case, ignored)))


@of_distributions
def test_a_distribution_is_differentiated_mapped_and_reduced_as_a_class_is(case: Case) -> None:
    given = inputs(case, (3, 2), samples=2, dtype=torch.float64)
    target = torch.randn(2, CLASSES, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss, target = case.make(labels="exclusive"), target.softmax(1)
    logits = given.logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, target, given.auxiliary), logits, fast_mode=True)
    members = torch.stack([given.logits.detach(), given.logits.detach() + 1])
    mapped = torch.func.vmap(lambda z: loss(z, target, given.auxiliary))(members)
    torch.testing.assert_close(mapped, torch.stack([loss(z, target, given.auxiliary) for z in members]))
    at_half = loss(given.logits.detach().half(), target, given.auxiliary)
    torch.testing.assert_close(
        at_half.double(), loss(given.logits, target, given.auxiliary), rtol=1e-2, atol=1e-2
    )
    with pytest.raises(ValueError, match=r"the target at \(0, 0, 0\) sums to 0.5 over the classes; allowed"):
        loss(given.logits, target * 0.5, given.auxiliary)


@every_name
def test_a_distribution_is_taken_by_those_who_say_so_alone(name: str) -> None:
    target = torch.full((2, CLASSES, 5, 4), 1 / CLASSES)
    case = Case(name, not REGISTRY[name].single)
    if not takes(case, "labels", "exclusive"):
        assert not REGISTRY[name].single or name in REGIONS
        with pytest.raises(ParameterError, match="labels is 'exclusive'; allowed: independent"):
            case.make(labels="exclusive")
    elif not REGISTRY[name].multi:
        with pytest.raises(ValueError, match=r"A distribution over the classes wants labels='exclusive'"):
            case.make()(torch.zeros(2, CLASSES, 5, 4), target)


def test_a_sum_has_one_kind_of_labels() -> None:
    soft = {"labels": "exclusive"}
    both = Sum({"ce": CrossEntropy(**soft), "dice": Dice(**soft)})
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    target = torch.randn(2, 3, 4, dtype=torch.float64).softmax(1)
    parts = CrossEntropy(**soft)(logits, target) + Dice(**soft)(logits, target)
    torch.testing.assert_close(both(logits, target), parts)
    with pytest.raises(ValueError, match=r"the parts have labels .*; allowed: one for all parts"):
        Sum({"ce": CrossEntropy(**soft), "dice": Dice()})


# --- derivatives and graphs ---


@every_loss
def test_second_derivatives_are_those_of_the_value(case: Case) -> None:
    given = inputs(case, (3, 2), samples=2, dtype=torch.float64)
    loss = case.make()
    logits = given.logits.requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda z: loss(z, given.target, given.auxiliary), logits, fast_mode=True
    )


@every_loss
def test_forward_derivatives_are_the_backward_ones(case: Case) -> None:
    """Dual numbers too, which hand-written backward passes know nothing of."""
    given, loss = inputs(case, dtype=torch.float64), case.make()
    direction = torch.randn_like(given.logits)
    with forward_ad.dual_level():
        value = loss(forward_ad.make_dual(given.logits, direction), *given[1:])
        along = forward_ad.unpack_dual(value).tangent
    torch.testing.assert_close(along, (gradient(loss, given)[1] * direction).sum())


@every_loss
def test_shapes_alone_go_through(case: Case) -> None:
    """On the meta device, where nothing is computed: a model's memory can be planned with its loss."""
    given = (None if part is None else part.to("meta") for part in inputs(case))
    value = case.make().to("meta")(*given)
    assert value.is_meta
    assert value.shape == ()


def with_weights(loss: Loss, given: Input) -> torch.nn.Module:
    """A module of tensors alone, as tracing and export want it."""

    class Called(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
            value: Tensor = self.loss(logits, target, given.auxiliary, weights)
            return value

    return Called()


@pytest.mark.slow
@every_loss
def test_can_be_traced(case: Case) -> None:
    """Nothing of the example's values is left in the trace; its shapes are, of which torch warns."""
    given, later = inputs(case), inputs(case, seed=1)
    later = later._replace(auxiliary=given.auxiliary)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(
            with_weights(case.make(ignore_index=IGNORE), given), (given.logits, given.target, torch.ones(3))
        )
    weights = torch.tensor([1.0, 0.0, 2.0])
    expected = case.make(ignore_index=IGNORE)(*later, weights)
    torch.testing.assert_close(traced(later.logits, later.target, weights), expected)


@pytest.mark.slow
@every_loss_alone
def test_can_be_exported(case: Case) -> None:
    given, later = inputs(case), inputs(case, seed=1)
    later = later._replace(auxiliary=given.auxiliary)
    example = (given.logits, given.target, torch.ones(3))
    program = torch.export.export(with_weights(case.make(ignore_index=IGNORE), given), example)
    weights = torch.tensor([1.0, 0.0, 2.0])
    expected = case.make(ignore_index=IGNORE)(*later, weights)
    torch.testing.assert_close(program.module()(later.logits, later.target, weights), expected)


@over(case for case in CASES if not case.multilabel and case.make().reads_summary)
def test_a_loss_that_reads_the_summary_alone_adds_no_softmax_to_a_sum(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("log_softmax", "softmax"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *args, o=original, n=name: (calls.append(n), o(*args))[1]
        )
    Sum({"a": CrossEntropy(), "b": case.make()})(*inputs(case))
    assert calls == ["log_softmax"]


# --- ranges ---


def ends(name: str, parameter: str) -> Iterator[float]:
    """The ends of a parameter's range, or numbers far out where it has none."""
    read = REGISTRY[name].declared[parameter].read
    for value in (0.0, 0.25, 0.5, 1.0, 2.0, 1e-3, 1e4, -1e4, 1 - 1e-3, -1.0, 3.0, 4.0, 6.0):
        try:
            if isinstance(read(name, parameter, value), float):
                yield value
        except ParameterError:
            continue


@shared
@over(case for case in CASES if case.name in REGISTRY)
def test_stays_finite_at_saturated_logits_at_the_ends_of_every_range(case: Case) -> None:
    for parameter in REGISTRY[case.name].declared:
        for value in some(ends(case.name, parameter)):
            for right in (True, False):
                found, grad = gradient(case.make(**{parameter: value}), saturated(case, right))
                assert found.isfinite(), (parameter, value)
                assert grad.isfinite().all(), (parameter, value)


@shared
@every_loss
def test_stays_finite_where_training_begins_and_where_hardly_anything_counts(case: Case) -> None:
    """Logits of a head that begins with zeros, in every precision; weights however small or large."""
    given = inputs(case)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for logits in (torch.zeros_like(given.logits), torch.full_like(given.logits, 1e4)):
            value, grad = gradient(case.make(), given._replace(logits=logits.to(dtype)))
            assert value.isfinite()
            assert grad.isfinite().all(), dtype
    for weights in (torch.full((3,), 1e-30), torch.full((3, 5, 4), 1e-30), torch.tensor([1e30, 1e-30, 0.0])):
        for parameters in some(variants(case)):
            value, grad = gradient(made(case, CLASSES, **parameters), given, weights)
            assert value.isfinite(), (parameters, weights)
            assert grad.isfinite().all(), (parameters, weights)


@pytest.mark.parametrize("alpha", [-1.0, 6.5, 100.0])
def test_the_power_of_a_distance_has_an_upper_end(alpha: float) -> None:
    """At 6 the distances of a map of 1000 × 1000 still fit into single precision."""
    with pytest.raises(ParameterError, match=r"alpha is .*; allowed: a number in \[0, 6\]"):
        REGISTRY["hausdorff"](alpha=alpha)
    assert torch.tensor(1500.0).pow(6.0).mul(1e6).isfinite()


# --- boundary losses, and the library by itself ---


def test_a_false_alarm_where_no_region_is_costs_something() -> None:
    target = torch.zeros(1, 1, 6, 5, dtype=torch.bool)
    loss = REGISTRY["hausdorff"]()
    maps = loss.prepare(target, 1)
    quiet, loud = (float(loss(torch.full((1, 1, 6, 5), z), target, maps)) for z in (-9.0, 9.0))
    assert quiet < 0.1
    assert loud > 0.9


def test_a_distance_loss_of_two_sides_says_that_it_cannot_be_mapped() -> None:
    case = Case("hausdorff", False)
    given, loss = inputs(case), case.make(sides="two")
    with pytest.raises(ValueError, match="sides is 'two', which looks at predictions"):
        torch.func.vmap(lambda z: loss(z, given.target, given.auxiliary))(given.logits.unsqueeze(0))
    assert isinstance(Boundary(include_background=False)(*inputs(Case("boundary", False))), Tensor)


def test_tempered_probabilities_have_third_derivatives_too() -> None:
    """Each step of Newton's with a graph doubles the order: two make three exact."""
    z = torch.randn(1, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def slope(x: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(functional.tempered_log_softmax(x, 1.4)[0, 0, 0], x, create_graph=True)
        return grad

    assert torch.autograd.gradgradcheck(slope, z)


ALONE = """
import builtins, sys, time
import torch
started = time.perf_counter()
ours = builtins.__import__
allowed = {"lossbench", "torch", *sys.stdlib_module_names, *(name.split(".")[0] for name in sys.modules)}
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    top = name.split(".")[0]
    inside = (globals or {}).get("__name__", "").split(".")[0] == "lossbench"
    if level == 0 and (top not in allowed or (inside and top not in {"lossbench", "torch", *sys.stdlib_module_names})):
        raise ImportError(f"{name} is not there")
    return ours(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
import lossbench.losses as losses
took = time.perf_counter() - started
loss = losses.build({"sum": {"cross_entropy": 1.0, "dice": 1.0}}, losses.LossContext(classes=3))
loss(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
print(took, len(dict(losses.REGISTRY)))
"""


@pytest.mark.slow
def test_the_losses_need_torch_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    took, every = done.stdout.split()
    assert float(took) < 1.0  # 0.03 s on a quiet machine
    assert int(every) == len(REGISTRY)
