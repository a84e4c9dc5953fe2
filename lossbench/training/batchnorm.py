"""Batch normalisation over the samples of all processes, on any device.

torch's own (``SyncBatchNorm``) is for GPUs alone. Statistics are those of the whole batch (Ioffe & Szegedy
2015, 1502.03167, algorithm 1), put together from those of the parts (Chan et al. 1979, eq. 2.1), so that
nothing is lost where a mean is large.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

FEWEST = 2
"""Values of a channel that have a variance."""


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(variance + ε) · weight + bias; backward, through mean and variance too."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        total: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight, mean, inverse, total)
        kind = _computed_in(inputs)
        made = (inputs.to(kind) - _wide(mean, inputs)) * _wide(inverse, inputs)
        if weight is not None:
            made = made * _wide(weight, inputs)
        if bias is not None:
            made = made + _wide(bias, inputs)
        return made.to(inputs.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, inverse, total = ctx.saved_tensors
        kind = _computed_in(inputs)
        given = gradients[0].to(kind)
        normal = (inputs.to(kind) - _wide(mean, inputs)) * _wide(inverse, inputs)
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        sums = torch.stack([given.sum(axes), (given * normal).sum(axes)])
        # Of weight and bias each process finds its part, which is summed with all other gradients.
        own_bias, own_weight = sums[0].clone(), sums[1].clone()
        made = None
        if ctx.needs_input_grad[0]:
            dist.all_reduce(sums)
            means = sums / total
            centred = given - _wide(means[0], inputs) - normal * _wide(means[1], inputs)
            factor = inverse if weight is None else inverse * weight
            made = (centred * _wide(factor, inputs)).to(inputs.dtype)
        return (
            made,
            own_weight if ctx.needs_input_grad[1] else None,
            own_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise by the values of all processes, as ``F.batch_norm`` does in training by those it is given.

    Args:
        inputs: (n, C, *spatial), this process's part of the batch, of as many values as it has, or none.
        running_mean: (C,), changed in place; None: not kept.
        running_var: (C,), likewise, of the unbiased variance.
        weight: (C,).
        bias: (C,).
        training: True; by running statistics nobody needs another process.
        momentum: share of this batch in the running statistics.
        eps: added to the variance.

    Raises:
        ValueError: torch's, where a channel has a single value in all processes together.

    """
    mean, variance, total = _statistics(inputs)
    # Who has enough of them needs not wait for the device to say so; where nobody has, all raise.
    if inputs.numel() < FEWEST * inputs.shape[1] and bool(total.min() < FEWEST):
        raise ValueError(f"Expected more than 1 value per channel when training, got {inputs.shape}")
    with torch.no_grad():
        for kept, found in ((running_mean, mean), (running_var, variance * (total / (total - 1)))):
            if kept is not None:
                kept.mul_(1 - momentum).add_(found.to(kept.dtype), alpha=momentum)
    kind = _computed_in(inputs)
    inverse = torch.rsqrt(variance + eps).to(kind)
    made: Tensor = _Normalised.apply(inputs, weight, bias, mean.to(kind), inverse, total.to(kind))
    return made


@torch.no_grad()
def _statistics(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values of each channel over all processes: (C,), float64."""
    values = inputs.detach().to(_computed_in(inputs))
    axes = [axis for axis in range(values.ndim) if axis != 1]
    if values.numel():
        variance, mean = torch.var_mean(values, axes, correction=0)
    else:  # a model may give the layer nothing of this part: no value has no mean, which would spread
        variance = mean = values.new_zeros(values.shape[1])
    count = torch.full_like(mean, values.numel() / values.shape[1])
    own = torch.stack([count, mean, variance]).double()
    parts = own.new_empty((dist.get_world_size(), *own.shape))
    dist.all_gather_into_tensor(parts, own.unsqueeze(0))
    counts, means, variances = parts.unbind(1)
    total = counts.sum(0)
    whole = (counts * means).sum(0) / total
    spread = (counts * (variances + (means - whole) ** 2)).sum(0) / total
    return whole, spread, total


def _computed_in(inputs: Tensor) -> torch.dtype:
    return inputs.dtype if inputs.dtype.itemsize >= torch.float32.itemsize else torch.float32


def _wide(values: Tensor, inputs: Tensor) -> Tensor:
    """(C,) → (1, C, 1, ...)."""
    return values.view(1, -1, *[1] * (inputs.ndim - 2))
