"""Samples that are not in memory: decoded when they are looked at, then kept on disk."""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from lossbench.system import processors

Array = npt.NDArray[Any]
T = TypeVar("T")
U = TypeVar("U")
BYTES_AT_ONCE = 2**20
"""Of the samples that are looked at together; larger ones are looked at one by one."""
SAMPLES_AT_ONCE = 64
BYTES_AHEAD = 2**28
"""Of the samples that were decoded and wait to be written, at most; one at least."""


class Rows(ABC):
    """Samples along a first axis, each read when it is wanted; selections are rows again.

    Attributes:
        index: (N,) which of the source's samples these are.
        each: shape of one.
        dtype: of one.

    """

    def __init__(self, index: Array, each: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.index, self.each, self.dtype = index, each, np.dtype(dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array has it."""
        return (len(self.index), *self.each)

    @property
    def ndim(self) -> int:
        """As an array has it."""
        return 1 + len(self.each)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, wanted: slice | Array) -> "Rows":
        return self._chosen(self.index[wanted])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Read all of them."""
        whole = np.empty(self.shape, self.dtype)
        for place, number in enumerate(self.index):
            whole[place] = self._read(int(number))
        return whole if dtype is None else whole.astype(dtype)

    @abstractmethod
    def _chosen(self, index: Array) -> "Rows":
        """These of the source's samples."""

    @abstractmethod
    def _read(self, number: int) -> Array:
        """One of the source's samples."""


class FromFiles(Rows):
    """Samples that a function decodes from the user's files.

    Args:
        read: number of a sample → the sample.
        index: which samples.
        each: shape of one.
        dtype: of one.
        label: of the progress bar.
        clipped: number of a sample → how many of its values were clipped, as ``read`` found; None where
            none can be.

    """

    def __init__(
        self,
        read: Callable[[int], Array],
        index: Array,
        each: tuple[int, ...],
        dtype: npt.DTypeLike,
        label: str,
        clipped: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(index, each, dtype)
        self._decode, self.label, self._clipped = read, label, clipped

    @classmethod
    def of(
        cls, function: Callable[[T], Array], files: Sequence[T], each: tuple[int, ...], dtype: Any, label: str
    ) -> "FromFiles":
        """Make one of files and what decodes one."""
        return cls(lambda number: function(files[number]), np.arange(len(files)), each, dtype, label)

    def _chosen(self, index: Array) -> "FromFiles":
        return FromFiles(self._decode, index, self.each, self.dtype, self.label, self._clipped)

    @property
    def clipped(self) -> Array | None:
        """(N,) values that were clipped, of samples that were read; None where none can be."""
        found = self._clipped
        return (
            None if found is None else np.array([found.get(one, 0) for one in self.index.tolist()], np.int64)
        )

    def _read(self, number: int) -> Array:
        return self._decode(number)


class Stored(Rows):
    """Samples in .npy files of our own.

    Args:
        files: the files; their headers are ``offset`` bytes long.
        places: (M, 2) number of its file, and row in it, of each of M samples.
        index: which of them.
        each: shape of one.
        dtype: of one.
        offset: see ``files``.

    """

    def __init__(
        self,
        files: Sequence[Path],
        places: Array,
        index: Array,
        each: tuple[int, ...],
        dtype: npt.DTypeLike,
        offset: int,
    ) -> None:
        super().__init__(index, each, dtype)
        self._files, self._places, self._offset = files, places, offset

    def _chosen(self, index: Array) -> "Stored":
        return Stored(self._files, self._places, index, self.each, self.dtype, self._offset)

    def _read(self, number: int) -> Array:
        # Not from a memory map, whose pages would count as this process's memory until it is closed.
        file, row = self._places[number]
        count = math.prod(self.each)
        start = self._offset + int(row) * count * self.dtype.itemsize
        return np.fromfile(self._files[file], self.dtype, count, offset=start).reshape(self.each)

    def save(self, out: Path) -> None:
        """Write them to one .npy file: one that holds just these is moved, others are copied one by one."""
        places = self._places[self.index]
        used = np.unique(places[:, 0])
        if len(used) == 1:
            file = self._files[used[0]]
            rows = int((self._places[:, 0] == used[0]).sum())
            if np.array_equal(places[:, 1], np.arange(rows)):
                file.replace(out)
                return
        with out.open("wb") as target:
            _write_header(target, len(places), self.each, self.dtype)
            for number in self.index:
                target.write(self._read(int(number)).data)


class Keeper:
    """Writes samples to .npy files, one a side, as they come: they are never in memory together."""

    def __init__(self, folder: Path, each: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        folder.mkdir(parents=True)
        self._folder, self._each, self._dtype = folder, each, np.dtype(dtype)
        self._sides: dict[str, int] = {}
        self._open: list[IO[bytes]] = []
        self._offset = 0
        self._counts: list[int] = []
        self._places: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open:
            file.close()

    def append(self, block: Array, sides: Sequence[str]) -> None:
        """Append samples (n, *each), each to the file of its side."""
        numbers = np.array([self._number(side) for side in sides])
        for number in np.unique(numbers):
            self._open[number].write(np.ascontiguousarray(block[numbers == number]).data)
        for number in numbers:
            self._places.append((int(number), self._counts[number]))
            self._counts[number] += 1

    def _number(self, side: str) -> int:
        if side not in self._sides:
            self._sides[side] = len(self._sides)
            self._open.append((self._folder / f"{side}.npy").open("wb"))
            self._counts.append(0)
            _write_header(self._open[-1], 0, self._each, self._dtype)
            self._offset = self._open[-1].tell()
        return self._sides[side]

    def stored(self) -> Stored:
        """Close the files and return what they hold, in the order in which it came."""
        for file, count in zip(self._open, self._counts, strict=True):
            file.seek(0)
            _write_header(file, count, self._each, self._dtype)
            file.close()
        files = [self._folder / f"{side}.npy" for side in self._sides]
        places = np.array(self._places, np.int64).reshape(-1, 2)
        index = np.arange(len(places))
        return Stored(files, places, index, self._each, self._dtype, self._offset)


def _write_header(file: IO[bytes], count: int, each: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
    """Write the header of an .npy file; NumPy pads it, so that its length does not depend on the count."""
    shape = (count, *each)
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def save(array: Array | Rows, out: Path) -> None:
    """Write an array, or rows, to an .npy file."""
    if isinstance(array, Stored) and len(array):
        array.save(out)
    else:
        np.save(out, np.ascontiguousarray(np.asarray(array)))


def blocks(array: Array | Rows) -> list[slice]:
    """Divide samples into some that are looked at together."""
    size = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = max(1, min(SAMPLES_AT_ONCE, BYTES_AT_ONCE // size))
    return [slice(start, min(start + step, len(array))) for start in range(0, len(array), step)]


def in_order(function: Callable[[U], T], items: Sequence[U], size: int = 0) -> Iterator[T]:
    """Map a function over items on as many threads as there are processors; results in the items' order.

    Few results wait at a time, so that a slow reader does not fill the memory.

    Args:
        function: best one that lets go of Python's lock.
        items: what it gets.
        size: bytes of a result, roughly.

    """
    ahead = max(1, min(2 * processors(), BYTES_AHEAD // max(1, size)))
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(min(processors(), ahead)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
