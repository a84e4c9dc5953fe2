"""Masks with palettes: an index is a class only where it means one colour in every file.

Many programs write a palette of their own into each file, of the colours that it holds (GIF, 8-bit PNG):
index 0 is black in most masks, and white in the one that has no black.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from lossbench.data.facts import histogram
from lossbench.data.images import Coloured
from lossbench.data.samples import Array
from lossbench.errors import UserError

Colour = tuple[int, int, int]


class Palettes:
    """The colours that the indices of one dataset's masks stand for, as seen; several threads may look.

    Attributes:
        key: the dataset's path in params.yaml, for the message.

    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._colours: dict[int, tuple[Path, Colour]] = {}
        self._greys: dict[int, Path] = {}

    def see(self, file: Path, values: Array, palette: Array | None) -> None:
        """Hold a mask against those seen before.

        Args:
            file: the mask.
            values: its indices, or grey values, (H, W).
            palette: (entries, 3); None where the values are grey.

        Raises:
            UserError: naming two masks in which one index is another colour.

        """
        if values.dtype != np.uint8:
            return
        for value in np.flatnonzero(histogram(values)).tolist():
            if palette is None:
                self._greys.setdefault(value, file)
            elif value < len(palette):
                colour = (int(palette[value][0]), int(palette[value][1]), int(palette[value][2]))
                first, known = self._colours.setdefault(value, (file, colour))
                if known != colour:
                    raise self._refusal(file, value, colour, first, known)
            # A grey palette beside grey values: colours alone for the eye are another thing.
            if value in self._colours and value in self._greys:
                first, known = self._colours[value]
                if len(set(known)) == 1 and known[0] != value:
                    raise self._refusal(first, value, known, self._greys[value], (value, value, value))

    def _refusal(self, file: Path, value: int, colour: Colour, other: Path, known: Colour) -> UserError:
        return UserError(
            f"{file}: value {value} is the colour {colour}, but {known} in {other}: each file has a palette "
            f"of its own, so its indices are no class numbers; say '{self.key}.palette: grey' if the grey "
            "values of the colours are the classes, 'index' if the indices are all the same, or save masks "
            "as grey PNG"
        )


def coloured(palette: Literal["index", "grey"] | None, key: str) -> Coloured:
    """Make what is done with the palettes of a dataset's masks: taken as is, turned to grey, or compared."""
    if palette == "index":
        return lambda _, values, __: values
    if palette == "grey":
        return lambda file, values, found: values if found is None else grey(file, values, found)
    seen = Palettes(key)

    def compare(file: Path, values: Array, found: Array | None) -> Array:
        seen.see(file, values, found)
        return values

    return compare


def grey(file: Path, values: Array, palette: Array) -> Array:
    """Turn indices into the grey values of their colours.

    Args:
        file: the mask, for the message.
        values: (H, W) uint8.
        palette: (entries, 3) uint8.

    Raises:
        UserError: for a colour in use that is no grey.

    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    for value in np.flatnonzero(histogram(values)).tolist():
        if len(set(table[value].tolist())) > 1:
            raise UserError(
                f"{file}: index {value} is the colour {tuple(table[value].tolist())}, which is no grey; "
                "save masks as grey PNG with a value per class"
            )
    found: Array = table[:, 0][values]
    return found
