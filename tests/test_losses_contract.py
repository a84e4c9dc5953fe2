"""The numerical contract, held over every registered loss: a new loss is under it once it is registered."""

import copy
import doctest
import functools
import importlib
import pickle
import pkgutil
import warnings

import pytest
import torch
from losses_cases import (
    CASES,
    CLASSES,
    IGNORE,
    RANKING,
    SHAPES,
    Case,
    Input,
    every_loss,
    every_loss_alone,
    every_name,
    gradient,
    grouped,
    ignoring,
    inputs,
    over,
)

import lossbench.losses
from lossbench.losses import REGISTRY, DoubleSoftmaxWarning, check_targets

torch.set_num_threads(1)


@every_loss
def test_takes_points_sequences_images_and_volumes(case: Case) -> None:
    for spatial in SHAPES.values():
        if len(spatial) < case.spatial:
            target = torch.zeros(
                (6, CLASSES) if case.multilabel else 6, dtype=torch.bool if case.multilabel else torch.long
            )
            with pytest.raises(ValueError, match="spatial dimension"):
                case.make()(torch.zeros(6, CLASSES), target)
            continue
        value, grad = gradient(case.make(), inputs(case, spatial, samples=6))
        assert value.shape == ()
        assert value.isfinite()
        assert grad.isfinite().all()
        assert grad.abs().sum() > 0


@every_loss
def test_ignored_positions_count_nowhere(case: Case) -> None:
    """A map with its last columns ignored has the loss of the map without them."""
    given = inputs(case, (4, 6))
    ignored = torch.zeros(3, 4, 6, dtype=torch.bool)
    ignored[..., 4:] = True
    value, grad = gradient(case.make(ignore_index=IGNORE), ignoring(given, case, ignored))
    cropped = Input(*(None if part is None else part[..., :4] for part in given))
    expected, expected_grad = gradient(case.make(), cropped)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad[..., :4], expected_grad)
    assert (grad[..., 4:] == 0).all()


@over(case for case in CASES if case.multilabel)
def test_a_label_ignored_everywhere_is_as_if_it_were_not_there(case: Case) -> None:
    given = inputs(case)
    target = given.target.long()
    target[:, 3] = IGNORE
    loss = case.make(ignore_index=IGNORE)
    found = loss(given.logits, target, given.auxiliary)
    if case.name == "multilabel_margin":  # divided by C, as torch does it
        found = found * 4 / 3
    fewer = Input(*(None if part is None else part[:, :3] for part in given))
    counts = {"class_counts": [50, 20, 5]} if "class_counts" in loss.declared else {}
    torch.testing.assert_close(found, case.make(**counts)(*fewer))


@every_loss
def test_what_stands_in_ignored_logits_changes_nothing(case: Case) -> None:
    given = inputs(case)
    ignored = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    given = ignoring(given, case, ignored)
    clean = gradient(case.make(ignore_index=IGNORE), given)
    for garbage in (float("nan"), float("inf"), -float("inf")):
        spoilt = given._replace(logits=given.logits.masked_fill(ignored.unsqueeze(1), garbage))
        dirty = gradient(case.make(ignore_index=IGNORE), spoilt)
        assert torch.equal(clean[0], dirty[0])
        assert torch.equal(clean[1], dirty[1])


@every_loss
def test_is_zero_with_a_zero_gradient_where_all_is_ignored(case: Case) -> None:
    given = inputs(case)
    given = ignoring(given, case, torch.ones(3, 5, 4, dtype=torch.bool))
    value, grad = gradient(case.make(ignore_index=IGNORE), given)
    assert value == 0
    assert (grad == 0).all()


def half_precision_agrees(case: Case, size: int) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        given = inputs(case, (size, size), samples=1)
        given = given._replace(logits=given.logits.to(dtype))
        value, grad = gradient(case.make(), given)
        exact = case.make()(given.logits.double(), given.target, given.auxiliary)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact, rtol=1e-3, atol=1e-3)
        assert grad.dtype == dtype
        assert grad.isfinite().all()
        assert grad.abs().sum() > 0


