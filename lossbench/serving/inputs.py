"""What may go into a model: values of the kind that was stored, in their range and shape, and nothing else.

Converted instead of refused, images divided by 255 become black ones, and a confident wrong answer.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import DatasetInfo
from lossbench.errors import UserError, brief

Array = npt.NDArray[Any]
Span = tuple[float, float]


def checked_inputs(given: Any, info: DatasetInfo, dtype: str, span: Span | None = None) -> Array:
    """Check inputs and give them as they are stored.

    Args:
        given: an array, or nested lists as JSON has them: (N, *input_shape).
        info: of the dataset that the model was trained on.
        dtype: of its stored inputs.
        span: least and greatest value of the stored inputs, where their type does not say it.

    Raises:
        UserError: naming what was found and what is expected.

    """
    low, high = span or bounds(info, dtype)
    expected = _expected(info, dtype, low, high)
    values = given if isinstance(given, np.ndarray) else _listed(given, expected)
    if values.dtype == object or not isinstance(given, np.ndarray):
        _check_kinds(values, dtype, expected)
    elif not _fits(values.dtype, np.dtype(dtype)):
        raise UserError(f"inputs of dtype {values.dtype} (values such as {_some(values)}); {expected}")
    if values.shape[1:] != info.input_shape or values.ndim != 1 + len(info.input_shape):
        raise UserError(f"inputs of shape {brief(values.shape)}; {expected}")
    if np.dtype(dtype).kind == "f":
        try:
            values = values.astype(np.float64)
        except OverflowError:
            raise UserError(f"inputs hold a number beyond {high:g}; {expected}") from None
    if values.size:
        least, most = values.min(), values.max()
        if not (low <= least and most <= high):  # NaN is in no range
            raise UserError(f"inputs from {_written(least)} to {_written(most)}; {expected}")
    return values.astype(dtype)


def bounds(info: DatasetInfo, dtype: str) -> tuple[float, float]:
    """Give the least and the greatest value that a stored input may have."""
    if info.kind == "tokens":
        return 0, len(info.classes) - 1
    kind = np.dtype(dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    return limits.min, limits.max


def _expected(info: DatasetInfo, dtype: str, low: float, high: float) -> str:
    sizes = ", ".join(str(size) for size in info.input_shape)
    whole = np.dtype(dtype).kind in "iu"
    if not whole and (low, high) == bounds(info, dtype):
        span = "finite numbers, as stored (not text)"
    elif not whole:
        span = f"numbers from {low:g} to {high:g}, as stored (not 0 to 255, not text)"
    else:
        span = f"whole numbers from {low:g} to {high:g}, as stored (not divided by 255, not text)"
    return f"this model takes (N, {sizes}) of {dtype}: {span}"


def _written(value: Any) -> str:
    """A number of a sentence's length, whatever JSON held."""
    return brief(value) if isinstance(value, int) else str(value)


def _listed(given: Any, expected: str) -> Array:
    """Make an array of nested lists that keeps each value as it is: no number becomes another kind's."""
    if not isinstance(given, list):
        raise UserError(f"inputs are {_kind(given)}; {expected}")
    try:
        return np.array(given, dtype=object)
    except ValueError:
        raise UserError(f"inputs whose rows differ in length; {expected}") from None


def _check_kinds(values: Array, dtype: str, expected: str) -> None:
    """Refuse values of another kind, by the first of them; booleans are numbers to Python, not to us."""
    allowed = {int} if np.dtype(dtype).kind in "iu" else {int, float}
    every = values.ravel()  # not .flat, which ends at 32 dimensions
    kinds = {type(one) for one in every}
    wrong = {one for one in kinds - allowed if not issubclass(one, np.integer)}
    if not wrong:
        return
    first = next(one for one in every if type(one) in wrong)
    if isinstance(first, list):
        raise UserError(f"inputs whose rows differ in length; {expected}")
    raise UserError(f"inputs hold {_kind(first)}; {expected}")


def _kind(value: Any) -> str:
    names = {
        bool: "a truth value",
        str: "text",
        float: "a fraction",
        type(None): "null",
        dict: "an object",
        int: "a number",
    }
    return f"{names.get(type(value), type(value).__name__)} ({brief(value)})"


def _fits(found: np.dtype[Any], stored: np.dtype[Any]) -> bool:
    return found.kind in "iu" or (stored.kind == "f" and found.kind == "f")


def _some(values: Array) -> str:
    return ", ".join(str(one) for one in values.ravel()[:3]) or "none"
