"""Deterministic algorithms and explicit precision, for as long as a block lasts."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.errors import UserError
from lossbench.recipe import WORKSPACE, WORKSPACES, Compute

SWITCH = "CUBLAS_WORKSPACE_CONFIG"
RAISES = 2
"""Mode of torch in which what has no deterministic form raises."""


@contextmanager
def deterministic(compute: Compute) -> Iterator[None]:
    """Switch deterministic algorithms on, and on a GPU state the precision; what has no such form raises.

    Bits repeat on the same device model, driver, torch, shapes and ensemble size; no more is promised.

    Raises:
        UserError: if the workspace of cuBLAS is set so that bits need not repeat.

    """
    # The same switch as torch.use_deterministic_algorithms(True), which also imports torch._inductor: four
    # seconds in every process, for a compiler that is not used here.
    before = torch.get_deterministic_debug_mode()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # a module property
    with stated_precision(compute):
        torch.set_deterministic_debug_mode("error")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a module property
        try:
            yield
            if torch.get_deterministic_debug_mode() != RAISES:
                raise _changed("torch.use_deterministic_algorithms")
        finally:
            torch.set_deterministic_debug_mode(before)
            torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]  # a module property


@contextmanager
def stated_precision(compute: Compute) -> Iterator[None]:
    """Say on a GPU what float32 is: IEEE's, or TF32 where params say so.

    Left alone, torch lets cuDNN's convolutions and recurrent layers round to TF32's ten bits.
    """
    if compute.device != "cuda":
        yield
        return
    check_workspace()
    wanted = "tf32" if compute.precision == "tf32" else "ieee"
    backends: dict[str, Any] = {
        "cuda.matmul": torch.backends.cuda.matmul,
        "cudnn.conv": torch.backends.cudnn.conv,  # type: ignore[attr-defined]  # made at run time
        "cudnn.rnn": torch.backends.cudnn.rnn,
    }
    before = {name: one.fp32_precision for name, one in backends.items()}
    benchmark = torch.backends.cudnn.benchmark
    for one in backends.values():
        one.fp32_precision = wanted
    torch.backends.cudnn.benchmark = False
    try:
        yield
        if torch.backends.cudnn.benchmark:
            raise _changed("torch.backends.cudnn.benchmark")
        for name, one in backends.items():
            if one.fp32_precision != wanted:
                raise _changed(f"the precision of torch.backends.{name}")
    finally:
        for name, one in backends.items():
            one.fp32_precision = before[name]
        torch.backends.cudnn.benchmark = benchmark


def _changed(switch: str) -> UserError:
    """Refuse what was computed while code of the user's own had set a switch otherwise, for a part of it."""
    return UserError(
        f"a model, loss or augmentation of your own switches {switch} while it is loaded, built or run, so "
        "that results need not repeat; allowed: to leave torch's switches as they are"
    )


def check_workspace() -> None:
    """Set the workspace of cuBLAS, or refuse one with which products need not repeat; torch looks no more.

    Raises:
        UserError: naming the variable.

    """
    found = os.environ.setdefault(SWITCH, WORKSPACE)
    if found not in WORKSPACES:
        raise UserError(
            f"{SWITCH} is {found!r}, with which cuBLAS need not repeat its results; allowed: "
            f"{', '.join(WORKSPACES)} (or unset: {WORKSPACE})"
        )


def precision(compute: Compute) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where params say so."""
    if compute.precision == "bf16":
        return torch.autocast(compute.device, torch.bfloat16)
    return nullcontext()


def recurrent_in_float32(model: nn.Module, compute: Compute) -> nn.Module:
    """Keep autocast from cuDNN's recurrent layers, which it runs in float16 whatever it is asked for."""
    if compute.precision == "bf16" and compute.device == "cuda":
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                module.forward = partial(_without_autocast, module.forward)
    return model


def _without_autocast(forward: Callable[..., Any], features: Tensor, *state: Any) -> Any:
    with torch.autocast("cuda", enabled=False):
        return forward(features.float(), *state)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads: bits differ between numbers of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