@every_loss
def test_half_precision_input_is_reduced_in_full_precision(case: Case) -> None:
    half_precision_agrees(case, 64)


@pytest.mark.slow
@every_loss_alone
def test_half_precision_input_is_reduced_in_full_precision_on_large_maps(case: Case) -> None:
    half_precision_agrees(case, 320)  # more positions than half precision can count


@every_loss
def test_gradient_is_that_of_the_value(case: Case) -> None:
    """Against finite differences, in float64, with and without ignored positions."""
    for share in (0.0, 0.3):
        given = inputs(case, (3, 2), samples=2, dtype=torch.float64)
        ignored = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(3)) < share
        given = ignoring(given, case, ignored)
        value = functools.partial(
            case.make(ignore_index=IGNORE), target=given.target, auxiliary=given.auxiliary
        )
        assert torch.autograd.gradcheck(value, given.logits.requires_grad_(), fast_mode=True)


@every_loss
def test_any_integer_dtype_will_do_for_the_target(case: Case) -> None:
    """A byte does not wrap an ignore_index that it cannot hold."""
    given = inputs(case)
    expected = case.make()(*given)
    signed = (torch.int8, torch.int16, torch.int32, torch.int64)
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, *signed):
        target = given.target.to(dtype)
        assert torch.equal(case.make()(given.logits, target, given.auxiliary), expected)
        with pytest.raises(ValueError, match=r"target 9 at .* is out of range"):
            case.make()(given.logits, torch.full_like(target, 9), given.auxiliary)
        once = case.make()(*given, torch.ones(3, dtype=dtype))
        torch.testing.assert_close(once, expected)
    as_bytes = case.make(ignore_index=-100)(given.logits, given.target.to(torch.uint8), given.auxiliary)
    assert torch.equal(as_bytes, expected)


@every_loss
def test_input_of_the_wrong_shape_is_refused_with_both_shapes(case: Case) -> None:
    given = inputs(case)
    with pytest.raises(ValueError, match=r"target must be .*\(3, 5, 4\).*got \(2, "):
        case.make()(given.logits, given.target[:2], given.auxiliary)
    with pytest.raises(ValueError, match=r"weights must be \(N,\) = \(3,\) or .*\(3, 5, 4\); got \(3, 5\)"):
        case.make()(*given, torch.ones(3, 5))
    with pytest.raises(ValueError, match="a target must be of a real dtype; got"):
        case.make()(given.logits, given.target.to(torch.complex64), given.auxiliary)
    with pytest.raises(ValueError, match=r"logits must be floating, .*got \(3, 0, 5, 4\)"):
        case.make()(given.logits[:, :0], given.target, given.auxiliary)


@every_loss
def test_logits_of_a_byte_are_as_in_single_precision(case: Case) -> None:
    given = inputs(case)
    bytes_ = given.logits.to(torch.float8_e4m3fn)
    expected = case.make()(bytes_.float(), *given[1:])
    assert torch.equal(case.make()(bytes_, *given[1:]), expected)
    assert case.make()(bytes_[:0], *(None if part is None else part[:0] for part in given[1:])) == 0


@every_loss
def test_what_is_no_tensor_is_refused_by_its_name(case: Case) -> None:
    loss, given = case.make(), inputs(case)
    wrong = {"logits": given.logits.numpy(), "target": given.target.tolist(), "auxiliary": 1, "weights": 2.0}
    for name, value in wrong.items():
        with pytest.raises(
            TypeError, match=rf"^{type(loss).__name__}: {name} must be a tensor.*; got a \w+$"
        ):
            loss(**{**given._asdict(), name: value})
    with pytest.raises(TypeError, match="target must be a tensor; got a NoneType"):
        loss(given.logits, None, given.auxiliary)
    with pytest.raises(ValueError, match="weights must be of a real dtype; got"):
        loss(*given, torch.ones(3, dtype=torch.complex64))


