"""Layers that begin at what the training data are, not at what chance or a file says."""

from abc import abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

SAMPLES = 5000
"""Training samples that such a layer is shown, at most."""


class FromData(nn.Module):
    """A layer whose beginning is computed from training inputs, once, before the first step.

    What it finds must lie in its parameters or buffers: a trained network is nothing but these.
    """

    @abstractmethod
    def look_at(self, batches: Iterable[Tensor]) -> None:
        """Compute the layer's beginning; it must follow from the samples alone.

        Args:
            batches: of encoded training inputs, each (n, *input_shape), on the device of the data.

        """


def layers_from_data(model: nn.Module) -> list[FromData]:
    """Find such layers of a model, in its order."""
    return [one for one in model.modules() if isinstance(one, FromData)]
