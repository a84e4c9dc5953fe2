"""The global generators, torch's, NumPy's and Python's: the user's own code must not seed them."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seeds(call: Callable[[], object]) -> str | None:
    """Name a global generator that a call seeds: whatever it had been seeded with, it is left the same.

    The generators are as before afterwards.
    """
    left = []
    with _kept():
        for seed in range(2):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002  # the one that the user's code may seed
            random.seed(seed)
            call()
            left.append(_states())
    return next((whose for whose, state in left[0].items() if state == left[1][whose]), None)


def _states() -> dict[str, object]:
    return {
        "torch's": torch.get_rng_state().numpy().tobytes(),
        "NumPy's": np.random.get_state(legacy=False)["state"]["key"].tobytes(),  # noqa: NPY002  # the one that the user's code may seed
        "Python's": random.getstate()[1],
    }


@contextmanager
def _kept() -> Iterator[None]:
    numpys, pythons = np.random.get_state(), random.getstate()  # noqa: NPY002  # the one that the user's code may seed
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpys)  # noqa: NPY002  # the one that the user's code may seed
        random.setstate(pythons)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed what draws from torch's generator, and leave that as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
