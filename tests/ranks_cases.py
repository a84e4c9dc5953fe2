"""Processes that train one replicate together, forked here: torch is imported once."""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from lossbench.recipe import Compute
from lossbench.training.distributed import Ranks, among
from lossbench.training.ranks import INTERFACE


@contextmanager
def together(work: Callable[[Ranks], Any], folder: Path, world: int = 2) -> Iterator[Callable[[], list[Any]]]:
    """Let several processes do the same; gives what collects their results, by rank."""
    context = multiprocessing.get_context("fork")
    children: list[tuple[Any, Connection]] = []
    for rank in range(world):
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_one, args=(work, folder, rank, world, there), daemon=True)
        child.start()
        there.close()
        children.append((child, here))
    try:
        yield lambda: [pickle.loads(pipe.recv_bytes()) for _, pipe in children]  # noqa: S301  # our own bytes
    finally:
        for child, pipe in children:
            child.join(20)
            child.kill()
            pipe.close()


def results(work: Callable[[Ranks], Any], folder: Path, world: int = 2) -> list[Any]:
    """Let several processes do the same, and say what each has found."""
    with together(work, folder, world) as collect:
        return collect()


def _one(work: Callable[[Ranks], Any], folder: Path, rank: int, world: int, pipe: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    torch.set_num_threads(1)
    with among(rank, Compute(processes=world), folder / "meeting") as group:
        pipe.send_bytes(pickle.dumps(work(group)))


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two states."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
