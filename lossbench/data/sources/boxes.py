"""Images with boxes, whatever the format they were annotated in: checked, resized together, padded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lossbench.data.images import Header
from lossbench.data.samples import POOL, Array, Fetched
from lossbench.data.sources.listing import ClassNames
from lossbench.data.sources.reading import ImageOptions, Images
from lossbench.errors import UserError, nearest

SLACK = 1e-3
"""Pixels beyond the image that are not worth a word."""
ROUNDED = 0.5
"""Pixels that a box may reach beyond its image: what rounding does to corners and sizes."""
Names = Annotated[ClassNames, Field(min_length=1, max_length=1000)]


class BoxOptions(ImageOptions):
    """How annotated images are read: ``size`` stretches images and boxes alike.

    ``classes`` are the names allowed, in the order of their numbers; without it, those found in training.
    ``boxes``: what is done with those that reach beyond their image by more than rounding explains.
    """

    resize: Literal["stretch"] = "stretch"
    classes: Names | None = None
    boxes: Literal["clip", "refuse"] = "refuse"


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


def boxes_of(
    groups: Mapping[str, Sequence[Picture]],
    classes: Sequence[str],
    options: BoxOptions,
    root: Path,
    key: str,
    provenance: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
) -> Fetched:
    """Read all images and turn their boxes into targets (N, K, 5).

    Boxes without an area are left out, those beyond their image cut off at its edge: columns
    ``dropped_boxes`` and ``clipped_boxes`` of the manifest count them; ``repeated_boxes`` those that stand
    twice, which are kept.

    Args:
        groups: split → its images.
        classes: names, in the order of their numbers.
        options: size, channels, what is done with boxes beyond their image.
        root: what sample names are relative to.
        key: the dataset's path in params.yaml.
        provenance: of the source; what became of boxes is added.
        columns: split → further columns of the manifest.

    Raises:
        UserError: for a box outside its image or of an unknown class, sizes that disagree, a damaged image.

    """
    files = {split: [one.file for one in some] for split, some in groups.items()}
    images = Images.agree(files, options, root, key)
    size = images.reading.size
    kept = {
        split: _checked(some, images.headers[split], classes, size, options, key)
        for split, some in groups.items()
    }
    most = max(len(one.rows) for some in kept.values() for one in some)
    samples = {}
    for split, some in kept.items():
        own = {**_counts(some), **(columns or {}).get(split, {})}
        samples[split] = images.samples(split, _padded([one.rows for one in some], max(1, most)), own)
    counts = [_counts(some) for some in kept.values()]
    told = {
        name: sum(sum(one[f"{name}_boxes"]) for one in counts) for name in ("clipped", "dropped", "repeated")
    }
    extra = {**provenance, "boxes": {"beyond": options.boxes, **told}}
    return Fetched("boxes", tuple(classes), samples, extra, extra=images.reading.extra)


@dataclass(frozen=True)
class _Kept:
    """What became of one image's boxes."""

    rows: list[list[float]]
    clipped: int
    dropped: int
    repeated: int
    doubt: int


def _counts(kept: Sequence[_Kept]) -> dict[str, list[int]]:
    return {
        "clipped_boxes": [one.clipped for one in kept],
        "dropped_boxes": [one.dropped for one in kept],
        "repeated_boxes": [one.repeated for one in kept],
        "orientation_in_doubt": [one.doubt for one in kept],
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
    pictures: Sequence[Picture],
    headers: Sequence[Header],
    classes: Sequence[str],
    size: tuple[int, int],
    options: BoxOptions,
    key: str,
) -> list[_Kept]:
    """Boxes with an area, scaled to the stored size, as rows of (x0, y0, x1, y1, class)."""
    numbers = {name: number for number, name in enumerate(classes)}
    found = []
    for picture, header in zip(pictures, headers, strict=True):
        if picture.size is not None and picture.size != (header.width, header.height):
            (width, height), is_ = picture.size, f"{header.width}×{header.height}"
            raise UserError(
                f"{picture.where}: says that the image is {width}×{height} pixels; {picture.file} is {is_}"
                f"{_turned(picture.size, header, key)}"
            )
        found.append(_kept(picture, header, numbers, size, options, key))
    return found


def _turned(size: tuple[int, int], header: Header, key: str) -> str:
    """A hint where it is the tag that makes the sizes differ."""
    if header.orientation == 1 or size != (header.height, header.width):
        return ""
    return (
        f", turned as its EXIF tag asks (orientation {header.orientation}); if boxes were drawn on raw "
        f"pixels, say '{key}.orientation: ignore'"
    )


def _kept(
    picture: Picture,
    header: Header,
    numbers: Mapping[str, int],
    size: tuple[int, int],
    options: BoxOptions,
    key: str,
) -> _Kept:
    wide, high = size[1] / header.width, size[0] / header.height
    rows: list[list[float]] = []
    clipped = 0
    for box in picture.boxes:
        if box.label not in numbers:
            raise UserError(f"{box.where}: no class is named '{box.label}'; {nearest(box.label, numbers)}")
        x0, y0, x1, y1 = box.edges
        if not all(np.isfinite(box.edges)) or x1 < x0 or y1 < y0:
            raise UserError(f"{box.where}: {_edges(box)} is no box; expected xmin ≤ xmax and ymin ≤ ymax")
        beyond = max(-x0, -y0, x1 - header.width, y1 - header.height)
        if beyond > ROUNDED and options.boxes == "refuse":
            raise UserError(
                f"{box.where}: {_edges(box)} reaches beyond the image's {header.width}×{header.height} "
                f"pixels; mend it, or say '{key}.boxes: clip'"
            )
        clipped += beyond > SLACK
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, header.width), min(y1, header.height)
        if x1 > x0 and y1 > y0:
            rows.append([x0 * wide, y0 * high, x1 * wide, y1 * high, numbers[box.label]])
    repeated = len(rows) - len({tuple(row) for row in rows})
    return _Kept(rows, clipped, len(picture.boxes) - len(rows), repeated, _in_doubt(picture, header, options))


def _in_doubt(picture: Picture, header: Header, options: BoxOptions) -> int:
    """Whether an image is to be turned, and neither params nor the annotation's size say if boxes are."""
    told = picture.size is not None and header.orientation > 4 and header.width != header.height
    return int(header.orientation != 1 and options.orientation is None and not told)


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
