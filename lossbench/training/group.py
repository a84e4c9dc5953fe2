"""The processes that train one replicate together: one alone, unless ``compute.processes`` says more."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Group:
    """One process, which has nobody to agree with.

    Attributes:
        leads: whether this process keeps checkpoints, validates, and is heard.

    """

    leads: bool = True

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Compute a batch's outputs, in training mode.

        Args:
            model: of (N, ...).
            inputs: (N, ...), the whole batch.

        Returns:
            (N, ...), of the whole batch.

        """
        outputs: Tensor = model(inputs)
        return outputs

    def backward(self, value: Tensor) -> None:
        """Find the gradients of what was computed from :meth:`outputs`.

        Args:
            value: (), what is minimised.

        """
        value.backward()  # type: ignore[no-untyped-call]  # torch's own

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make of what each process has found the gradients of the whole batch."""

    def agreed(self, find: Callable[[], T]) -> T:
        """Let the leading process find something, and all have it.

        Args:
            find: gives tensors, numbers, strings, None and containers of them.

        """
        return find()

    def see_alike(self, model: nn.Module) -> None:
        """See that all processes have the same weights and buffers."""


ALONE = Group()
