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
    return generator_of(derive(seed, *purpose), device)


def generator_of(derived: int, device: str = "cpu") -> torch.Generator:
    """Make a generator from a derived seed."""
    made = torch.Generator(device=device)
    made.manual_seed(derived)
    return made


def seed_all(seed: int, device: str) -> None:
    """Seed the generators that a model draws from by itself (dropout, stochastic depth)."""
    if device == "cuda":
        torch.cuda.manual_seed(seed)
    torch.default_generator.manual_seed(seed)
