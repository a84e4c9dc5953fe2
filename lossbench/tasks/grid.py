"""A grid of cells over an image: which cell answers for which box, and how a cell states a box.

A cell states a box as (dx, dy, log w, log h): from the cell's centre to the box's, and its size, all in
strides. Any box can be stated by any cell, so that a box smaller than a cell has one too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 2**24
"""Boxes × cells that are compared at a time."""
LARGEST = 8.0
"""Log of the largest side that can be stated, in strides: keeps a first guess from overflowing."""


@dataclass(frozen=True)
class Assigned:
    """What the cells of a grid should say.

    Attributes:
        labels: (N, h, w) int64: 0 for background, class + 1 otherwise.
        boxes: (N, h, w, 4), the box each cell answers for; of any value at background cells.

    """

    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Grid:
    """Cells of ``stride`` × ``stride`` pixels over an image; the last row and column may reach beyond it.

    Attributes:
        size: (h, w) in cells.
        stride: in pixels.

    """

    size: tuple[int, int]
    stride: int

    @classmethod
    def over(cls, height: int, width: int, stride: int) -> "Grid":
        """Cover an image of so many pixels."""
        return cls((-(-height // stride), -(-width // stride)), stride)

    def centres(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return x (w,) and y (h,) of the cells' centres in pixels."""
        rows, columns = (torch.arange(count, device=device) for count in self.size)
        return (columns + 0.5) * self.stride, (rows + 0.5) * self.stride

    def assign(self, targets: Tensor, radius: int) -> Assigned:
        """Say which cell answers for which box.

        A box belongs to the cell that holds its centre and to the cells at most ``radius`` rows and columns
        from it. A cell that several boxes want gets the one whose centre is nearest to its own.

        Args:
            targets: (N, K, 5) of (x0, y0, x1, y1, class); class −1 pads.
            radius: in cells.

        """
        at_once = max(1, AT_ONCE // (targets.shape[1] * self.size[0] * self.size[1]))
        parts = [self._assign(part, radius) for part in torch.split(targets, at_once)]
        return Assigned(torch.cat([one.labels for one in parts]), torch.cat([one.boxes for one in parts]))

    def _assign(self, targets: Tensor, radius: int) -> Assigned:
        boxes, classes = targets[..., :4], targets[..., 4]
        x, y = self.centres(targets.device)
        from_x, near_x = self._along((boxes[..., 0] + boxes[..., 2]) / 2, x, radius)
        from_y, near_y = self._along((boxes[..., 1] + boxes[..., 3]) / 2, y, radius)
        near = near_x[:, :, None, :] & near_y[:, :, :, None] & (classes >= 0)[..., None, None]
        away = (from_x[:, :, None, :] + from_y[:, :, :, None]).masked_fill(~near, torch.inf)
        least, nearest = away.min(1)  # (N, h, w)
        count, flat = len(targets), nearest.flatten(1)
        mine = boxes.gather(1, flat[..., None].expand(-1, -1, 4)).reshape(count, *self.size, 4)
        labels = classes.gather(1, flat).reshape(count, *self.size).long() + 1
        return Assigned(labels.masked_fill(torch.isinf(least), 0), mine)

    def _along(self, centre: Tensor, cells: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        """Squared distances of box centres (N, K) to cells' (n,), and which are near: (N, K, n) both."""
        home = (centre / self.stride).floor().clamp(0, len(cells) - 1)  # a centre on the far edge
        number = torch.arange(len(cells), device=cells.device)
        return (centre[..., None] - cells).square(), (number - home[..., None]).abs() <= radius

    def encode(self, boxes: Tensor) -> Tensor:
        """Boxes (N, h, w, 4) of the cells → what the cells state, (N, 4, h, w)."""
        x, y = self.centres(boxes.device)
        x0, y0, x1, y1 = boxes.unbind(-1)
        least = torch.finfo(boxes.dtype).tiny
        stated = [
            ((x0 + x1) / 2 - x) / self.stride,
            ((y0 + y1) / 2 - y[:, None]) / self.stride,
            ((x1 - x0) / self.stride).clamp_min(least).log(),
            ((y1 - y0) / self.stride).clamp_min(least).log(),
        ]
        return torch.stack(stated, 1)

    def decode(self, stated: Tensor) -> Tensor:
        """What the cells state, (N, 4, h, w), → boxes (N, h, w, 4) in pixels."""
        x, y = self.centres(stated.device)
        dx, dy, width, height = stated.unbind(1)
        middle_x, middle_y = x + dx * self.stride, y[:, None] + dy * self.stride
        half_x = width.clamp_max(LARGEST).exp() * (self.stride / 2)
        half_y = height.clamp_max(LARGEST).exp() * (self.stride / 2)
        edges = [middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y]
        return torch.stack(edges, -1)
