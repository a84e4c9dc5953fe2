"""What an interrupted training leaves behind, so that it goes on where it was, to the same bits."""

import hashlib
import io
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lossbench.identity import abandoned, part_name

SECONDS_BETWEEN = 2.0
SHARE = 0.01
"""Of training time that checkpoints may take: a slow disk or a big model gets fewer of them."""
DIGEST = hashlib.sha256().digest_size


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
        part = self.file.with_name(part_name(self.file.name))
        buffer = io.BytesIO()
        torch.save(content, buffer)
        written = buffer.getvalue()
        part.write_bytes(hashlib.sha256(written).digest() + written)
        with suppress(FileNotFoundError):  # who trains the same beside us has finished it
            part.replace(self.file)
        took = time.monotonic() - began
        self._next = time.monotonic() + max(SECONDS_BETWEEN, took / SHARE)

    def load(self) -> dict[str, Any] | None:
        """Read it; None where there is none, or where a crash of the machine left half a file."""
        try:
            written = self.file.read_bytes()
        except FileNotFoundError:
            return None
        digest, written = written[:DIGEST], written[DIGEST:]
        if hashlib.sha256(written).digest() != digest:
            print(f"warning: checkpoint {self.file.name} is torn; starting anew", file=sys.stderr)
            return None
        content: dict[str, Any] = torch.load(io.BytesIO(written), weights_only=True)
        return content

    def remove(self) -> None:
        """Forget it: the replicate is finished."""
        self.file.unlink(missing_ok=True)
        for part in self.file.parent.glob(f"{self.file.name}.*.part"):
            if abandoned(part):  # of a killed writer
                part.unlink(missing_ok=True)
