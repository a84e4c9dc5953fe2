"""Which samples a replicate sees, in which order, and what is done to them: functions of its seed alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lossbench.errors import UserError
from lossbench.plugins import load_object
from lossbench.training.augmentation import Draws, alternating, augment, draw
from lossbench.training.mixing import mixed
from lossbench.training.portions import Batch
from lossbench.training.seeds import derive, generator
from lossbench.training.setting import Setting


@dataclass(frozen=True)
class Epoch:
    """One replicate's samples of one epoch.

    Attributes:
        order: (n,) numbers of training samples.
        draws: what is done to each, on the device; None without augmentation.

    """

    order: Tensor
    draws: Draws | None


class Plan:
    """One replicate's samples: training and validation portions, and an order per epoch."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.train, self.validation = setting.division(seed)
        recipe = setting.recipe
        self.batch = min(recipe.batch_size, len(self.train))
        whole, rest = divmod(len(self.train), self.batch)
        self.per_epoch = whole if recipe.drop_last or not rest else whole + 1
        drawn = recipe.augmentation.model_dump(exclude={"rare_classes_only", "own"})
        self.augmented = any(drawn.values())
        own = recipe.augmentation.own
        self._own = None if own is None else load_object(own, "recipe.augmentation.own")
        self._labels = self.train.targets().cpu() if self._needs_labels else None

    @property
    def _needs_labels(self) -> bool:
        return self.setting.recipe.sampling == "balanced" or (
            self.augmented and self.setting.rare is not None
        )

    def epoch(self, number: int) -> Epoch:
        """Draw the order of an epoch (from 1) on the CPU, so that all devices agree."""
        random = generator(self.seed, "order", number)
        if self.setting.recipe.sampling == "balanced" and self._labels is not None:
            weights = 1.0 / torch.bincount(self._labels).double()[self._labels]
            order = torch.multinomial(weights, len(weights), replacement=True, generator=random)
        else:
            order = torch.randperm(len(self.train), generator=random)
        order = order[: self.per_epoch * self.batch]
        if not self.augmented:
            return Epoch(order, None)
        rare = self.setting.rare
        chosen = None if rare is None or self._labels is None else rare[self._labels[order]]
        height, width = self.setting.input_shape[1:]
        random = generator(self.seed, "augmentation", number)
        how = self.setting.recipe.augmentation
        mirrored = None
        if how.flip == "alternating":
            mirrored = alternating(len(self.train), number, generator(self.seed, "flip"))[order]
        draws = draw(how, len(order), (height, width), random, chosen, mirrored)
        return Epoch(order, draws.to(self.setting.compute.device))

    def noise(self, number: int, step: int, count: int) -> Tensor | None:
        """Draw a batch's noise on the device; None where none is asked for."""
        if not self.setting.recipe.augmentation.noise:
            return None
        device = self.setting.compute.device
        random = generator(self.seed, "noise", number, step, device=device)
        return torch.randn((count, *self.setting.input_shape), generator=random, device=device)

    def transformed(self, batch: Batch, number: int, step: int) -> Batch:
        """Let the user's own augmentation change a batch, with a generator of this step's.

        Raises:
            UserError: if it returns anything but inputs and targets for as many samples.

        """
        if self._own is None:
            return batch
        device = self.setting.compute.device
        random = generator(self.seed, "own augmentation", number, step, device=device)
        made = self._own(batch.inputs, batch.targets, random)
        if not isinstance(made, tuple) or len(made) != 2 or len(made[0]) != len(batch.inputs):
            own = self.setting.recipe.augmentation.own
            raise UserError(
                f"'recipe.augmentation.own': {own} returns {type(made).__name__}; allowed: (inputs, "
                "targets) of the batch's samples"
            )
        return batch._replace(inputs=made[0], targets=made[1])

    def mixed(self, batch: Batch, number: int, step: int) -> Batch:
        """Mix a batch with itself and soften its targets, as the recipe says."""
        return mixed(batch, self.setting.recipe, self.setting.task, self.seed, number, step)

    def slice(self, step: int) -> slice:
        """Say which samples of an epoch's order make up a step."""
        return slice(step * self.batch, (step + 1) * self.batch)

    def dropout_seed(self, number: int, step: int) -> int:
        """Seed what a model draws by itself in one step, so that a run can be resumed at any of them."""
        return derive(self.seed, "dropout", number, step)


def changed(batch: Batch, setting: Setting, draws: Draws | None, noise: Tensor | None) -> Batch:
    """Augment a batch; targets that are maps of the image's size move along."""
    if draws is None:
        return batch
    size = batch.inputs.shape[-2:]
    moving = {
        name: one
        for name, one in batch._asdict().items()
        if name != "inputs" and one is not None and one.ndim >= 3 and one.shape[-2:] == size
    }
    inputs, maps = augment(batch.inputs, list(moving.values()), setting.recipe.augmentation, draws, noise)
    return batch._replace(inputs=inputs, **dict(zip(moving, maps, strict=True)))