@every_loss
def test_how_input_lies_in_memory_changes_nothing(case: Case) -> None:
    """Transposed, channels last, every second sample of more, one sample shown thrice."""
    given, loss = inputs(case), case.make()

    def transposed(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.transpose(0, -1).contiguous().transpose(0, -1)

    expected = gradient(loss, given)
    apart = given.logits.repeat_interleave(2, 0)[::2]
    for other in (
        Input(*(transposed(part) for part in given)),
        given._replace(logits=given.logits.to(memory_format=torch.channels_last)),
        given._replace(logits=apart),
    ):
        for found, wanted in zip(gradient(loss, other), expected, strict=True):
            torch.testing.assert_close(found, wanted, check_stride=False)
    shown = given.logits[:1].expand_as(given.logits)
    torch.testing.assert_close(loss(shown, *given[1:]), loss(shown.contiguous(), *given[1:]))


@every_loss
def test_relabelling_the_classes_changes_nothing(case: Case) -> None:
    if case.make().ordered:
        return
    given = inputs(case, dtype=torch.float64)
    order = torch.tensor([0, 3, 1, 2] if case.make().background else [2, 0, 3, 1])
    counts = [50, 20, 5, 1]
    has_counts = case.name in REGISTRY and "class_counts" in REGISTRY[case.name].declared
    permuted = {"class_counts": [counts[k] for k in order]} if has_counts else {}
    target = given.target[:, order] if case.multilabel else order.argsort()[given.target]
    auxiliary = None if given.auxiliary is None else given.auxiliary[:, order]
    relabelled = case.make(**permuted)(given.logits[:, order], target, auxiliary)
    torch.testing.assert_close(relabelled, case.make()(*given))


@every_loss
def test_soft_labels_of_zero_and_one_are_hard_labels(case: Case) -> None:
    if not case.multilabel:
        given = inputs(case)
        with pytest.raises(ValueError, match="integer dtype"):
            case.make()(given.logits, given.target.float(), given.auxiliary)
        return
    given = inputs(case, dtype=torch.float64)
    soft = given._replace(target=given.target.double())
    for hard, as_soft in zip(gradient(case.make(), given), gradient(case.make(), soft), strict=True):
        torch.testing.assert_close(as_soft, hard)


@every_loss
def test_works_under_vmap(case: Case) -> None:
    members = [inputs(case, seed=seed) for seed in range(3)]
    loss = case.make()
    stacked = [None if parts[0] is None else torch.stack(parts) for parts in zip(*members, strict=True)]
    logits, target, auxiliary = stacked
    mapped = torch.func.vmap(loss, in_dims=(0, 0, None if auxiliary is None else 0))(
        logits, target, auxiliary
    )
    torch.testing.assert_close(mapped, torch.stack([case.make()(*member) for member in members]))
    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0, None if auxiliary is None else 0))
    expected = torch.stack([gradient(case.make(), member)[1] for member in members])
    torch.testing.assert_close(grads(logits, target, auxiliary), expected)


@every_loss
def test_repeats_itself_with_deterministic_algorithms_and_under_autocast(case: Case) -> None:
    given = inputs(case, (8, 8))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        once, again = gradient(case.make(), given), gradient(case.make(), given)
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = gradient(case.make(), given)
    torch.testing.assert_close(value, once[0])
    torch.testing.assert_close(grad, once[1])


