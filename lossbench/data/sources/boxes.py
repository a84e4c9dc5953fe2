"""Images with boxes, whatever the format they were annotated in: checked, resized together, padded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from lossbench.data.images import Header
from lossbench.data.samples import POOL, Array, Samples
from lossbench.data.sources.reading import (
    ImageOptions,
    agreed_channels,
    agreed_size,
    headers_of,
    original,
    read_images,
    relative_names,
)
from lossbench.errors import UserError, nearest

SLACK = 1e-3
"""Pixels that a box may reach beyond its image: what is lost when numbers are written with few digits."""
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=1000)]


class BoxOptions(ImageOptions):
    """How annotated images are read: ``size`` stretches images and boxes alike.

    ``classes`` are the names allowed, in the order of their numbers; without it, those found in training.
    """

    resize: Literal["stretch"] = "stretch"
    classes: Names | None = None


@dataclass(frozen=True)
class Box:
    """One annotated object.

    Attributes:
        label: its class's name.
        edges: x0, y0, x1, y1 in pixels of the image on disk.
        where: what to call it in a message, as "FILE: object 3".

    """

    label: str
    edges: tuple[float, float, float, float]
    where: str


@dataclass(frozen=True)
class Picture:
    """One image and its objects.

    Attributes:
        file: the image.
        boxes: its objects.
        size: (width, height) as the annotation has it; None where it does not say.
        where: what to call the annotation in a message.

    """

    file: Path
    boxes: Sequence[Box]
    size: tuple[int, int] | None
    where: str


def samples_of(
    groups: Mapping[str, Sequence[Picture]], classes: Sequence[str], options: BoxOptions, root: Path, key: str
) -> dict[str, Samples]:
    """Read all images and turn their boxes into targets (N, K, 5).

    Boxes without an area are left out; the manifest's column ``dropped_boxes`` counts them.

    Args:
        groups: split → its images.
        classes: names, in the order of their numbers.
        options: size and channels.
        root: what sample names are relative to.
        key: the dataset's path in params.yaml.

    Raises:
        UserError: for a box outside its image or of an unknown class, sizes that disagree, a damaged image.

    """
    files = {split: [one.file for one in some] for split, some in groups.items()}
    headers = {split: headers_of(some, split) for split, some in files.items()}
    every = [one for some in files.values() for one in some]
    facts = [one for some in headers.values() for one in some]
    size = agreed_size(every, facts, options, key)
    channels = agreed_channels(every, facts, options, key)
    rows = {split: _checked(some, headers[split], classes, size) for split, some in groups.items()}
    most = max(len(one) for some in rows.values() for one in some)
    return {
        split: Samples(
            read_images(files[split], channels, size, options.resize, split),
            _padded(rows[split], max(1, most)),
            relative_names(files[split], root),
            {
                **original(headers[split]),
                "dropped_boxes": [
                    len(one.boxes) - len(kept) for one, kept in zip(some, rows[split], strict=True)
                ],
            },
        )
        for split, some in groups.items()
    }


def found_classes(groups: Mapping[str, Sequence[Picture]], key: str) -> tuple[str, ...]:
    """Names of the training boxes' classes, sorted.

    Raises:
        UserError: if there is no box.

    """
    training = groups["train"] if "train" in groups else groups[POOL]
    classes = sorted({box.label for one in training for box in one.boxes})
    if not classes:
        raise UserError(f"'{key}': no box in {len(training)} training images; nothing can be learned")
    return tuple(classes)


def _checked(
    pictures: Sequence[Picture], headers: Sequence[Header], classes: Sequence[str], size: tuple[int, int]
) -> list[list[list[float]]]:
    """Boxes with an area, scaled to the stored size, as rows of (x0, y0, x1, y1, class)."""
    numbers = {name: number for number, name in enumerate(classes)}
    found = []
    for picture, header in zip(pictures, headers, strict=True):
        if picture.size is not None and picture.size != (header.width, header.height):
            (width, height), is_ = picture.size, f"{header.width}×{header.height}"
            raise UserError(
                f"{picture.where}: says that the image is {width}×{height} pixels; {picture.file} is {is_}"
            )
        found.append(list(_rows(picture, header, numbers, size)))
    return found


def _rows(
    picture: Picture, header: Header, numbers: Mapping[str, int], size: tuple[int, int]
) -> Iterator[list[float]]:
    wide, high = size[1] / header.width, size[0] / header.height
    for box in picture.boxes:
        if box.label not in numbers:
            raise UserError(f"{box.where}: no class is named '{box.label}'; {nearest(box.label, numbers)}")
        x0, y0, x1, y1 = box.edges
        if not all(np.isfinite(box.edges)) or x1 < x0 or y1 < y0:
            raise UserError(f"{box.where}: {_edges(box)} is no box; expected xmin ≤ xmax and ymin ≤ ymax")
        if min(x0, y0) < -SLACK or x1 > header.width + SLACK or y1 > header.height + SLACK:
            raise UserError(
                f"{box.where}: {_edges(box)} reaches beyond the image's {header.width}×{header.height} pixels"
            )
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, header.width), min(y1, header.height)
        if x1 > x0 and y1 > y0:
            yield [x0 * wide, y0 * high, x1 * wide, y1 * high, numbers[box.label]]


def _edges(box: Box) -> str:
    x0, y0, x1, y1 = box.edges
    return f"the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"


def _padded(rows: Sequence[Sequence[Sequence[float]]], most: int) -> Array:
    targets = np.zeros((len(rows), most, 5), np.float32)
    targets[..., 4] = -1
    for index, boxes in enumerate(rows):
        if boxes:
            targets[index, : len(boxes)] = boxes
    return targets
