"""From many image files to rows of one shape: sizes and channels agreed on first, pixels read when needed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from lossbench.data.images import (
    Header,
    Orientation,
    Range,
    Resize,
    Size,
    no_range,
    read_header,
    read_image,
)
from lossbench.data.rows import FromFiles, in_order
from lossbench.data.samples import Array, Samples
from lossbench.data.sources.base import Options
from lossbench.errors import UserError
from lossbench.progress import bar

Side = Annotated[int, Field(ge=1, le=8192)]
T = TypeVar("T")


def _ordered(span: Range) -> Range:
    if not span[0] < span[1]:
        raise ValueError(f"the lowest value ({span[0]:g}) must lie below the highest ({span[1]:g})")
    return span


Edge = Annotated[float, Field(allow_inf_nan=False)]


class ImageOptions(Options):
    """How a user's images become arrays of one shape and depth.

    ``channels`` are bands; alpha is one only where it is counted. ``range``: the values that become black and
    white; 16-bit images need none, floating-point ones do. ``orientation``: whether an image, and its mask,
    is turned as its EXIF tag asks.
    """

    size: tuple[Side, Side] | None = None
    resize: Resize = "stretch"
    channels: Annotated[int, Field(ge=1, le=1024)] | None = None
    range: Annotated[tuple[Edge, Edge], AfterValidator(_ordered)] | None = None
    orientation: Orientation | None = None

    @property
    def way_up(self) -> Orientation:
        """What is done with tags: applied, unless params say otherwise."""
        return self.orientation or "apply"


@dataclass(frozen=True)
class Reading:
    """How all images of a dataset are read: what params say, and what the files agree on."""

    channels: int
    size: Size
    resize: Resize
    dtype: str
    orientation: Orientation
    range: Range | None

    def read(self, file: Path, clipped: Callable[[int], None] = lambda _: None) -> Array:
        """Read an image as (channels, H, W); ``clipped`` is told how many values the range cut off."""
        return read_image(
            file,
            self.channels,
            self.size,
            self.resize,
            dtype=self.dtype,
            orientation=self.orientation,
            span=self.range,
            clipped=clipped,
        )

    @property
    def extra(self) -> dict[str, Any]:
        """What ``dataset.json`` must say of it, for files answered later: nothing where all is usual."""
        usual = {"dtype": "uint8", "orientation": "apply", "range": None}
        found = {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}
        return {"reading": found} if found else {}


def agree(files: Sequence[Path], headers: Sequence[Header], options: ImageOptions, key: str) -> Reading:
    """Find one shape and depth for all images.

    Raises:
        UserError: if they differ and params do not say what to do, naming two files.

    """
    return Reading(
        agreed_channels(files, headers, options, key),
        agreed_size(files, headers, options, key),
        options.resize,
        agreed_depth(files, headers, options, key),
        options.way_up,
        options.range,
    )


def headers_of(files: Sequence[Path], label: str, options: ImageOptions) -> list[Header]:
    """Read all headers; the first unreadable file is named."""
    return list(side_by_side(lambda file: read_header(file, options.way_up), files, f"{label}: looking"))


def agreed_size(files: Sequence[Path], headers: Sequence[Header], options: ImageOptions, key: str) -> Size:
    """Return the (H, W) that all images get.

    Raises:
        UserError: if they differ and params do not say what to do, naming two files.

    """
    if options.size is not None:
        return options.size
    first = headers[0]
    for file, header in zip(files, headers, strict=True):
        if (header.width, header.height) != (first.width, first.height):
            raise UserError(
                f"{file}: {header.width}×{header.height} pixels, but {files[0]} has "
                f"{first.width}×{first.height}; say '{key}.size: [height, width]' "
                f"(and '{key}.resize': stretch, pad or crop)"
            )
    return first.height, first.width


def agreed_channels(files: Sequence[Path], headers: Sequence[Header], options: ImageOptions, key: str) -> int:
    """Return how many bands all images get.

    Raises:
        UserError: if grey, colour and more bands are mixed and params do not say which, naming two files.

    """
    if options.channels is not None:
        return options.channels
    for file, header in zip(files, headers, strict=True):
        if header.channels != headers[0].channels:
            raise UserError(
                f"{file}: {_kind(header)}, but {files[0]} is {_kind(headers[0])}; "
                f"say '{key}.channels: 1' or 3"
            )
    return headers[0].channels


def _kind(header: Header) -> str:
    return {1: "grey", 3: "colour"}.get(header.channels, f"of {header.channels} bands")


def agreed_depth(files: Sequence[Path], headers: Sequence[Header], options: ImageOptions, key: str) -> str:
    """Return the type all images are stored in: uint8, uint16 where one has 16 bits, float32 in 0..1 else.

    Raises:
        UserError: if values have no fixed range and params declare none, or a range is to hold for two types.

    """
    if options.range is None:
        for file, header in zip(files, headers, strict=True):
            if header.dtype not in ("uint8", "uint16"):
                raise UserError(no_range(file, header.dtype, key))
        return max((header.dtype for header in headers), key=lambda dtype: dtype == "uint16")
    first = headers[0].dtype
    for file, header in zip(files, headers, strict=True):
        if header.dtype != first:
            raise UserError(
                f"{file}: {header.dtype} pixels, but {files[0]} has {first}; '{key}.range' holds for one type"
            )
    return first if first in ("uint8", "uint16") else "float32"


def read_images(files: Sequence[Path], reading: Reading, label: str) -> FromFiles:
    """Images as rows (N, channels, H, W), each decoded when it is looked at."""
    each, clipped = (reading.channels, *reading.size), dict[int, int]()

    def read(number: int) -> Array:
        return reading.read(files[number], partial(clipped.__setitem__, number))

    told = None if reading.range is None else clipped
    return FromFiles(read, np.arange(len(files)), each, reading.dtype, f"{label}: reading", told)


def side_by_side(function: Callable[[Path], T], files: Iterable[Path], label: str) -> Iterator[T]:
    """Map a function over files on as many threads as processors, in order, with a progress bar."""
    files = list(files)
    with bar(len(files), label, delay=1) as progress:
        for result in in_order(function, files):
            progress.update()
            yield result


def original(headers: Sequence[Header]) -> dict[str, list[int]]:
    """Columns of the manifest: size, channels and EXIF orientation as found on disk."""
    return {
        "width": [one.width for one in headers],
        "height": [one.height for one in headers],
        "channels": [one.channels for one in headers],
        "orientation": [one.orientation for one in headers],
    }


def relative_names(files: Sequence[Path], root: Path) -> list[str]:
    """Name files as they stand in the user's folder."""
    return [file.relative_to(root).as_posix() for file in files]


