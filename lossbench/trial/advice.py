"""What a trial on a GPU tells beside refusals: where a step waits for the device, what stacking gains."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lossbench.recipe import Compute

SYNCHRONIZING = "called a synchronizing CUDA operation"
"""torch's words."""
BUSY = 100e9
"""Floating-point operations of a member's step from which on a population gained next to nothing on an H100:
ResNet-9 (146e9, 4 members) ran 0.86 times as fast as one after another, 1.09 times in bf16; ResNet-18 (427e9,
16 members) 0.92 times. From 0.5e9 to 4e9 it ran 1.4 to 1.8 times as fast with 4 members (docs/gpu.md)."""


def tell_of_waits(who: str, compute: Compute, step: Callable[[], Any]) -> None:
    """Take a step on the GPU, and say where it waits for the device, if it does.

    Args:
        who: how the sentence begins.
        compute: where it will be trained.
        step: forwards and backwards; it has run once before.

    """
    place = _waiting(step)
    if place is None:
        return
    graphs = "; 'compute.graphs' records no such step: its steps are trained as they come"
    print(
        f"warning: {who} waits for the GPU in every step ({place}), which idles meanwhile, as .item(), "
        "nonzero, an index of booleans, torch.where(condition) and tensors made of Python's numbers do"
        f"{graphs if compute.graphs else ''}",
        file=sys.stderr,
    )


def _waiting(step: Callable[[], Any]) -> str | None:
    """Name the first line that waits: one outside of torch, if there is any."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found = [one for one in said if SYNCHRONIZING in str(one.message)]
    if not found:
        return None
    torchs = Path(torch.__file__).parent
    own = [one for one in found if torchs not in Path(one.filename).parents]
    return f"{Path(own[0].filename).name}:{own[0].lineno}" if own else "in torch, on the way back"


def tell_of_stacking(who: str, batch: int, samples: int, step: Callable[[], Any]) -> None:
    """Take a step, and say if a GPU is busy with one member of a population already.

    Args:
        who: how the sentence begins.
        batch: samples of a batch.
        samples: of this step.
        step: forwards and backwards.

    """
    from torch.utils.flop_counter import FlopCounterMode  # nobody else needs it

    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops() / samples * batch
    if operations >= BUSY:
        print(
            f"warning: {who}: a step of one member takes {operations / 1e9:.0f} GFLOP, and a GPU is busy "
            f"with it: from {BUSY / 1e9:.0f} on 'compute.engine: population' was 0.9 to 1.1 times as fast as "
            "'loop' on an H100, and takes more memory",
            file=sys.stderr,
        )


def tell_of_equal_weights(who: str) -> None:
    """Say that the seed decides less than one would think.

    Args:
        who: how the sentence begins.

    """
    print(
        f"warning: {who} begins with the same weights whatever the seed, as a pretrained one does; "
        "replicates differ in batch order and augmentation alone, and so less than new trainings would",
        file=sys.stderr,
    )
