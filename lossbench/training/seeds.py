"""One seed, many independent streams."""

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Derive the seed of one purpose ("order", epoch 3): independent of every other, and of the loss.

    Because each epoch has streams of its own, a run resumed at an epoch needs no generator's state.
    """
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: str = "cpu") -> torch.Generator:
    """Make the generator of one purpose."""
    made = torch.Generator(device=device)
    made.manual_seed(derive(seed, *purpose))
    return made
