"""A look at a user's images and masks before a study of them is called ready: sizes, depth, turns, values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lossbench.data.decoding import decode
from lossbench.data.images import Coloured, Header, read_mask
from lossbench.data.samples import Array
from lossbench.data.sources.boxes import ROUNDED
from lossbench.data.sources.palettes import coloured
from lossbench.data.sources.reading import ImageOptions, headers_of, side_by_side
from lossbench.errors import UserError
from lossbench.recognition import Found

LARGEST = {"detection": 320}
"""Longest side proposed, by task; 128 elsewhere."""
SAMPLED = 300
"""Files that are decoded, evenly spaced; headers are read of all."""
MOST_CLASSES = 64
"""Values of masks beyond which they are no class numbers."""
VOID = 255
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
EDGES, NEAR_WHITE = 0.05, 240
"""Share of pixels at edges, at most; values that only compression makes of 255."""
FEW = (0.25, 0.5)
"""A share of the range, and of images: fewer bits than stored where most images stay below."""


@dataclass(frozen=True)
class Look:
    """What is proposed for a folder's images.

    Attributes:
        size: (height, width).
        options: of the source.
        halvings: a U-Net's depth that fits the size.
        stride: a detector's, that fits size and boxes.
        pixels: of all images on disk.
        said: sentences for the user.

    """

    size: tuple[int, int]
    options: dict[str, Any]
    halvings: int
    stride: int
    pixels: int
    said: tuple[str, ...]


def look(found: Found) -> Look:
    """Look at all headers, and into some files.

    Raises:
        UserError: naming the first file that is no image, or masks that do not say what their classes are.

    """
    files = [file for some in found.images.values() for file in some]
    headers = headers_of(files, "images", ImageOptions())
    options: dict[str, Any] = {}
    said = [_counted(found, headers)]
    if found.masks:
        turned = _masks_turned(found, headers, said)
        options |= turned
        if turned:
            headers = headers_of(files, "images", ImageOptions.model_validate(turned))
        _refuse_other_sizes(found, headers, ImageOptions.model_validate(turned))
        _inverted(found, said)
    elif tagged := sum(one.orientation != 1 for one in headers):
        said.append(f"{tagged} images are tagged to be turned (EXIF orientation), and will be")
    options |= _beyond(found, headers, said)
    size, halvings = _size(found.task, headers, said)
    options |= {"size": list(size), "channels": _channels(files, headers, said)}
    options |= _range(files, headers, said)
    if found.masks:
        options |= _classes(found, str(options.get("orientation", "apply")), said)
    sides = [min(x1 - x0, y1 - y0) for some in found.boxes for x0, y0, x1, y1 in some]
    scale = min(
        size[0] / median(one.height for one in headers), size[1] / median(one.width for one in headers)
    )
    pixels = sum(one.width * one.height for one in headers)
    return Look(size, options, halvings, _stride(size, sides, scale), pixels, tuple(said))


def _beyond(found: Found, headers: Sequence[Header], said: list[str]) -> dict[str, Any]:
    """Propose to cut boxes off where some reach beyond their image by more than rounding explains."""
    count = sum(
        any(
            min(x0, y0) < -ROUNDED or x1 > one.width + ROUNDED or y1 > one.height + ROUNDED
            for x0, y0, x1, y1 in some
        )
        for some, one in zip(found.boxes, headers, strict=bool(found.boxes))
    )
    if not count:
        return {}
    said.append(f"boxes of {count} images reach beyond the edge, and are cut off there (boxes: clip)")
    return {"boxes": "clip"}


def _counted(found: Found, headers: Sequence[Header]) -> str:
    sizes = Counter((one.width, one.height) for one in headers)
    least, most = min(sizes, key=lambda one: one[0] * one[1]), max(sizes, key=lambda one: one[0] * one[1])
    spread = f"all {_by(most)}" if len(sizes) == 1 else f"from {_by(least)} to {_by(most)}"
    split = ", ".join(f"{side} {len(files)}" for side, files in found.images.items())
    what = "images with masks" if found.masks else "images"
    return f"found: {len(headers)} {what} ({split}), {spread} pixels; read by source '{found.source}'"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _size(task: str, headers: Sequence[Header], said: list[str]) -> tuple[tuple[int, int], int]:
    """Propose (height, width) of a middling image, not too large, and how often a U-Net halves it."""
    height, width = (
        round(median(sides)) for sides in zip(*((one.height, one.width) for one in headers), strict=True)
    )
    shrink = min(1.0, LARGEST.get(task, 128) / max(height, width))
    short = min(height, width) * shrink
    halvings = 3 if short >= 32 else 2 if short >= 16 else 1
    step = 2**halvings if task == "segmentation" else 1
    least = 16 if task == "detection" else 8
    size = tuple(max(least, round(side * shrink / step) * step) for side in (height, width))
    changed = sum((one.height, one.width) != size for one in headers)
    if changed:
        said.append(
            f"{changed} of {len(headers)} images are stretched to {size[1]}×{size[0]} (a middling one has "
            f"{width}×{height}); 'size' and, but for boxes, 'resize: pad' or 'crop' change that"
        )
    return (size[0], size[1]), halvings


def _channels(files: Sequence[Path], headers: Sequence[Header], said: list[str]) -> int:
    counts = Counter(one.channels for one in headers)
    if len(counts) == 1:
        return headers[0].channels
    if set(counts) == {1, 3}:
        said.append(f"{counts[1]} images are grey, {counts[3]} in colour: all become colour")
        return 3
    odd = next(place for place, one in enumerate(headers) if one.channels != headers[0].channels)
    raise UserError(
        f"{files[odd]}: {headers[odd].channels} bands, but {files[0]} has {headers[0].channels}; "
        "make them alike"
    )


def _range(files: Sequence[Path], headers: Sequence[Header], said: list[str]) -> dict[str, Any]:
    """Propose a range where values have none of their own, or most images use a small part of it."""
    kinds = {one.dtype for one in headers}
    if kinds <= {"uint8", "uint16"} and kinds != {"uint16"}:
        if len(kinds) == 2:
            said.append("some images have 8 bits, some 16: all are kept in 16")
        return {}
    if len(kinds) > 1:
        odd = next(place for place, one in enumerate(headers) if one.dtype != headers[0].dtype)
        raise UserError(f"{files[odd]}: {headers[odd].dtype} pixels, but {files[0]} has {headers[0].dtype}")
    found = [decode(file).values for file in _sample(files)]
    low, high = (float(side) for side in (min(one.min() for one in found), max(one.max() for one in found)))
    if not np.isfinite([low, high]).all():
        raise UserError(f"{files[0]} and others: pixels that are no finite numbers")
    if kinds == {"uint16"}:
        return _deep_range(_sample(files), found, int(high), said)
    high = high if high > low else low + 1
    said.append(
        f"{next(iter(kinds))} images: range [{low:g}, {high:g}], as found in {len(found)} of them; correct it"
    )
    return {"range": [low, high]}


def _deep_range(files: Sequence[Path], found: Sequence[Array], high: int, said: list[str]) -> dict[str, Any]:
    """Propose a range where most 16-bit images use a small part of theirs; say so where some do."""
    spans = [int(one.max()) - int(one.min()) for one in found]
    small = [file for file, span in zip(files, spans, strict=True) if span < FEW[0] * 65535]
    bits = max(1, high.bit_length())
    if small and (len(small) <= FEW[1] * len(found) or bits >= 16):
        said.append(
            f"{len(small)} of {len(found)} images use less than {FEW[0]:g} of the range of 16 bits, for "
            f"example {small[0]}: fewer bits than in the others?"
        )
        return {}
    if not small:
        return {}
    said.append(f"16-bit images whose values end at {high}: taken for {bits} bits, range [0, {2**bits - 1}]")
    return {"range": [0, 2**bits - 1]}


def _sample(files: Sequence[Path]) -> list[Path]:
    places = np.linspace(0, len(files) - 1, min(SAMPLED, len(files))).astype(int)
    return [files[place] for place in dict.fromkeys(places.tolist())]


def _masks_turned(found: Found, headers: Sequence[Header], said: list[str]) -> dict[str, Any]:
    """See whether images and masks are turned alike; sizes tell, where a turned image is not square."""
    masks = [file for some in found.masks.values() for file in some]
    images = [file for some in found.images.values() for file in some]
    own = headers_of(masks, "masks", ImageOptions())
    apart = [place for place, one in enumerate(own) if one.orientation != headers[place].orientation]
    if not apart:
        return {}
    raw = all((own[one].width, own[one].height) == (headers[one].height, headers[one].width) for one in apart)
    square = all(headers[one].width == headers[one].height for one in apart)
    said.append(
        f"{len(apart)} images and their masks are not tagged alike (EXIF orientation), for example "
        f"{images[apart[0]]}: "
        + (
            "by their sizes masks were drawn on raw pixels; orientation: ignore"
            if raw and not square
            else "tags are applied; if masks were drawn on raw pixels, say 'orientation: ignore'"
        )
    )
    return {"orientation": "ignore"} if raw and not square else {}


def _inverted(found: Found, said: list[str]) -> None:
    """Say which masks call 0 white: by the numbers stored they are the other way round."""
    masks = [file for some in found.masks.values() for file in some]
    own = headers_of(masks, "masks", ImageOptions())
    if some := [file for file, one in zip(masks, own, strict=True) if one.white_is_zero]:
        said.append(
            f"{len(some)} of {len(masks)} masks are TIFFs that call 0 white, for example {some[0]}: they are "
            "read as viewers show them, black as 0; if the numbers are meant, say 'white_is_zero: ignore'"
        )


def _refuse_other_sizes(found: Found, headers: Sequence[Header], options: ImageOptions) -> None:
    images = [file for some in found.images.values() for file in some]
    masks = [file for some in found.masks.values() for file in some]
    own = headers_of(masks, "masks", options)
    for image, mask, header, one in zip(images, masks, headers, own, strict=True):
        if (header.width, header.height) != (one.width, one.height):
            raise UserError(
                f"{mask}: {one.width}×{one.height} pixels, but {image} has {header.width}×{header.height}; "
                "a mask must be as large as its image"
            )


def _classes(found: Found, orientation: str, said: list[str]) -> dict[str, Any]:
    """Read masks: which values they hold, and which of them may be classes."""
    masks = [file for some in found.masks.values() for file in some]
    counts: Counter[int] = Counter()
    looked = _sample(masks)
    seen = coloured(None, "datasets.NAME")
    read = side_by_side(
        lambda file: _values_of(file, orientation == "ignore", seen), looked, "masks: looking"
    )
    for one in read:
        counts.update(one)
    values = sorted(counts)
    whole = sum(counts.values())
    shares = ", ".join(f"{value}: {counts[value] / whole:.1%}" for value in values[:12])
    where = (
        f"in {len(looked)} of {len(masks)} masks" if len(looked) < len(masks) else f"in {len(masks)} masks"
    )
    if lossy := next((one for one in masks if one.suffix.lower() in LOSSY), None):
        raise UserError(
            f"{lossy}: a mask saved as JPEG, which changes values near every edge; save masks as PNG with a "
            "value per class"
        )
    if _smoothed(counts):
        raise UserError(
            f"{masks[0].parent}: masks hold 0, 255 and, in few pixels, {len(values) - 2} values between "
            f"({', '.join(map(str, values[1:6]))}…): smoothed, or once saved as JPEG? Save them as PNG with "
            "a value per class"
        )
    if len(values) > MOST_CLASSES or values[-1] > 65535 or values[0] < 0:
        raise UserError(
            f"{masks[0].parent}: masks hold {len(values)} values from {values[0]} to {values[-1]}, too many "
            "for class numbers; saved as JPEG, or smoothed? Save them as PNG with a value per class"
        )
    if len(values) < 2:
        raise UserError(f"{masks[0].parent}: masks hold the value {values[0]} only; nothing can be learned")
    # Class numbers are small; 255 beside them is what datasets leave undecided.
    void = VOID if values[-1] == VOID and len(values) > 2 and values[-2] < MOST_CLASSES else None
    known = [one for one in values if one != void]
    names = (
        ["background", "foreground"]
        if len(known) == 2
        else ["background", *(f"class_{one}" for one in known[1:])]
    )
    said.append(f"masks hold values (share of pixels {where}) {shares}{', …' if len(values) > 12 else ''}")
    if void is not None:
        said.append("255 is taken for void (ignore_index), which counts neither in the loss nor in the score")
    said.append(
        f"value {known[0]} is taken for the background; foreground {_foreground(counts, known, void):.1%}"
    )
    options = {"classes": names, "values": known}
    return options if void is None else {**options, "ignore_index": void}


def _smoothed(counts: Counter[int]) -> bool:
    """Whether values between 0 and 255 look like edges, resampled or compressed, and not like classes."""
    between = [value for value in counts if value not in (0, VOID)]
    if not between or not counts[0] or not counts[VOID]:
        return False
    few = sum(counts[value] for value in between) < EDGES * sum(counts.values())
    return few and (max(between) >= NEAR_WHITE or max(between) > 4 * len(between) + 8)


def _foreground(counts: Counter[int], known: Sequence[int], void: int | None) -> float:
    whole = sum(count for value, count in counts.items() if value != void)
    return 1 - counts[known[0]] / whole


def _values_of(file: Path, raw: bool, seen: Coloured) -> dict[int, int]:
    found = read_mask(file, None, "stretch", 0, "ignore" if raw else "apply", coloured=seen)
    values, counts = np.unique(found, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _stride(size: tuple[int, int], sides: Sequence[float], scale: float) -> int:
    """Half of a middling box, of what the image holds four cells of at least."""
    wanted = (median(sides) if sides else 16) * scale / 2
    allowed = [stride for stride in (2, 4, 8) if stride * 4 <= min(size) and stride <= max(2, wanted)]
    return allowed[-1] if allowed else 2
