"""The IDX format of MNIST: a magic number, big-endian sizes, then unsigned bytes."""

import math

import numpy as np

from lossbench.data.samples import Array
from lossbench.errors import UserError

UNSIGNED_BYTE = 8


def read_idx(content: bytes, dimensions: int, name: str) -> Array:
    """Read unsigned bytes of a given number of dimensions; nothing may be missing or left over.

    Args:
        content: the decompressed file.
        dimensions: 1 for labels, 3 for images.
        name: of the file, for the message.

    Raises:
        UserError: naming the file, what was found and what is expected.

    """
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise UserError(f"{name}: not an IDX file of {dimensions} dimensions of bytes: it begins with "
                        f"{content[:4].hex() or 'nothing'}, expected {magic.hex()}")  # fmt: skip
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise UserError(f"{name}: the IDX header ends after {len(content)} of {start} bytes")
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, 4)]
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{name}: an IDX file of shape {shape} has {expected} bytes; this one has {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
