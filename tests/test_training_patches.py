"""Convolutions of few channels a group as products of patches, held against torch's own, stacked and alone."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.synthetic import setting, synthetic
from lossbench.training import patches, population
from lossbench.training.member import Member
from lossbench.training.patches import in_patches, multiply_patches
from lossbench.training.replicate import Replicate

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADDINGS = st.sampled_from([0, (0, 2), (1, 0), (2, 2), "valid", "same"])
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""By which the convolutions may be apart, of the greatest number."""


def patched_copy(model: nn.Module) -> nn.Module:
    made = copy.deepcopy(model)
    multiply_patches(made, members=64)
    return made


@settings(deadline=None, max_examples=30)
@given(
    kernel=SIZES,
    stride=SIZES,
    padding=PADDINGS,
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    dilation=SIZES,
    groups=st.integers(1, 3),
    channels=st.integers(1, 3),
    filters=st.integers(2, 3),
    bias=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCES)),
    count=st.integers(1, 3),
)
def test_a_product_of_patches_is_the_convolution(
    kernel: Any, stride: Any, padding: Any, mode: Any, dilation: Any,
    groups: int, channels: int, filters: int, bias: bool, dtype: torch.dtype, count: int,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    stride = 1 if padding == "same" else stride
    wide = groups * channels
    plain = nn.Conv2d(wide, groups * filters, kernel, stride, padding, dilation, groups, bias, mode)
    patched = patched_copy(plain.to(dtype))
    images = torch.randn(count, wide, 8, 7, dtype=dtype)
    made = []
    for model in (plain, patched):
        shown = images.clone().requires_grad_()
        outputs = model(shown)
        outputs.square().sum().backward()
        made.append([outputs, shown.grad, *(one.grad for one in model.parameters())])
    for expected, found in zip(*made, strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        apart = TOLERANCES[dtype] * max(1.0, expected.detach().abs().max().item())
        torch.testing.assert_close(found, expected, rtol=0, atol=apart)
    assert "forward" in vars(patched)
    assert list(patched.state_dict()) == list(plain.state_dict())


@each("shared", [False, True])
@each(("channels", "groups"), [(1, 1), (2, 2), (3, 1)])
def test_stacked_gradients_are_those_of_the_convolution(shared: bool, channels: int, groups: int) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(channels, 4, 3, padding=1, groups=groups)
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    weights = {name: torch.randn(5, *one.shape).double() for name, one in network.named_parameters()}
    images = torch.randn(4, channels, 8, 8) if shared else torch.randn(5, 4, channels, 8, 8)

    def gradients(model: nn.Module) -> dict[str, Tensor]:
        def value(own: dict[str, Tensor], shown: Tensor) -> Tensor:
            made: Tensor = functional_call(model, own, (shown,))
            return made.square().mean()

        stacked: Callable[..., dict[str, Tensor]] = vmap(grad(value), in_dims=(0, None if shared else 0))
        return stacked(weights, images.double())

    torch.testing.assert_close(gradients(patched_copy(network)), gradients(network))


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(3, 3, 3, groups=3),
        nn.Conv2d(3, 8, 7),
        nn.Conv1d(1, 4, 3),
    ],
    ids=["four channels", "four channels a group", "one filter a group", "large patches", "of sequences"],
)
def test_what_is_no_such_convolution_is_left_alone(other: nn.Module) -> None:
    multiply_patches(other, members=64)
    assert "forward" not in vars(other)


@pytest.mark.parametrize("name", ["forward", "_conv_forward"])
def test_a_convolution_given_a_method_of_its_own_keeps_it(name: str) -> None:
    layer = nn.Conv2d(1, 4, 3)
    torchs = getattr(layer, name)
    setattr(layer, name, lambda *given: 2 * torchs(*given))
    images = torch.randn(2, 1, 6, 6)
    expected = layer(images)
    multiply_patches(layer, members=64)
    assert torch.equal(layer(images), expected)


@pytest.mark.parametrize("shape", [(2, 8, 8), (0, 2, 8, 8)], ids=["an image alone", "no image"])
@pytest.mark.parametrize("groups", [1, 2])
def test_an_image_alone_or_none_is_taken_as_torch_takes_it(shape: tuple[int, ...], groups: int) -> None:
    plain = nn.Conv2d(2, 4, 3, groups=groups)
    patched, images = patched_copy(plain), torch.randn(shape)
    assert "forward" in vars(patched)
    assert torch.equal(patched(images), plain(images))


@pytest.mark.parametrize(
    ("channels", "members", "taken"), [(1, 7, False), (1, 8, True), (3, 3, False), (3, 4, True)]
)
def test_a_few_members_are_left_to_torch(channels: int, members: int, taken: bool) -> None:
    layer = nn.Conv2d(channels, 4, 3)
    multiply_patches(layer, members)
    assert ("forward" in vars(layer)) == taken


def test_validation_takes_torchs_convolution() -> None:
    patched = patched_copy(nn.Conv2d(1, 4, 3)).eval()
    images = torch.randn(2, 1, 6, 6)
    with patch.object(patches, "_patches", side_effect=AssertionError):
        assert torch.equal(patched(images), nn.Conv2d.forward(patched, images))  # type: ignore[arg-type]  # it is one


@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_a_population_takes_them_on_a_gpu_alone_and_ends_where_it_does_without(
    precision: str, apart: float, tmp_path: Path
) -> None:
    assert [in_patches(device) for device in ("cuda", "cpu")] == [True, False]
    network = {"name": "simple_cnn", "width": 4, "layers": 2, "hidden": 8}
    data = synthetic(tmp_path, "label", (1, 12, 12), 32, validation=8)
    sgd = {"name": "sgd", "learning_rate": 0.1}
    made = setting(data, network, precision=precision, batch_size=8, optimizer=sgd)
    calls = 0

    def counted(*arguments: Any, was: Callable[..., Tensor] = patches._patches, **more: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return was(*arguments, **more)

    def trained(asked: bool) -> list[Replicate]:
        with (
            patch.object(population, "in_patches", lambda _: asked),
            patch.object(patches, "FEWEST", {1: 2}),
            patch.object(patches, "_patches", counted),
        ):
            return population.train_population(made, [Member(0), Member(1)])

    without = trained(False)
    assert calls == 0
    found = trained(True)
    assert calls >= 4
    for one, other in zip(found, without, strict=True):
        for name, value in other.state.items():
            torch.testing.assert_close(one.state[name], value, rtol=0, atol=apart)
