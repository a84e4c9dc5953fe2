"""Faults that the look at a step must find: each is one more operation in the objective of a classification."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from cases import MODELS, NETWORKS, Case, plain
from torch import Tensor

from lossbench.tasks import task_class
from lossbench.training.graphs import WARM


def waits(value: Tensor) -> Tensor:
    return value * (1.0 if value.item() > 0 else 2.0)


def mixes_devices(value: Tensor) -> Tensor:
    return (value + torch.ones(2)).sum()


def has_no_deterministic_form(value: Tensor) -> Tensor:
    image = value.expand(1, 1, 6, 6)
    return torch.nn.functional.adaptive_avg_pool2d(image, 3).sum()


def draws_from_another_generator(value: Tensor) -> Tensor:
    return value * torch.rand(1, device=value.device, generator=torch.Generator()).sum()


def draws_unasked(value: Tensor) -> Tensor:
    torch.rand(())
    return value


def keeps_memory(value: Tensor) -> Tensor:
    KEPT.append(value)
    return value


def copies_from_the_host(value: Tensor) -> Tensor:
    return value * torch.tensor(2.0, device=value.device)


def works_on_another_stream(value: Tensor) -> Tensor:
    with torch.cuda.stream(other()):
        return value * 2


@cache
def other() -> torch.cuda.Stream:
    return torch.cuda.Stream()


def changes_in_python(value: Tensor) -> Tensor:
    COUNT.append(0)
    return value if len(COUNT) <= WARM + 1 else value * 2


KEPT: list[Tensor] = []
COUNT: list[int] = []

FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    one.__name__: one
    for one in (
        waits,
        mixes_devices,
        has_no_deterministic_form,
        draws_from_another_generator,
        draws_unasked,
        keeps_memory,
        copies_from_the_host,
        works_on_another_stream,
        changes_in_python,
    )
}

RECORDED = ", recorded"
DRAWING = " in a network that draws, recorded"


@contextmanager
def planted(case: Case) -> Iterator[None]:
    """Add the fault that a case is named after, where it is one of them."""
    COUNT.clear()
    add = FAULTS.get(case.name.removesuffix(DRAWING).removesuffix(RECORDED))
    if add is None:
        yield
        return
    task = task_class({"label": "classification", "mask": "segmentation"}[case.kind])
    was = task.objective

    def objective(self: Any, *given: Any, **more: Any) -> Tensor:
        return add(was(self, *given, **more))

    with patch.object(task, "objective", objective):
        yield


def cases() -> list[Case]:
    """A case for each fault, and those of recorded steps; one of them in a network that draws."""
    single = [Case(name, "label", NETWORKS["label"], plain("label")) for name in FAULTS]
    recorded = [
        replace(one, name=f"{one.name}{RECORDED}", graphs=True)
        for one in single
        if one.name in ("waits", "copies_from_the_host", "works_on_another_stream", "changes_in_python")
    ]
    drawing = Case(f"waits{DRAWING}", *MODELS["unet"], plain("mask"), graphs=True)
    return [*single, *recorded, drawing]