def compiled_agrees(case: Case, backend: str) -> None:
    torch.compiler.reset()
    given = ignoring(
        inputs(case), case, torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1)) < 0.3
    )
    loss = case.make(ignore_index=IGNORE)
    expected = gradient(loss, given)
    fast = torch.compile(case.make(ignore_index=IGNORE), fullgraph=True, backend=backend)
    for found, wanted in zip(gradient(fast, given), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.slow
@every_loss_alone
def test_compiles_into_one_graph(case: Case) -> None:
    compiled_agrees(case, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice", "tversky", "hinge", "sum"])
def test_compiles_with_inductor(name: str) -> None:
    compiled_agrees(Case(name, False), "inductor")


@every_loss
def test_one_batch_can_be_learnt_by_heart(case: Case) -> None:
    """Free logits under Adam come to predict the target: the loss points where it should."""
    given = inputs(case, (6, 5), samples=2)
    loss = case.make()
    helper = Case("binary_cross_entropy" if case.multilabel else "cross_entropy", case.multilabel).make()
    part = loss.only_in_sum or case.name == "gradient"  # documented as parts of a sum
    weight = 0.2 if part else 0.0
    logits = (given.logits * 0.1).clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for step in range(1, 101):
        optimizer.zero_grad()
        total = loss(logits, given.target, given.auxiliary)
        if weight:
            total = total + weight * helper(logits, given.target)
        total.backward()
        optimizer.step()
        if step % 10 == 0 and learnt(case, logits.detach(), given.target) > 0.98:
            return
    pytest.fail("100 steps were not enough")


def learnt(case: Case, logits: torch.Tensor, target: torch.Tensor) -> float:
    """Return the share of positions (or labels) predicted right."""
    if not case.multilabel:
        return float((logits.argmax(1) == target).float().mean())
    if case.name in RANKING:  # these order the labels of a position and set no threshold
        lowest = logits.masked_fill(~target, torch.inf).amin(1)
        highest = logits.masked_fill(target, -torch.inf).amax(1)
        return float((lowest > highest).float().mean())
    right = (logits > 0) == target
    if (
        case.name == "equalization"
    ):  # by design the negatives of rare classes, the last two here, teach nothing
        right[:, 2:] |= ~target[:, 2:]
    return float(right.float().mean())


@every_loss
def test_probabilities_in_place_of_logits_draw_one_warning(case: Case) -> None:
    given = inputs(case)
    loss, probabilities = case.make(), given.logits.softmax(1)
    with pytest.warns(DoubleSoftmaxWarning, match="applied twice"):
        loss(probabilities, given.target, given.auxiliary)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(probabilities, given.target, given.auxiliary)
        case.make()(*given)


@every_loss
def test_survives_copying_and_pickling(case: Case) -> None:
    loss, given = case.make(ignore_index=IGNORE), inputs(case)
    expected = loss(*given)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):  # noqa: S301  # our own bytes
        assert torch.equal(twin(*given), expected)
        assert twin.parameters_stated() == loss.parameters_stated()


@every_name
def test_says_what_it_is(name: str) -> None:
    """The agreed sections stand in every docstring, in their order."""
    cls = REGISTRY[name]
    text = cls.__doc__ or ""
    sections = ["Formula:", "Paper:", "Shapes:", "Parameters:", "Use it for:", "Fails when:", "Example:"]
    places = [text.find(f"\n{section}") for section in sections]
    assert min(places) > 0, f"missing: {sections[places.index(-1)] if -1 in places else ''}"
    assert places == sorted(places)
    assert ">>>" in text
    assert cls.link in ("softmax", "sigmoid", "margin")
    assert cls.family in (
        "distribution",
        "region",
        "margin",
        "regression",
        "boundary",
        "multi-label",
        "compound",
    )
    assert all(f"    {parameter}: " in text for parameter in cls.declared)
    assert getattr(lossbench.losses, cls.__name__) is cls, "every loss can be imported from lossbench.losses"


MODULES = [module.name for module in pkgutil.iter_modules(lossbench.losses.__path__)]


@grouped("module", MODULES, lambda _: "all")
def test_examples_run(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"lossbench.losses.{module}"))
    assert outcome.failed == 0


def test_a_dataset_can_be_checked_at_once() -> None:
    check_targets(torch.tensor([0, 3, 255], dtype=torch.uint8), classes=4, ignore_index=255)
    check_targets(torch.tensor([[0.0, 0.5]]), classes=2, multilabel=True)
    with pytest.raises(ValueError, match=r"target 4 at \(1,\)"):
        check_targets(torch.tensor([0, 4]), classes=4)
    with pytest.raises(ValueError, match="target nan"):
        check_targets(torch.tensor([[0.0, float("nan")]]), classes=2, multilabel=True)
