"""Dropout whose masks come from outside: members of a population each have their own generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossbench.training.seeds import generator_of

KINDS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class Site:
    """One dropout of a model: its name, its probability, the shape of its mask for one batch."""

    name: str
    p: float
    shape: tuple[int, ...]


class Masked(nn.Module):
    """Multiplies by a mask that it is given as a buffer."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(()), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Apply the mask in training; pass everything on in evaluation."""
        return features * self.mask if self.training else features


def find_sites(model: nn.Module, inputs: Tensor) -> list[Site]:
    """Find a model's dropouts, in the order in which they run, with the shapes of their masks.

    Raises:
        RuntimeError: if one runs twice in a pass.

    """
    sites: list[Site] = []

    def note(name: str, module: nn.Module, given: Tensor) -> None:
        if any(site.name == name for site in sites):
            raise RuntimeError(f"dropout '{name}' runs twice in a pass")
        whole = isinstance(module, nn.Dropout)
        shape = given.shape if whole else (*given.shape[:2], *[1] * (given.ndim - 2))
        sites.append(Site(name, float(module.p), tuple(shape)))  # type: ignore[arg-type]  # a dropout's p

    hooks = [
        module.register_forward_pre_hook(lambda module, given, name=name: note(name, module, given[0]))
        for name, module in model.named_modules()
        if isinstance(module, KINDS) and module.p > 0
    ]
    was = model.training
    with torch.no_grad():
        model.eval()(inputs)
    model.train(was)
    for hook in hooks:
        hook.remove()
    return sites


def take_masks(model: nn.Module, sites: Sequence[Site]) -> None:
    """Replace a model's dropouts by multiplications with masks."""
    for site in sites:
        parent, _, name = site.name.rpartition(".")
        setattr(model.get_submodule(parent), name, Masked())


def draw_masks(sites: Sequence[Site], seed: int, device: str) -> list[Tensor]:
    """Draw one member's masks of a step, as torch's dropout would with this seed (on the CPU to the bit)."""
    if not sites:  # nobody asks for a generator
        return []
    random = generator_of(seed, device)
    masks = []
    for site in sites:
        kept = 1 - site.p
        masks.append(torch.empty(site.shape, device=device).bernoulli_(kept, generator=random).div_(kept))
    return masks
