"""On a GPU a position's class is found by comparison, which sorts nothing: the same values and gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from losses_cases import IGNORE, Case, Input, every_loss, gradient, ignoring, inputs
from torch import Tensor
from torch.func import grad, vmap

from lossbench.losses import Loss, functional


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    def compares(values: Tensor, classes: int) -> bool:
        return classes <= functional.COMPARED

    with patch.object(functional, "compares", compares):
        yield


def agree(loss: Loss, given: Input, weights: Tensor | None = None) -> None:
    """Sums of a class may take its positions in another order, in float64: the last bit of a float32."""
    expected = gradient(loss, given, weights)
    with as_on_a_gpu():
        found = gradient(loss, given, weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@every_loss
def test_values_and_gradients_are_those_of_gathers(case: Case) -> None:
    given, loss = inputs(case), case.make(ignore_index=IGNORE)
    agree(loss, given)
    ignored = torch.rand(given.target.shape[0], 5, 4) < 0.3
    if not loss.auxiliary:
        agree(loss, ignoring(given, case, ignored), torch.rand(3))


@every_loss
def test_so_are_those_of_a_population(case: Case) -> None:
    given, loss = inputs(case), case.make()
    logits = torch.stack([given.logits, given.logits.flip(0)])

    def gradients() -> Tensor:
        one = grad(lambda shown: loss(shown, given.target, given.auxiliary))
        made: Tensor = vmap(one)(logits)
        return made

    expected = gradients()
    with as_on_a_gpu():
        torch.testing.assert_close(gradients(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("classes", [functional.COMPARED, functional.COMPARED + 1])
def test_of_many_classes_there_are_no_maps(classes: int) -> None:
    """The maps of a language model's words would cost more than a sort of a batch's positions."""
    values, index = torch.randn(2, classes, 3), torch.randint(classes, (2, 3))
    with as_on_a_gpu(), patch.object(functional, "is_class", wraps=functional.is_class) as compared:
        picked = functional.pick(values, index)
        sums = functional.class_sums(picked, index, classes)
    assert compared.called == (classes <= functional.COMPARED)
    assert torch.equal(picked, values.gather(1, index.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(sums, torch.zeros(2, classes).scatter_add(1, index, picked))
