"""Boxes drawn on a picture."""

import numpy as np

from lossbench.tasks.base import Array

SIDE = 256
"""Least side in pixels that boxes are drawn on: lines of one pixel hide little of it."""
TRUTH = (60, 220, 90)
COLOURS = (
    (255, 140, 0),
    (90, 180, 255),
    (255, 90, 200),
    (250, 230, 60),
    (160, 120, 255),
    (0, 220, 200),
    (255, 80, 80),
    (190, 190, 190),
    (170, 110, 50),
    (130, 200, 0),
)
"""Of classes; after ten they repeat."""


def draw_boxes(pixels: Array | None, boxes: Array, classes: tuple[str, ...] | None) -> Array:
    """Draw boxes on a picture, enlarged by a whole factor where it is small.

    Args:
        pixels: (H, W) or (H, W, 3) uint8.
        boxes: (K, 5 or more) of (x0, y0, x1, y1, class, …) in its pixels; class −1 pads.
        classes: names to write beside the boxes, in their colours; None draws all in the colour of truth.

    Returns:
        (H·f, W·f, 3) uint8.

    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    factor = max(1, SIDE // min(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    pencil = ImageDraw.Draw(picture)
    for box in boxes[boxes[:, 4] >= 0]:
        label = int(box[4])
        colour = TRUTH if classes is None else COLOURS[label % len(COLOURS)]
        x0, y0, x1, y1 = (float(edge) * factor for edge in box[:4])
        if x1 <= x0 or y1 <= y0:
            continue  # nothing to be seen
        pencil.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
        if classes is not None:
            pencil.text((x0 + 3, y0 + 1), classes[label], fill=colour)
    return np.asarray(picture)