@dataclass(frozen=True)
class Images:
    """All images of a dataset, of one shape, and what they were like on disk."""

    root: Path
    files: Mapping[str, Sequence[Path]]
    rows: Mapping[str, FromFiles]
    headers: Mapping[str, Sequence[Header]]
    reading: Reading

    @classmethod
    def agree(
        cls, files: Mapping[str, Sequence[Path]], options: ImageOptions, root: Path, key: str
    ) -> "Images":
        """Read all headers, agree on one shape and depth, and make every image readable in them.

        Args:
            files: split → its images, in order.
            options: what params say of reading them.
            root: folder that names in the manifest are relative to.
            key: the dataset's path in params.yaml, for messages.

        Raises:
            UserError: naming an image that cannot be read, or that differs and params do not say what to do.

        """
        headers = {split: headers_of(some, split, options) for split, some in files.items()}
        every = [one for some in files.values() for one in some]
        reading = agree(every, [one for some in headers.values() for one in some], options, key)
        rows = {split: read_images(some, reading, split) for split, some in files.items()}
        return cls(root, files, rows, headers, reading)

    def samples(
        self, split: str, targets: Array | FromFiles, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Samples:
        """Make a split's samples: its images (N, channels, H, W), their targets, columns of the manifest.

        Args:
            split: key of ``files``.
            targets: (N, …), in the images' order.
            columns: further columns of the manifest, one value per image.

        """
        names = relative_names(self.files[split], self.root)
        own = original(self.headers[split])
        return Samples(self.rows[split], targets, names, {**own, **(columns or {})})
