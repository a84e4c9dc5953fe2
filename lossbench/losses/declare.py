"""Parameters of a loss, declared once: type, default, allowed range and the range worth tuning.

A loss states its parameters as class attributes, much as a dataclass states its fields::

    class Focal(TrueClass):
        gamma: float = real(default=2.0, low=0.0, tunable=(0.5, 5.0, "linear"), doc="focusing exponent")

The constructor, its signature, the check of every value, the docstring's "Parameters:" section and the
search space of the ``tune`` stage all come from this one line.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import torch

Scale = Literal["linear", "log"]
Tunable = tuple[float, float, Scale]


class ParameterError(ValueError):
    """A parameter of a loss is outside its range: names the parameter, the value and what is allowed."""

    def __init__(self, owner: str, name: str, value: object, allowed: str) -> None:
        super().__init__(owner, name, value, allowed)
        self.owner, self.name, self.value, self.allowed = owner, name, value, allowed

    def __str__(self) -> str:
        return f"{self.owner}: {self.name} is {self.value!r}; allowed: {self.allowed}"


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    ``accept`` returns the value as it is kept, or raises ValueError or TypeError.
    """

    default: Any
    allowed: str
    accept: Callable[[Any], Any]
    doc: str
    tunable: Tunable | None = None

    def read(self, owner: str, name: str, value: object) -> Any:
        """Return ``value`` as it is kept, or raise a ParameterError that names ``owner`` and ``name``."""
        try:
            return self.accept(value)
        except (ValueError, TypeError) as error:
            raise ParameterError(owner, name, value, self.allowed) from error


def _number(value: object) -> float:
    """Return ``value`` as a finite float; a bool is no number here."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _bounds(low: float | None, high: float | None, open_low: bool, open_high: bool) -> str:
    if low is None and high is None:
        return "any finite number"
    if high is None:
        return f"a finite number {'>' if open_low else '≥'} {low:g}"
    if low is None:
        return f"a finite number {'<' if open_high else '≤'} {high:g}"
    return f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"


def real(
    *,
    default: float | None,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
    tunable: Tunable | None = None,
    doc: str,
) -> Any:
    """Declare a number between ``low`` and ``high`` (inclusive, unless open on that side)."""

    def accept(value: object) -> float | None:
        if value is None and optional:
            return None
        number = _number(value)
        if low is not None and (number < low or (open_low and number == low)):
            raise ValueError(value)
        if high is not None and (number > high or (open_high and number == high)):
            raise ValueError(value)
        return number

    allowed = _bounds(low, high, open_low, open_high) + (", or none" if optional else "")
    return Parameter(default, allowed, accept, doc, tunable)


def integer(
    *,
    default: int | None,
    low: int | None = None,
    high: int | None = None,
    optional: bool = False,
    doc: str,
) -> Any:
    """Declare a whole number between ``low`` and ``high``, inclusive."""

    def accept(value: object) -> int | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(value)
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(value)
        return int(value)

    bound = (
        "a whole number" + ("" if low is None else f" ≥ {low}") + ("" if high is None else f" and ≤ {high}")
    )
    return Parameter(default, bound + (", or none" if optional else ""), accept, doc)


def choice(*, default: str | None, options: Sequence[str], optional: bool = False, doc: str) -> Any:
    """Declare one of several words."""

    def accept(value: object) -> str | None:
        if value is None and optional:
            return None
        if not isinstance(value, str) or value not in options:
            raise ValueError(value)
        return str(value)

    return Parameter(default, ", ".join(options) + (", or none" if optional else ""), accept, doc)


def flag(*, default: bool, doc: str) -> Any:
    """Declare a yes or no."""

    def accept(value: object) -> bool:
        if not isinstance(value, bool):
            raise TypeError(value)
        return value

    return Parameter(default, "true, false", accept, doc)


def numbers(*, default: Sequence[float] | None, positive_sum: bool = True, low: float = 0.0, doc: str) -> Any:
    """Declare a list with one number per class, none below ``low``; a tensor is taken too, kept as a tuple.

    ``default`` is always written out: what checks types would take a parameter without one for required.
    """

    def accept(value: object) -> tuple[float, ...] | None:
        if value is None:
            return None
        if isinstance(value, torch.Tensor):
            value = value.tolist()
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise TypeError(value)
        read = tuple(_number(number) for number in value)
        if min(read) < low or (positive_sum and sum(read) <= 0):
            raise ValueError(value)
        return read

    some = ", not all zero" if positive_sum else ""
    return Parameter(
        default, f"a list with one finite number ≥ {low:g} per class{some}, or none", accept, doc
    )
