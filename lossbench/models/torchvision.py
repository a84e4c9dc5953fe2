"""Any torchvision classifier by name, with weights from a local file if wanted."""

from pathlib import Path

from torch import Tensor, nn

from lossbench.errors import UserError, nearest
from lossbench.models.base import register
from lossbench.models.weights import head_of, load_weights, put_weights

COLOURS = 3


class Coloured(nn.Module):
    """Shows grey images to a network that expects three channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) → what the network makes of (N, 3, H, W)."""
        out: Tensor = self.network(images.expand(-1, COLOURS, -1, -1))
        return out


@register
def torchvision(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    architecture: str = "resnet18",
    weights: str | None = None,
    sha256: str | None = None,
) -> nn.Module:
    """A classifier of ``torchvision.models``.

    Args:
        input_shape: (1 or 3, H, W).
        outputs: classes; a head for another number is initialised anew.
        architecture: torchvision's name, such as ``resnet50`` or ``convnext_tiny``.
        weights: local file, safetensors or a state dict.
        sha256: of that file; required with it, for the weights are part of what a result is.

    Raises:
        UserError: unknown architecture, a file that does not fit, images of another number of channels.

    """
    # It costs 2.9 s to import: only who asks for it pays.
    from torchvision import models

    known = models.list_models(module=models)
    if architecture not in known:
        raise UserError(f"'model.architecture' is '{architecture}'; {nearest(architecture, known)}")
    if input_shape[0] not in (1, COLOURS):
        raise UserError(f"model 'torchvision' needs images of 1 or 3 channels, found {input_shape[0]}")
    extra = {"aux_logits": False} if architecture in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(architecture, weights=None, num_classes=outputs, **extra)
    if weights is not None:
        # Here, not after: torchvision's files know nothing of the layer that makes grey images coloured.
        put_weights(network, load_weights(Path(weights), sha256 or ""), head_of(network), Path(weights))
    return Coloured(network) if input_shape[0] == 1 else network
