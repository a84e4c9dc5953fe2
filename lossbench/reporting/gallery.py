"""What the report shows of single test samples: pictures as PNG data addresses, or texts."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.reporting.inputs import Evaluated
from lossbench.tasks.base import Shown

Array = npt.NDArray[Any]
SIDE = 112
"""Least side of a shown picture, in CSS pixels; small images are enlarged by whole factors."""
COLOURS = np.array(
    [[24, 24, 28], [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
     [204, 121, 167], [153, 153, 255], [255, 102, 102], [102, 255, 178], [178, 120, 60], [255, 178, 255]],
    dtype=np.uint8,
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """A picture, a text, or both, and what it says to those who do not see it."""

    address: str
    caption: str
    alt: str
    wrong: bool = False


@dataclass(frozen=True)
class Sample:
    """One test sample: itself, the truth, and what each loss made of it."""

    image: View
    truth: View
    decisions: list[View]


@dataclass(frozen=True)
class Gallery:
    """What a section shows: samples, texts that were generated, and what colours mean."""

    samples: list[Sample]
    texts: list[tuple[str, list[str]]]
    legend: list[tuple[str, str]]
    share_disagreeing: float


def read_gallery(one: Evaluated) -> Gallery:
    """Read an experiment's gallery and let its task show it."""
    described = json.loads((one.gallery / "gallery.json").read_bytes())
    if not described["arms"]:
        return Gallery([], [], [], float("nan"))
    with np.load(one.gallery / "gallery.npz", allow_pickle=False) as arrays:
        inputs, targets = arrays["inputs"], arrays["targets"]
        decided = {arm: arrays[f"decision/{arm}"] for arm in described["arms"]}
    samples = [
        _sample(
            one, number, inputs[place], targets[place], {arm: all_[place] for arm, all_ in decided.items()}
        )
        for place, number in enumerate(described["index"])
    ]
    palette = len(targets) and one.drawn.show_target(targets[0], inputs[0]).palette
    return Gallery(
        samples=samples,
        texts=[(one.loss_of(arm), said) for arm, said in described["texts"].items()],
        legend=legend(one.drawn.info.classes) if palette else [],
        share_disagreeing=described["share_disagreeing"],
    )


def _sample(
    one: Evaluated, number: int, inputs: Array, target: Array, decided: Mapping[str, Array]
) -> Sample:
    task, name = one.drawn, f"test sample {number}"
    return Sample(
        _view(task.show_input(inputs), name, name),
        _view(task.show_target(target, inputs), "truth", f"truth of {name}"),
        [
            _view(
                task.show_decision(decision, target, inputs), one.loss_of(arm), f"{one.loss_of(arm)}, {name}"
            )
            for arm, decision in decided.items()
        ],
    )


def _view(shown: Shown, label: str, alt: str) -> View:
    caption = f"{label}: {shown.text}" if shown.text else label
    if shown.pixels is None:
        return View("", caption, alt, shown.wrong)
    address = mask_address(shown.pixels) if shown.palette else image_address(shown.pixels)
    return View(address, caption, f"{alt}: {shown.text}" if shown.text else alt, shown.wrong)


def legend(classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """(class, CSS colour) as masks show them."""
    return [(name, "rgb({}, {}, {})".format(*colour(index))) for index, name in enumerate(classes)]


def colour(index: int) -> Array:
    """Colour of a class; after thirteen they repeat."""
    chosen: Array = COLOURS[index % len(COLOURS)]
    return chosen


def mask_address(mask: Array) -> str:
    """PNG of an (H, W) mask in class colours."""
    return image_address(COLOURS[mask.astype(np.int64) % len(COLOURS)])


def image_address(pixels: Array) -> str:
    """PNG of (H, W) or (H, W, 3) uint8 pixels."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    factor = max(1, SIDE // max(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
