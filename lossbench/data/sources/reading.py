"""From many image files to rows of one shape: sizes and channels agreed on first, pixels read when needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import Field

from lossbench.data.images import Header, Resize, Size, read_header, read_image
from lossbench.data.rows import FromFiles, in_order
from lossbench.data.sources.base import Options
from lossbench.errors import UserError
from lossbench.progress import bar

Side = Annotated[int, Field(ge=1, le=8192)]
T = TypeVar("T")


class ImageOptions(Options):
    """How a user's images become arrays of one shape."""

    size: tuple[Side, Side] | None = None
    resize: Resize = "stretch"
    channels: Literal[1, 3] | None = None


def headers_of(files: Sequence[Path], label: str) -> list[Header]:
    """Read all headers; the first unreadable file is named."""
    return list(side_by_side(read_header, files, f"{label}: looking"))


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
    """Return 1 or 3.

    Raises:
        UserError: if grey and colour are mixed and params do not say which, naming two files.

    """
    if options.channels is not None:
        return options.channels
    for file, header in zip(files, headers, strict=True):
        if header.channels != headers[0].channels:
            words = {1: "grey", 3: "colour"}
            raise UserError(
                f"{file}: {words[header.channels]}, but {files[0]} is {words[headers[0].channels]}; "
                f"say '{key}.channels: 1' or 3"
            )
    return headers[0].channels


def read_images(files: Sequence[Path], channels: int, size: Size, resize: Resize, label: str) -> FromFiles:
    """Images as rows (N, channels, H, W) uint8, each decoded when it is looked at."""
    one = partial(read_image, channels=channels, size=size, resize=resize)
    return FromFiles.of(one, files, (channels, *size), np.uint8, f"{label}: reading")


def side_by_side(function: Callable[[Path], T], files: Iterable[Path], label: str) -> Iterator[T]:
    """Map a function over files on as many threads as processors, in order, with a progress bar."""
    files = list(files)
    with bar(len(files), label, delay=1) as progress:
        for result in in_order(function, files):
            progress.update()
            yield result


def original(headers: Sequence[Header]) -> dict[str, list[int]]:
    """Columns of the manifest: size and channels as found on disk."""
    return {
        "width": [one.width for one in headers],
        "height": [one.height for one in headers],
        "channels": [one.channels for one in headers],
    }


def relative_names(files: Sequence[Path], root: Path) -> list[str]:
    """Name files as they stand in the user's folder."""
    return [file.relative_to(root).as_posix() for file in files]
