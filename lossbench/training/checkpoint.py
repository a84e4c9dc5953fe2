"""What an interrupted training leaves behind, so that it goes on where it was, to the same bits."""

import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import torch

SECONDS_BETWEEN = 2.0
SHARE = 0.01
"""Of training time that checkpoints may take: a slow disk or a big model gets fewer of them."""


class Checkpoint:
    """A file that holds the state after some step, whole, or does not exist."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._next = time.monotonic() + SECONDS_BETWEEN

    @property
    def due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() >= self._next

    def save(self, content: dict[str, Any]) -> None:
        """Write atomically.

        Args:
            content: tensors, numbers, strings and containers of them.

        """
        began = time.monotonic()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(f".{os.getpid()}.part")
        torch.save(content, part)
        part.replace(self.file)
        took = time.monotonic() - began
        self._next = time.monotonic() + max(SECONDS_BETWEEN, took / SHARE)

    def load(self) -> dict[str, Any] | None:
        """Read it; None where there is none, or where a crash of the machine left half a file."""
        if not self.file.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(self.file, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            print(f"warning: {self.file.name} cannot be read ({error}); starting anew", file=sys.stderr)
            return None
        return content

    def remove(self) -> None:
        """Forget it: the replicate is finished."""
        self.file.unlink(missing_ok=True)
        for part in self.file.parent.glob(f"{self.file.stem}.*.part"):  # of a killed writer
            part.unlink(missing_ok=True)
