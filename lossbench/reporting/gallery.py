"""Pictures of the test samples on which losses disagree most, as PNG data addresses."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.reporting.inputs import Evaluated

Array = npt.NDArray[Any]
SIDE = 112
"""Least side of a shown picture, in CSS pixels; small images are enlarged by whole factors."""
COLOURS = np.array(
    [[24, 24, 28], [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
     [204, 121, 167], [153, 153, 255], [255, 102, 102], [102, 255, 178], [178, 120, 60], [255, 178, 255]],
    dtype=np.uint8,
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture and what it says to those who do not see it."""

    address: str
    caption: str
    wrong: bool = False


@dataclass(frozen=True)
class Sample:
    """One test sample: itself, the truth, and what each loss made of it."""

    image: Picture
    truth: Picture | None
    decisions: list[Picture]


def samples(one: Evaluated) -> list[Sample]:
    """Read an experiment's gallery; nothing where its task has none."""
    described = json.loads((one.gallery / "gallery.json").read_bytes())
    with np.load(one.gallery / "gallery.npz", allow_pickle=False) as arrays:
        inputs, targets = arrays["inputs"], arrays["targets"]
        decided = {arm: arrays[f"decision/{arm}"] for arm in described["arms"]}
    classes = described["classes"]
    found = []
    for position, number in enumerate(described["index"]):
        image = Picture(image_address(inputs[position]), f"test sample {number}")
        by_loss = {one.loss_of(arm): values[position] for arm, values in decided.items()}
        if described["kind"] == "mask":
            truth = Picture(mask_address(targets[position]), f"true mask of test sample {number}")
            shown = [
                Picture(
                    mask_address(mask), f"{loss}: {wrong_share(mask, targets[position]):.1%} of pixels wrong"
                )
                for loss, mask in by_loss.items()
            ]
            found.append(Sample(image, truth, shown))
        else:
            label = int(targets[position])
            shown = [
                Picture("", f"{loss}: {classes[int(c)]}", int(c) != label) for loss, c in by_loss.items()
            ]
            found.append(Sample(Picture(image.address, f"true: {classes[label]}"), None, shown))
    return found


def wrong_share(mask: Array, target: Array) -> float:
    """Share of pixels that differ."""
    return float((mask != target).mean())


def legend(classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """(class, CSS colour) as masks show them."""
    return [(name, "rgb({}, {}, {})".format(*colour(index))) for index, name in enumerate(classes)]


def colour(index: int) -> Array:
    """Colour of a class; after thirteen they repeat."""
    chosen: Array = COLOURS[index % len(COLOURS)]
    return chosen


def image_address(image: Array) -> str:
    """PNG of a (C, H, W) image."""
    pixels = image if image.dtype == np.uint8 else np.clip(image * 255, 0, 255).astype(np.uint8)
    return _address(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels[:3], 0, -1))


def mask_address(mask: Array) -> str:
    """PNG of an (H, W) mask in class colours."""
    return _address(COLOURS[mask.astype(np.int64) % len(COLOURS)])


def _address(pixels: Array) -> str:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, SIDE // max(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
