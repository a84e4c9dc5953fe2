"""An example of a loss of one's own: focal loss whose exponent differs for class 0 and the others."""

import torch.nn.functional as F
from torch import Tensor


def asymmetric_focal(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, background: float = 0.0
) -> Tensor:
    """Mean of (1 − p)^γ · (−log p) over all positions; γ is ``background`` where class 0 is right.

    Args:
        logits: (N, C, *spatial).
        target: (N, *spatial) class numbers.
        gamma: focusing exponent of the other classes.
        background: focusing exponent of class 0.

    """
    cross_entropy = F.cross_entropy(logits, target, reduction="none")
    exponent = (target > 0) * gamma + (target == 0) * background
    return ((1 - (-cross_entropy).exp()).clamp(min=1e-6) ** exponent * cross_entropy).mean()
