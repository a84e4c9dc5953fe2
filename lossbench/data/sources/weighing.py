"""What only training reads of the user's files: weights of samples or of pixels, and soft labels."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lossbench.data.dataset import TRAINED
from lossbench.data.images import FORMATS, Size, read_weights, resized_weights
from lossbench.data.rows import Array, FromFiles
from lossbench.data.samples import POOL
from lossbench.data.sources import listing
from lossbench.data.sources.pairs import plain, without_ending
from lossbench.data.sources.reading import Reading
from lossbench.errors import UserError, brief

FOLDERS = ("weights", "weight", "weightmaps", "weightmap")
"""Names of a folder of weight maps beside that of the masks, in lower case, without '_', '-' and blanks."""
ENDINGS = ("weights", "weight", "weightmap", "w")
"""What a weight map's name may end in after '_' or '-'."""
MOST = float(np.finfo(np.float32).max)
"""Weights are stored as float32."""
ONE = 0.02
"""How far probabilities may be from a sum of 1, as they are written with few digits."""


def weight(text: str, where: str, column: str, split: str) -> float:
    """Read a sample's weight; one of a split that nothing is trained on needs none.

    Raises:
        UserError: for what is no finite number from 0 on.

    """
    if not text and split not in (POOL, *TRAINED):
        return 1.0
    found = _number(text)
    if found is None or not 0 <= found <= MOST:
        raise UserError(f"{where}: '{column}' is {_shown(text)}; allowed: a finite number ≥ 0")
    return found


def probabilities(cells: Mapping[str, str], columns: Sequence[str], where: str) -> tuple[float, ...]:
    """Read a sample's distribution over the classes, scaled to a sum of 1.

    Raises:
        UserError: for what is no probability, or a sum that is not 1.

    """
    found = []
    for column in columns:
        one = _number(cells[column])
        if one is None or not 0 <= one <= 1:
            raise UserError(f"{where}: '{column}' is {_shown(cells[column])}; allowed: a probability, 0 to 1")
        found.append(one)
    total = math.fsum(found)
    if abs(total - 1) > ONE:
        raise UserError(
            f"{where}: {', '.join(columns)} sum to {total:g}; allowed: probabilities that sum to 1"
        )
    return tuple(one / total for one in found)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _shown(text: str) -> str:
    return brief(text) if text else "empty"


def maps(
    files: Sequence[Path], images: Sequence[Size], reading: Reading, size: Size | None, label: str
) -> FromFiles:
    """Read weight maps, (N, H, W) float32: a pixel's grey value, or its number in a TIFF or an .npy file.

    Args:
        files: one per sample.
        images: (H, W) of the image of each.
        reading: how the images are read.
        size: what params resize images to, or None; pictures are resized along, by nearest neighbour, and
            what padding adds weighs 0. Arrays have that size already.
        label: of the progress bar.

    Raises:
        UserError: once a map is read that does not fit.

    """
    read = partial(_map, reading=reading, size=size)
    pairs = list(zip(files, images, strict=True))
    return FromFiles.of(read, pairs, reading.size, np.float32, label)


def _map(given: tuple[Path, Size], reading: Reading, size: Size | None) -> Array:
    file, (height, width) = given
    if file.suffix.lower() == ".npy":
        found = _array(file)
        height, width = reading.size
    else:
        found = read_weights(file, reading.orientation)
    if found.shape != (height, width):
        sizes = "×".join(map(str, reversed(found.shape)))
        raise UserError(f"{file}: weights of {sizes or 'no size'}, but its image has {width}×{height} pixels")
    found = resized_weights(found, size, reading.resize)
    wrong = ~((found >= 0) & (found <= MOST))  # NaN, too
    if wrong.any():
        raise UserError(f"{file}: a weight of {found[wrong][0]:g}; allowed: finite numbers ≥ 0, ≤ {MOST:.2g}")
    return found.astype(np.float32)


def _array(file: Path) -> Array:
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: cannot be read as an array of NumPy: {brief(str(error))}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "buif":
        raise UserError(f"{file}: no array of numbers; expected a weight for each pixel, (H, W)")
    made: Array = found
    return made


def beside(masks: Sequence[Path], root: Path) -> list[Path] | None:
    """Find the weight map of each mask, in a folder ``weights`` beside the folder of masks.

    Args:
        masks: of one split.
        root: the dataset's folder; nothing above it is looked at.

    Returns:
        the maps in the masks' order; None where there is no such folder.

    Raises:
        UserError: naming a mask that has no map, where others have, or two that may be its map.

    """
    folders = {parent: _folder(parent, root) for parent in dict.fromkeys(mask.parent for mask in masks)}
    known = {folder: _by_stem(folder) for folder in folders.values() if folder is not None}
    if not known:
        return None
    found: list[Path] = []
    for mask in masks:
        folder = folders[mask.parent]
        if folder is None:
            raise UserError(f"{mask}: no folder of weight maps beside its own, but other masks have one")
        stem = listing.nfc(mask.stem)
        twin = known[folder].get(stem) or known[folder].get(without_ending(stem))
        if twin is None:
            raise UserError(f"{mask}: no weight map of this name in {folder}")
        found.append(twin)
    return found


def _folder(masks: Path, root: Path) -> Path | None:
    """Where weight maps would lie: the same place below a folder ``weights`` beside that of masks.

    A folder of that name without any map, as of a network's weights, is none.
    """
    for above in (masks, *masks.parents):
        if root not in above.parents:
            return None
        found = [
            one
            for one in listing.entries(above.parent)
            if one.is_dir() and plain(one.name) in FOLDERS and one != above and _holds_maps(one)
        ]
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} may both hold the weight maps; keep one there")
        if found:
            return found[0] / masks.relative_to(above)
    return None


def _holds_maps(folder: Path) -> bool:
    within = listing.entries(folder)
    return any(_is_map(one) if one.is_file() else one.is_dir() and _holds_maps(one) for one in within)


def _is_map(file: Path) -> bool:
    ending = file.suffix.lower()
    return ending == ".npy" or Image.registered_extensions().get(ending) in FORMATS


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for one in listing.entries(folder) if folder.is_dir() else ():
        if not one.is_file():
            continue
        twin = found.setdefault(without_ending(listing.nfc(one.stem), ENDINGS), one)
        if twin != one:
            raise UserError(f"{twin} and {one.name} may both be the weight map of one mask; keep one")
    return found
