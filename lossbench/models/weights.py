"""Weights from a local file: safetensors or a plain state dict, never unpickled code."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lossbench.errors import UserError


def load_weights(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read weights whose hash params state (so that a changed file is a changed experiment).

    Args:
        file: ``.safetensors``, or whatever ``torch.save`` wrote of a state dict.
        sha256: of the file, in hex.

    Raises:
        UserError: no such file, another hash, or no state dict.

    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"'model.weights' names {file}, which cannot be read: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.lower():
        raise UserError(f"'model.sha256' is {sha256}, but {file} has {found}")
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    except Exception as error:  # a file may hold anything, of which torch's reader raises whatever comes up
        raise UserError(
            f"'model.weights' names {file}, which holds no state dict: {_first_line(error)}"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UserError(f"'model.weights' names {file}, which holds no state dict: name → tensor")
    return state


def head_of(model: nn.Module) -> str:
    """Name of the last linear (or, in SqueezeNet and U-Nets, convolutional) layer; '' where there is none."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers: list[str] = [name for name, one in model.named_modules() if isinstance(one, kinds)]
    return layers[-1] if layers else ""


def put_weights(model: nn.Module, state: dict[str, Tensor], head: str, file: Path) -> None:
    """Load weights; the head keeps its own where the number of outputs differs.

    Raises:
        UserError: if any other weight is missing, unknown or of another shape.

    """
    own = model.state_dict()
    kept = dict(state)
    for name in (f"{head}.weight", f"{head}.bias"):
        if name in kept and kept[name].shape != own[name].shape:
            kept[name] = own[name]
    for name in sorted(set(own) ^ set(kept)):
        where = "lacks" if name in own else "has an unknown"
        raise UserError(f"'model.weights' names {file}, which {where} weight '{name}' of this architecture")
    for name, value in kept.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"'model.weights' names {file}, whose '{name}' is {tuple(value.shape)}; "
                f"this architecture has {tuple(own[name].shape)}"
            )
    model.load_state_dict(kept)


def _first_line(error: Exception) -> str:
    said = str(error).partition("\n")[0].partition("\x1b")[0]  # torch's words have colours
    return f"{type(error).__name__} {said}".rstrip()
