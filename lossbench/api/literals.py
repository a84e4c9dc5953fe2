"""Values written as Python: constants that a function of a notebook uses."""

import math
from typing import Any

import numpy as np

MOST = 10_000
"""Numbers of a tensor or array that is written out."""


class NoLiteralError(Exception):
    """A value that cannot be written; the message says what it is."""


def literal(value: Any) -> tuple[str, tuple[str, ...]]:
    """Write a value as an expression: (text, modules that it needs).

    Raises:
        NoLiteralError: for any other object.

    """
    kind = type(value)
    if value is None or value is Ellipsis or kind in (bool, int, str, bytes):
        return repr(value), ()
    if kind is float:
        return (repr(value) if math.isfinite(value) else f"float({str(value)!r})"), ()
    if kind in (tuple, list, set, frozenset):
        parts = [literal(one) for one in (sorted(value, key=repr) if kind in (set, frozenset) else value)]
        return f"{kind.__name__}([{', '.join(text for text, _ in parts)}])", _modules(parts)
    if kind is dict:
        pairs = [(literal(key), literal(one)) for key, one in value.items()]
        parts = [one for pair in pairs for one in pair]
        return "{" + ", ".join(f"{key[0]}: {one[0]}" for key, one in pairs) + "}", _modules(parts)
    if kind.__module__.partition(".")[0] == "torch":
        return _torch(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.size <= MOST:
        return f"numpy.array({_listed(value.tolist())}, {str(value.dtype)!r})", ("numpy",)
    raise NoLiteralError(_told(value))


def _modules(parts: list[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(module for _, modules in parts for module in modules))


def _torch(value: Any) -> tuple[str, tuple[str, ...]]:
    import torch

    if isinstance(value, torch.dtype):
        return str(value), ("torch",)
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})", ("torch",)
    if (
        type(value) is torch.Tensor
        and not value.requires_grad
        and value.numel() <= MOST
        and not value.is_complex()
    ):
        numbers = _listed(value.detach().cpu().tolist())
        return f"torch.tensor({numbers}, dtype={value.dtype})", ("torch",)
    raise NoLiteralError(_told(value))


def _listed(numbers: Any) -> str:
    if isinstance(numbers, list):
        return f"[{', '.join(map(_listed, numbers))}]"
    return literal(numbers)[0]


def _told(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (
        f" of shape {tuple(shape)}" if shape is not None and len(shape) else ""
    )
