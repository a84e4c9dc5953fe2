"""Results as JSON and bytes: plain numbers, and arrays in NumPy's own format."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def plain(value: Any) -> Any:
    """Turn NumPy's numbers, and arrays, into Python's; JSON writes these to the last bit."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def array_bytes(array: npt.NDArray[Any]) -> bytes:
    """Write an array as ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def read_array(written: bytes) -> npt.NDArray[Any]:
    """Read an ``.npy``."""
    array: npt.NDArray[Any] = np.load(io.BytesIO(written), allow_pickle=False)
    return array
