"""The registry: every loss by its name, and the parts of its docstring that its declaration already says."""

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

from lossbench.lookup import Lookup
from lossbench.losses.base import Loss
from lossbench.losses.names import MODULES

L = TypeVar("L", bound=Loss)

_LOSSES: Lookup[type[Loss]] = Lookup("lossbench.losses", MODULES)

#: Every registered loss by its name in params.yaml, imported when it is asked for.
REGISTRY: Mapping[str, type[Loss]] = _LOSSES


def register(name: str) -> Callable[[type[L]], type[L]]:
    """Enter a loss under ``name``; complete its docstring with "Shapes:" and "Parameters:"."""

    def enter(cls: type[L]) -> type[L]:
        cls.name = name
        cls.__doc__ = _completed(cls)
        _LOSSES.enter(name, cls, cls.__module__)
        return cls

    return enter


def _completed(cls: type[Loss]) -> str:
    text = inspect.cleandoc(cls.__doc__ or "")
    head, marker, tail = text.partition("\nUse it for:")
    sections = "\n".join(["Shapes:", *_shapes(cls), "", "Parameters:", *_parameters(cls), ""])
    return f"{head}\n{sections}{marker}{tail}"


def _shapes(cls: type[Loss]) -> list[str]:
    spatial = "" if cls.spatial == 0 else f", with at least {cls.spatial} spatial dimension"
    lines = [f"    logits: (N, C, *spatial){spatial}"]
    if cls.single:
        lines.append("    target: (N, *spatial), any integer dtype, 0..C−1")
    if cls.multi:
        lines.append("    target: (N, C, *spatial), bool, integer or float in [0, 1], one label a channel")
    if "exclusive" in cls.declared["labels"].allowed:
        lines.append(
            "    target with labels=exclusive: (N, C, *spatial) too, a distribution over the classes"
        )
    if cls.auxiliary:
        lines.append("    auxiliary: (N, C, *spatial), from prepare(target, classes)")
    lines.append("    weights: (N,) or (N, *spatial), how much a sample or a position counts; optional")
    return [*lines, "    value: a scalar, at least float32"]


def _parameters(cls: type[Loss]) -> list[str]:
    lines = []
    for name, parameter in cls.declared.items():
        tuned = ""
        if parameter.tunable is not None:
            low, high, scale = parameter.tunable
            tuned = f"; tuned in [{low:g}, {high:g}], {scale}"
        default = "none" if parameter.default is None else parameter.default
        lines.append(f"    {name}: {parameter.doc}. Default {default}; allowed: {parameter.allowed}{tuned}.")
    return lines
