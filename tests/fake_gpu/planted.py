"""Faults that the look at a step must find: each is one more operation in the objective of a classification."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from cases import NETWORKS, Case, plain
from torch import Tensor

from lossbench.tasks import task_class


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


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    one.__name__: one
    for one in (waits, mixes_devices, has_no_deterministic_form, draws_from_another_generator, draws_unasked)
}

RECORDED = ", recorded"


@contextmanager
def planted(case: Case) -> Iterator[None]:
    """Add the fault that a case is named after, where it is one of them."""
    add = FAULTS.get(case.name.removesuffix(RECORDED))
    if add is None:
        yield
        return
    task = task_class("classification")
    was = task.objective

    def objective(self: Any, *given: Any, **more: Any) -> Tensor:
        return add(was(self, *given, **more))

    with patch.object(task, "objective", objective):
        yield


def cases() -> list[Case]:
    """A case for each fault, and those of recorded steps."""
    single = [Case(name, "label", NETWORKS["label"], plain("label")) for name in FAULTS]
    return [*single, replace(single[0], name=f"waits{RECORDED}", graphs=True)]
