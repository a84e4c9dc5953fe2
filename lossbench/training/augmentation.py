"""Random changes of a batch on its device; masks move with their images.

What is done to each sample is drawn for a whole epoch at once, on the CPU, from the replicate's own
generator: devices agree, engines agree, and an epoch can be resumed in its middle.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lossbench.recipe import Augmentation


@dataclass(frozen=True)
class Draws:
    """What is done to each of n samples; None where nothing is.

    Attributes:
        shift: (n, 2) positions down and right.
        flip: (n,) whether left and right change sides.
        vertical_flip: (n,) whether top and bottom do.
        cutout: (n, 2) centre of the blanked square.
        chosen: (n,) whether the sample is changed at all.

    """

    shift: Tensor | None = None
    flip: Tensor | None = None
    vertical_flip: Tensor | None = None
    cutout: Tensor | None = None
    chosen: Tensor | None = None

    def at(self, index: slice) -> "Draws":
        """Take some samples' draws."""
        return self._each(lambda values: values[index])

    def to(self, device: str) -> "Draws":
        """Move them to the device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        parts = {one.name: getattr(self, one.name) for one in fields(self)}
        return Draws(**{name: None if values is None else change(values) for name, values in parts.items()})

    @staticmethod
    def together(parts: "list[Draws]") -> "Draws":
        """Join the draws of several batches."""
        joined: dict[str, Tensor | None] = {}
        for one in fields(Draws):
            values = [getattr(part, one.name) for part in parts]
            joined[one.name] = None if values[0] is None else torch.cat(values)
        return Draws(**joined)


def draw(
    how: Augmentation,
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    chosen: Tensor | None,
    mirrored: Tensor | None = None,
) -> Draws:
    """Draw what is done to each sample of an epoch.

    Args:
        how: which changes.
        count: n.
        size: (H, W).
        generator: on the CPU.
        chosen: (n,) bool, samples to change; all where None.
        mirrored: (n,) bool, whose left and right change sides, where that is not drawn anew each epoch.

    """
    shift, flip, vertical, cutout = None, None, None, None
    if how.shift:
        shift = torch.randint(-how.shift, how.shift + 1, (count, 2), generator=generator)
    if mirrored is not None:
        flip = mirrored
    elif how.flip:
        flip = torch.rand(count, generator=generator) < 0.5
    if how.vertical_flip:
        vertical = torch.rand(count, generator=generator) < 0.5
    if how.cutout:
        places = torch.rand((count, 2), generator=generator)
        cutout = (places * torch.tensor(size)).long()
    if chosen is not None:
        shift = None if shift is None else shift * chosen.unsqueeze(1)
        flip = None if flip is None else flip & chosen
        vertical = None if vertical is None else vertical & chosen
    return Draws(shift, flip, vertical, cutout, chosen)


def alternating(count: int, epoch: int, generator: torch.Generator) -> Tensor:
    """Say which samples an epoch shows mirrored: half of them, and in the next epoch the others.

    So two epochs show each image from both sides, which chance alone does for half of them (Jordan 2024,
    2404.00498, sec. 3.6).

    Args:
        count: n, all training samples.
        epoch: from 1.
        generator: the same for every epoch.

    Returns:
        (n,) bool.

    """
    first = torch.rand(count, generator=generator) < 0.5
    return first if epoch % 2 else ~first


def augment(
    images: Tensor, maps: list[Tensor], how: Augmentation, draws: Draws, noise: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Change a batch of images; every map (mask, distance map) is moved alike.

    Args:
        images: (N, C, H, W), encoded.
        maps: tensors (N, ..., H, W).
        how: which changes.
        draws: of these samples.
        noise: standard normal, of the images' shape, where ``how`` asks for it.

    """
    if draws.shift is not None or draws.flip is not None or draws.vertical_flip is not None:
        places = _places(draws, images.shape[-2:], len(images), images.device)
        images, maps = _moved(images, places), [_moved(one, places) for one in maps]
    if noise is not None:
        images = _where(draws.chosen, images + noise * how.noise, images)
    if draws.cutout is not None:
        images = _where(draws.chosen, _cutout(images, how.cutout, draws.cutout), images)
    return images, maps


def _places(draws: Draws, size: torch.Size, count: int, device: torch.device) -> Tensor:
    """Say where each position of the result comes from: (N, H·W) into the flattened image.

    A shift repeats the edge (reflection is not deterministic on CUDA).
    """
    height, width = size
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if draws.shift is not None:
        rows = (rows - draws.shift[:, :1]).clamp(0, height - 1)
        columns = (columns - draws.shift[:, 1:]).clamp(0, width - 1)
    if draws.vertical_flip is not None:
        rows = torch.where(draws.vertical_flip.unsqueeze(1), height - 1 - rows, rows)
    if draws.flip is not None:
        columns = torch.where(draws.flip.unsqueeze(1), width - 1 - columns, columns)
    return (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)


def _moved(one: Tensor, places: Tensor) -> Tensor:
    flat = one.reshape(len(one), -1, places.shape[1])
    return flat.gather(2, places.unsqueeze(1).expand_as(flat)).view(one.shape)


def _cutout(images: Tensor, side: int, centre: Tensor) -> Tensor:
    """Blank a square (0 is the mean of the encoded image); DeVries & Taylor 2017 (1708.04552)."""
    height, width = images.shape[-2:]
    top, left = centre[:, :1] - side // 2, centre[:, 1:] - side // 2
    rows = torch.arange(height, device=images.device) - top
    columns = torch.arange(width, device=images.device) - left
    inside = ((rows >= 0) & (rows < side)).unsqueeze(2) & ((columns >= 0) & (columns < side)).unsqueeze(1)
    return images.masked_fill(inside.unsqueeze(1), 0.0)


def _where(chosen: Tensor | None, changed: Tensor, kept: Tensor) -> Tensor:
    if chosen is None:
        return changed
    return torch.where(chosen.view(-1, *[1] * (kept.ndim - 1)), changed, kept)
