"""`lossbench predict`: a person's files in, a table out."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from lossbench.data.images import Resize, read_image
from lossbench.errors import UserError
from lossbench.serving.answers import Answer
from lossbench.serving.replicate import ReplicateModel
from lossbench.telling import printable


def predict_files(model: ReplicateModel, files: Sequence[Path], as_json: bool) -> None:
    """Print an answer per file, in the order given: a table, or a JSON object a line.

    A file that cannot be read is named on stderr; the others are answered all the same.

    Raises:
        UserError: at the end, if any file could not be read.

    """
    images, read = [], []
    for file in files:
        try:
            images.append(_read(model, file))
            read.append(file)
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
    found = model.predict(np.stack(images)) if images else []
    if as_json:
        for file, answer in zip(read, found, strict=True):
            print(json.dumps({"file": str(file), **answer}, ensure_ascii=False))
    else:
        _print_table([(str(file), *_row(answer)) for file, answer in zip(read, found, strict=True)])
    if len(read) < len(files):
        raise UserError(f"{len(files) - len(read)} of {len(files)} files could not be read; they stand above")


def _read(model: ReplicateModel, file: Path) -> Any:
    """Read an image as the dataset's were: channels, size and way of resizing, depth, range, orientation."""
    shape = model.info.input_shape
    if model.info.kind == "tokens" or len(shape) != 3:
        raise UserError(f"{file}: `lossbench predict` reads images, but this model takes {model.info.kind}")
    if not file.is_file():
        raise UserError(f"{file}: no such file; name images")
    reading = model.info.reading
    return read_image(
        file,
        shape[0],
        (shape[1], shape[2]),
        cast("Resize", model.resize),
        dtype=model.info.dtype,
        orientation=reading.get("orientation", "apply"),
        span=reading.get("range"),
    )


def _row(answer: Answer) -> tuple[str, str]:
    """What a table has room for: the answer, and how sure it is."""
    if "class" in answer:
        return str(answer["class"]), f"{answer['probability']:.4f}"
    if "labels" in answer:
        given = answer["labels"]
        return ", ".join(given) or "none", ", ".join(f"{answer['probabilities'][one]:.4f}" for one in given)
    if "boxes" in answer:
        boxes = answer["boxes"]
        shown = [f"{one['class']} {' '.join(f'{side:.0f}' for side in one['box'])}" for one in boxes]
        return "; ".join(shown) or "none", "; ".join(f"{one['score']:.4f}" for one in boxes)
    if "shares" in answer:
        shares = [f"{name} {share:.1%}" for name, share in answer["shares"].items() if share > 0]
        return ", ".join(shares), f"{np.mean(answer['probability']):.4f}"
    return f"score {answer['score']}", f"{answer['above_normal']:.4f}"


def _print_table(rows: Sequence[tuple[str, str, str]]) -> None:
    table = [("file", "class", "probability"), *rows]
    widths = [max(len(printable(row[column])) for row in table) for column in range(2)]
    for row in table:
        cells = [printable(cell) for cell in row]
        print(f"{cells[0]:<{widths[0]}}  {cells[1]:<{widths[1]}}  {cells[2]}".rstrip())
