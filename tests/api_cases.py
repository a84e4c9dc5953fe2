"""Networks as people have them. They import little: what a network's module imports is part of a key, and read."""

from typing import Any

import torch
from torch import nn


class Plain(nn.Module):
    """A network as people have them: it knows its own sizes."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class Wide(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = nn.Linear(192, 4)


class Pair(Plain):
    def forward(self, images: torch.Tensor) -> Any:
        return self.layers(images), images


class Mean(Plain):
    def __init__(self) -> None:
        super().__init__(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).mean(0, keepdim=True)


class Decided(Mean):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).detach()


class Formless(nn.Module):
    """Somebody forgot its forward."""
