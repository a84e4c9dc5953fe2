"""What the loss tests share: every registered loss with each kind of target it takes, and random input."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from law_cases import full, shared, tried
from torch import Tensor

from lossbench.losses import REGISTRY, CrossEntropy, Dice, Loss, Sum

CLASSES = 4
IGNORE = 255


class Late:
    """Another library, imported where a test asks for it: while tests are collected, every process would pay."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, part: str) -> Any:
        if part.startswith("_"):  # as pytest asks of all that it collects
            raise AttributeError(part)
        whole = importlib.import_module(self._name)
        if hasattr(whole, part):
            return getattr(whole, part)
        return importlib.import_module(f"{self._name}.{part}")


class Case(NamedTuple):
    """One loss with one kind of target."""

    name: str
    multilabel: bool

    def make(self, ignore_index: int | None = None, classes: int = CLASSES, **parameters: object) -> Loss:
        """Construct the loss with its defaults; counts of training samples where it needs them."""
        if self.name == "sum":
            shared = {"ignore_index": ignore_index, "labels": parameters.pop("labels", "independent")}
            parts = {"cross_entropy": CrossEntropy(**shared), "dice": Dice(**shared)}
            made = Sum(parts, {"dice": 0.5})
            made.check = parameters.pop("check", "auto")
            assert not parameters
            return made
        cls = REGISTRY[self.name]
        if "class_counts" in cls.declared and "class_counts" not in parameters:
            parameters["class_counts"] = [50, 20, 5, 1, 7, 3, 2][:classes]
        return cls(ignore_index=ignore_index, **parameters)

    @property
    def spatial(self) -> int:
        return 0 if self.name == "sum" else REGISTRY[self.name].spatial

    @property
    def family(self) -> str:
        return "compound" if self.name == "sum" else REGISTRY[self.name].family

    def __str__(self) -> str:
        return f"{self.name}-{'labels' if self.multilabel else 'index'}"


CASES = [
    *[Case(name, False) for name, cls in REGISTRY.items() if cls.single],
    *[Case(name, True) for name, cls in REGISTRY.items() if cls.multi],
    Case("sum", False),
]


def grouped(
    parameter: str, values: Iterable[Any], group: Callable[[Any], str], share: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make of a test of one ``parameter`` a test for each group of its values, which loops over them.

    All values that fail are told. An item a value would be 1,500 items more, and says no more. With ``share``
    the quick tests hold each law over another third of a group, and the slow ones over all.
    """
    known: dict[str, list[Any]] = {}
    for value in values:
        known.setdefault(group(value), []).append(value)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        whole = full() or ONLY is not None or not share
        found = {name: held if whole else _third(held, test.__name__) for name, held in known.items()}

        def run(group: str, **fixtures: Any) -> None:
            tried(test, [{parameter: value} for value in found[group]], fixtures)

        fixtures = [one for name, one in inspect.signature(test).parameters.items() if name != parameter]
        named = inspect.Parameter("group", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        run.__signature__ = inspect.Signature([named, *fixtures])  # type: ignore[attr-defined]  # read by pytest
        run = pytest.mark.parametrize("group", found)(run)
        return shared(run) if share else run

    return decorate


def _third(values: Sequence[Any], law: str) -> list[Any]:
    """Return every third of the values, from another one on for each law, so that some law holds each quickly."""
    begin = sum(law.encode()) % min(3, len(values))
    return list(values[begin::3])


ONLY: str | None = None
"""The loss that the laws are held over, alone (``pytest --loss NAME``); None: every one."""


def over(
    cases: Iterable[Case], group: Callable[[Case], str] = lambda case: case.family
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make of a test of one ``case`` a test for each family of losses."""
    return grouped("case", (case for case in cases if ONLY in (None, case.name)), group, share=True)


every_loss = over(CASES)
#: What takes seconds a loss is shared out among processes loss by loss.
every_loss_alone = over(CASES, lambda case: case.name)
every_name = grouped(
    "name", (name for name in REGISTRY if ONLY in (None, name)), lambda name: REGISTRY[name].family
)
SHAPES = {"points": (), "sequence": (6,), "image": (5, 4), "volume": (3, 4, 2)}


class Input(NamedTuple):
    """Logits and target, and the maps of the losses that need them."""

    logits: Tensor
    target: Tensor
    auxiliary: Tensor | None = None


def inputs(
    case: Case,
    spatial: tuple[int, ...] = (5, 4),
    samples: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    classes: int = CLASSES,
) -> Input:
    """Return random input.

    Every class occurs, and every label is yes and no somewhere, where there is room.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, classes, *spatial, generator=generator, dtype=torch.float64).to(dtype) * 2
    index = torch.randint(classes, (samples, *spatial), generator=generator)
    coarse = case.name == "blob" and min(spatial, default=0) > 32
    if coarse:  # else there would be a blob for every few of 512² positions
        for axis in range(1, index.ndim):
            index = index.repeat_interleave(32, axis).narrow(axis, 0, index.shape[axis]).contiguous()
    index.view(-1)[: min(classes, index.numel())] = torch.arange(min(classes, index.numel()))
    if not case.multilabel:
        return with_maps(case, logits, index)
    labels = torch.rand(logits.shape, generator=generator) < (0.0 if coarse else 0.4)
    labels |= torch.nn.functional.one_hot(index, classes).movedim(-1, 1).bool()
    return with_maps(case, logits, labels)


def with_maps(case: Case, logits: Tensor, target: Tensor) -> Input:
    """Add the distance maps where the loss needs them."""
    loss = case.make()
    if not loss.auxiliary:
        return Input(logits, target)
    return Input(logits, target, loss.prepare(target, logits.shape[1]))


def ignoring(given: Input, case: Case, ignored: Tensor) -> Input:
    """Return the input with the target of the positions ``ignored`` (N, *spatial) set to IGNORE."""
    if not case.multilabel:
        return given._replace(target=given.target.masked_fill(ignored, IGNORE))
    return given._replace(target=given.target.long().masked_fill(ignored.unsqueeze(1), IGNORE))


#: Losses that order the labels of a position and set no threshold.
RANKING = {"multilabel_margin", "two_way", "softmax_multilabel_cross_entropy"}


def takes(case: Case, parameter: str, value: object) -> bool:
    """Say whether the loss has this parameter and takes this value of it."""
    if case.name == "sum":
        return parameter == "labels"
    declared = REGISTRY[case.name].declared
    try:
        return parameter in declared and declared[parameter].read(case.name, parameter, value) is not None
    except ValueError:
        return False


def saturated(case: Case, right: bool) -> Input:
    """Logits of ±100 that are certain of the target, or of something else."""
    given = inputs(case)
    truth = (
        given.target
        if case.multilabel
        else torch.nn.functional.one_hot(given.target, CLASSES).movedim(-1, 1).bool()
    )
    truth = truth if right else (~truth if case.multilabel else truth.roll(1, 1))
    return given._replace(logits=torch.where(truth, 100.0, -100.0))


def gradient(loss: Loss, given: Input, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return value and gradient with respect to the logits."""
    logits = given.logits.clone().requires_grad_()
    value = loss(logits, given.target, given.auxiliary, weights)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad
