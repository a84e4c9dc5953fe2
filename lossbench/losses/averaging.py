"""What losses of images and classes share: how their values are averaged, or handed out one by one."""

from torch import Tensor

from lossbench.losses import functional
from lossbench.losses.base import Loss
from lossbench.losses.declare import choice


class Averaged(Loss):
    """A loss with a value for each image and class, or for each class of the batch."""

    reduction: str = choice(
        default="mean",
        options=("mean", "sum", "none"),
        doc="the mean; or each image's and class's share in it, (N, C), (1, C) with over=batch, or their sum",
    )

    @property
    def by_image(self) -> bool:
        """Whether there is a value for each image."""
        raise NotImplementedError

    def average_of(self, each: Tensor, shares: Tensor, images: Tensor) -> Tensor:
        """Average over classes, then over images, or hand out as ``reduction`` says.

        Args:
            each: (N, C), or (1, C) of the batch.
            shares: of the same shape, how much a class counts in its image.
            images: (N,) or (1,), how much each counts.
        """
        if self.reduction == "mean":
            return functional.masked_average(functional.masked_average(each, shares, dim=1), images)
        return self.reduced(each * shares * images.unsqueeze(1))

    def reduced(self, each: Tensor) -> Tensor:
        """Reduce what is weighed already as ``reduction`` says, other than to the mean."""
        return each if self.reduction == "none" else each.sum()

    def cropped(self, value: Tensor, logits: Tensor) -> Tensor:
        """Crop the map of ``reduction="none"``."""
        return value[: logits.shape[0]] if value.ndim and self.by_image else value
