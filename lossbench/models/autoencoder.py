"""A convolutional autoencoder with a bottleneck."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from lossbench.errors import UserError
from lossbench.models.base import register

Count = Annotated[int, Field(ge=1)]


class Autoencoder(nn.Module):
    """Images → ``latent`` numbers → logits of the image's intensities."""

    def __init__(
        self, channels: int, outputs: int, sides: tuple[int, int], width: int, layers: int, latent: int
    ) -> None:
        super().__init__()
        widths = [width * 2**layer for layer in range(layers)]
        self.small = (widths[-1], sides[0] >> layers, sides[1] >> layers)
        features = self.small[0] * self.small[1] * self.small[2]
        down: list[nn.Module] = []
        for before, after in zip([channels, *widths[:-1]], widths, strict=True):
            down += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.encode = nn.Sequential(*down, nn.Flatten(), nn.Linear(features, latent))
        self.widen = nn.Sequential(nn.Linear(latent, features), nn.ReLU())
        up: list[nn.Module] = []
        for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.ConvTranspose2d(before, after, 2, stride=2), nn.ReLU()]
        self.decode = nn.Sequential(
            *up,
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) → (N, outputs, H, W)."""
        wide: Tensor = self.widen(self.encode(images)).unflatten(1, self.small)
        rebuilt: Tensor = self.decode(wide)
        return rebuilt


@register
def autoencoder(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    width: Count = 16,
    layers: Count = 2,
    latent: Count = 8,
) -> nn.Module:
    """Strided convolutions to ``latent`` numbers and transposed ones back; logits of the intensities.

    Args:
        input_shape: (C, H, W); sides divisible by 2^layers.
        outputs: channels of the reconstruction.
        width: channels of the first layer, doubling with each.
        layers: halvings of the image.
        latent: numbers that an image has to pass through; too many and anomalies pass as well.

    """
    channels, height, wide = input_shape
    if height % 2**layers or wide % 2**layers:
        raise UserError(
            f"'model.layers' is {layers}, for which an autoencoder needs images whose sides are divisible "
            f"by {2**layers}; found {height}×{wide}"
        )
    return Autoencoder(channels, outputs, (height, wide), width, layers, latent)
