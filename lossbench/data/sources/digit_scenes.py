"""Scenes composed of handwritten digits on a noisy background, for segmentation, detection and multi-label.

Deterministic; train, validation, test and reference scenes are made of disjoint digits, so that no
stroke seen in training stands in a test scene. Class 0 is background; about 4 % of a 32×32 scene with
two digits is foreground.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from lossbench.data.dataset import Kind
from lossbench.data.samples import Array, Fetched, Samples
from lossbench.data.sources.base import Options, Source, register
from lossbench.data.sources.digits import CLASSES, PROVENANCE, load_digits
from lossbench.data.splits import divide
from lossbench.params import Dataset

DIGIT = 8
CELL = 16
INK = 128
"""Grey value from which on a digit's pixel counts as its stroke."""

Count = Annotated[int, Field(ge=1)]


class SceneOptions(Options):
    """How scenes are composed."""

    size: Annotated[int, Field(ge=32)] = 32
    digits: Count = 2
    train: Count = 1000
    validation: Count = 200
    test: Count = 300
    reference: Count = 100
    background: Annotated[float, Field(ge=0, le=255)] = 60
    noise: Annotated[float, Field(ge=0)] = 40
    contrast: Annotated[float, Field(gt=0, le=1)] = 0.6
    seed: int = 0
    target: Literal["mask", "strokes", "boxes", "labels"] = "mask"

    @model_validator(mode="after")
    def _room_for_all(self) -> "SceneOptions":
        cells = (self.size // CELL) ** 2
        if self.digits > cells:
            raise ValueError(
                f"digits is {self.digits}; a scene of {self.size}×{self.size} has room for {cells}"
            )
        return self


@register
class DigitScenes(Source[SceneOptions]):
    """Scenes of digits with a mask, boxes or labels each."""

    name = "digit_scenes"
    options = SceneOptions

    def input_shape(self, options: SceneOptions) -> tuple[int, ...]:
        """Scenes are square and grey."""
        return (1, options.size, options.size)

    def load(self, dataset: Dataset, options: SceneOptions, key: str) -> Fetched:
        """Compose the scenes."""
        images, labels = load_digits()
        pool = Samples(images[:, None], labels, [str(index) for index in range(len(labels))])
        s = dataset.splits
        shares = {"test": s.test, "validation": s.validation, "reference": s.reference}
        sides = divide(pool.hashes(), shares, s.salt)
        groups = {
            split: compose(images[index], labels[index], getattr(options, split), options, stream, split)
            for stream, (split, index) in enumerate(sorted(sides.items()))
        }
        kinds: dict[str, Kind] = {"mask": "mask", "strokes": "mask", "boxes": "boxes", "labels": "multilabel"}
        masks = {"mask": ("background", *CLASSES), "strokes": ("background", "stroke")}
        classes = masks.get(options.target, CLASSES)
        return Fetched(
            kinds[options.target], classes, groups, {**PROVENANCE, "composition": options.model_dump()}
        )


def compose(
    images: Array, labels: Array, count: int, options: SceneOptions, stream: int, split: str
) -> Samples:
    """Compose ``count`` scenes from the given digits.

    Each digit gets a 16×16 cell of its own and a random place within it, so that digits never overlap.

    Args:
        images: (D, 8, 8) uint8.
        labels: (D,).
        count: scenes.
        options: their composition.
        stream: number of this split's random stream.
        split: its name, for the samples' names.

    """
    rng = np.random.Generator(np.random.PCG64([options.seed, stream]))
    side, k = options.size // CELL, options.digits
    chosen = rng.integers(len(images), size=(count, k))
    cells = np.argsort(rng.random((count, side * side)), axis=1)[:, :k]
    spare = CELL - DIGIT + 1
    top = cells // side * CELL + rng.integers(spare, size=(count, k))
    left = cells % side * CELL + rng.integers(spare, size=(count, k))
    scenes = rng.normal(options.background, options.noise, (count, options.size, options.size))
    masks = np.zeros((count, options.size, options.size), dtype=np.uint8)
    rows = top[..., None, None] + np.arange(DIGIT)[:, None]
    columns = left[..., None, None] + np.arange(DIGIT)
    scene = np.arange(count)[:, None, None, None]
    ink = images[chosen]
    scenes[scene, rows, columns] += options.contrast * ink
    masks[scene, rows, columns] = np.where(ink >= INK, labels[chosen][..., None, None] + 1, 0)
    inputs = np.clip(np.rint(scenes), 0, 255).astype(np.uint8)[:, None]
    names = [f"scene-{split}-{index:05d}" for index in range(count)]
    return Samples(inputs, _targets(options.target, masks, ink, labels[chosen], top, left), names)


def _targets(kind: str, masks: Array, ink: Array, labels: Array, top: Array, left: Array) -> Array:
    if kind == "mask":
        return masks
    if kind == "strokes":
        return np.minimum(masks, 1)
    if kind == "labels":
        present = np.zeros((len(labels), len(CLASSES)), dtype=np.uint8)
        np.put_along_axis(present, labels, 1, axis=1)
        return present
    return _boxes(ink >= INK, labels, top, left)


def _boxes(strokes: Array, labels: Array, top: Array, left: Array) -> Array:
    """(N, k, 5) float32: x0, y0, x1, y1 of each digit's strokes in pixels, and its class."""
    columns, rows = np.any(strokes, axis=-2), np.any(strokes, axis=-1)
    x0, y0 = left + columns.argmax(-1), top + rows.argmax(-1)
    x1 = left + DIGIT - columns[..., ::-1].argmax(-1)
    y1 = top + DIGIT - rows[..., ::-1].argmax(-1)
    return np.stack([x0, y0, x1, y1, labels], axis=-1).astype(np.float32)
