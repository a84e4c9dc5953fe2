"""Optimizers and learning-rate schedules, as torch has them.

The optimizers are torch's functional ones: constructing a ``torch.optim.Optimizer`` imports ``torch._dynamo``
(four seconds, in every process), and one whose state is plain lists is easily stored and stacked.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from lossbench.losses.base import Loss
from lossbench.recipe import Optimizer as OptimizerParams
from lossbench.recipe import Schedule

EPSILON = 1e-8
SMOOTHING = 0.99
"""RMSprop's decay of the mean square; torch's default, as is EPSILON."""


class Optimizer(ABC):
    """Changes parameters in place; every formula is elementwise, so stacked parameters work alike.

    Attributes:
        parameters: what is trained, in the order of the model.
        slots: per name, a tensor per parameter (a momentum buffer may not exist before the first step).

    """

    names: ClassVar[tuple[str, ...]]
    recordable: ClassVar[bool] = True
    """Whether a CUDA graph can hold a step: the learning rate may be a tensor, to the same bits."""

    def __init__(self, parameters: Sequence[Tensor], params: OptimizerParams) -> None:
        self.parameters = list(parameters)
        self.params = params
        self.slots: dict[str, list[Tensor | None]] = {name: self._empty(name) for name in self.names}

    def _empty(self, name: str) -> list[Tensor | None]:
        return [torch.zeros_like(one, requires_grad=False) for one in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """Change the parameters by their gradients, at learning rate ``rate`` (a tensor: ())."""
        used = [index for index, one in enumerate(self.parameters) if one.grad is not None]
        slots = {name: [values[index] for index in used] for name, values in self.slots.items()}
        parameters = [self.parameters[index] for index in used]
        self._step(parameters, [_gradient(one) for one in parameters], slots, rate)
        for name, values in slots.items():
            for index, value in zip(used, values, strict=True):
                self.slots[name][index] = value

    @abstractmethod
    def _step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Any]],
        rate: float | Tensor,
    ) -> None: ...

    def tensors(self) -> list[Tensor]:
        """All of the state that there is already."""
        return [one for values in self.slots.values() for one in values if one is not None]

    def state(self) -> dict[str, list[Tensor | None]]:
        """Return what a checkpoint has to hold."""
        return self.slots

    def restore(self, state: dict[str, list[Tensor | None]]) -> None:
        """Go on from a checkpoint."""
        self.slots = {name: list(state[name]) for name in self.names}


class Adam(Optimizer):
    """Adam (1412.6980), and AdamW (1711.05101), whose weight decay is no part of the gradient."""

    names = ("mean", "square", "steps")

    def _empty(self, name: str) -> list[Tensor | None]:
        if name != "steps":
            return super()._empty(name)
        return [torch.zeros((), dtype=torch.float32, device=one.device) for one in self.parameters]

    def _step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Any]],
        rate: float | Tensor,
    ) -> None:
        adam(
            parameters,
            gradients,
            slots["mean"],
            slots["square"],
            [],
            slots["steps"],
            fused=True,
            decoupled_weight_decay=self.params.name == "adamw",
            amsgrad=False,
            beta1=self.params.betas[0],
            beta2=self.params.betas[1],
            lr=rate,
            weight_decay=self.params.weight_decay,
            eps=EPSILON,
            maximize=False,
        )


class SGD(Optimizer):
    """Stochastic gradient descent, with a heavy ball, and with Nesterov's (Sutskever et al. 2013)."""

    names = ("momentum",)

    def _empty(self, name: str) -> list[Tensor | None]:
        return [None] * len(self.parameters)

    def _step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Any]],
        rate: float | Tensor,
    ) -> None:
        sgd(
            parameters,
            gradients,
            slots["momentum"],
            fused=True,
            weight_decay=self.params.weight_decay,
            momentum=0.0 if self.params.name == "sgd" else self.params.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self.params.name == "nesterov",
            maximize=False,
        )


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture 6e), without momentum and not centred."""

    names = ("square", "steps")
    recordable = False

    def _empty(self, name: str) -> list[Tensor | None]:
        if name != "steps":
            return super()._empty(name)
        return [torch.zeros((), dtype=torch.float32) for _ in self.parameters]

    def _step(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        slots: dict[str, list[Any]],
        rate: float | Tensor,
    ) -> None:
        rmsprop(
            parameters,
            gradients,
            slots["square"],
            [],
            [],
            slots["steps"],
            foreach=True,
            lr=rate,
            alpha=SMOOTHING,
            eps=EPSILON,
            weight_decay=self.params.weight_decay,
            momentum=0.0,
            centered=False,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": Adam,
    "sgd": SGD,
    "momentum": SGD,
    "nesterov": SGD,
    "rmsprop": RMSprop,
}


def make_optimizer(parameters: Sequence[Tensor], params: OptimizerParams) -> Optimizer:
    """Build the optimizer; fused where torch has a fused form (one pass over the weights)."""
    return OPTIMIZERS[params.name](parameters, params)


def make_weighing(loss: Loss, params: OptimizerParams) -> Optimizer | None:
    """Build the optimizer of what a loss learns: as the network's, without weight decay; None if nothing."""
    if not loss.learned:
        return None
    return make_optimizer(list(loss.learned), params.model_copy(update={"weight_decay": 0.0}))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None  # noqa: S101  # chosen so above
    return parameter.grad


def rate_factor(schedule: Schedule, step: int, steps: int, per_epoch: int) -> float:
    """Learning rate at a step as a factor of the base rate.

    Cosine, linear and the shares of ``step_at`` run over the steps after the warm-up.

    Args:
        schedule: which.
        step: from 0.
        steps: of the whole training.
        per_epoch: steps in an epoch.

    """
    warm = round(schedule.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    match schedule.name:
        case "cosine":
            return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return schedule.final + (1 - schedule.final) * (1 - progress)
        case "exponential":
            return float(schedule.gamma ** ((step - warm) // per_epoch))
        case "step":
            return float(schedule.gamma ** sum(progress >= share for share in schedule.step_at))
        case "constant":
            return 1.0


def l1_penalty(model: nn.Module) -> Tensor:
    """Sum of absolute weights (matrices and kernels; biases and norms are left alone)."""
    return torch.stack([weight.abs().sum() for weight in model.parameters() if weight.ndim > 1]).sum()
