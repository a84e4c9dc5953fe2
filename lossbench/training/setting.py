"""Everything a replicate's training needs that all replicates of an arm share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.data.dataset import Dataset, Split
from lossbench.errors import UserError
from lossbench.losses.base import Loss
from lossbench.losses.building import LossContext, build
from lossbench.losses.schedules import is_scheduled, progress_of
from lossbench.models.base import build as build_model
from lossbench.models.from_data import SAMPLES, layers_from_data
from lossbench.models.weights import head_of
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks.base import Task
from lossbench.training.determinism import recurrent_in_float32
from lossbench.training.member import Member
from lossbench.training.mixing import trains_on_distributions
from lossbench.training.portions import Maps, Portion, at_once, memory_budget, open_portion, parts
from lossbench.training.seeds import derive, generator


@dataclass(frozen=True)
class Setting:
    """An arm, ready to be trained with any seed.

    Attributes:
        input_shape: of one encoded sample.
        train: training samples as the data have them.
        validation: validation samples as the data have them.
        pool: both, where each seed divides them anew.
        rare: (classes,) bool, classes whose samples alone are augmented; None for all.
        again: prepares the same in another process, to which a setting, with its data, does not travel.

    """

    task: Task
    network: Network
    recipe: Recipe
    loss: Mapping[str, Any]
    compute: Compute
    input_shape: tuple[int, ...]
    train: Portion
    validation: Portion
    pool: Portion | None = None
    rare: Tensor | None = None
    again: "Callable[[], Setting] | None" = None

    def recipe_of(self, member: Member) -> Recipe:
        """Return the recipe with the member's own learning rate and weight decay."""
        own = {"learning_rate": member.learning_rate, "weight_decay": member.weight_decay}
        changed = {key: value for key, value in own.items() if value is not None}
        optimizer = self.recipe.optimizer.model_copy(update=changed)
        return self.recipe.model_copy(update={"optimizer": optimizer})

    def loss_of(self, member: Member, progress: float = 1.0) -> Loss:
        """Build the member's loss; its numbers that change have the values of this share of the training."""
        made = build(member.loss or self.loss, loss_context(self.task, self.recipe), "loss", progress)
        made.check = "never"  # prepare() has looked at all targets
        return made.to(self.compute.device)

    def loss_during(self, epoch: int, member: Member, before: Loss) -> Loss:
        """Return the member's loss in an epoch, from 1: ``before`` itself, unless something changes in it."""
        if not is_scheduled(member.loss or self.loss):
            return before
        made = self.loss_of(member, progress_of(epoch, self.recipe.epochs))
        made.go_on_from(before)
        return made

    def model_of(self, seed: int) -> nn.Module:
        """Build the model with the seed's initial weights, the same for every loss."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "initialisation"))
            model = build_model(self.network, self.input_shape, self.task.outputs)
            if wants_prior_bias(self.recipe, self.network, self.task, model):
                set_prior_bias(model, self.task)
        self._show_data(model, seed)
        model = model.to(self.compute.device)
        if len(self.input_shape) == 3:
            model = model.to(memory_format=torch.channels_last)
        return recurrent_in_float32(model, self.compute)

    def _show_data(self, model: nn.Module, seed: int) -> None:
        """Let layers that begin at the data see the seed's first training samples; pretrained ones have."""
        layers = [] if is_pretrained(self.network) else layers_from_data(model)
        if not layers:
            return
        train, _ = self.division(seed)
        numbers = parts(min(SAMPLES, len(train)), at_once(self.task))
        for layer in layers:
            layer.look_at(train.take(one).inputs for one in numbers)

    def division(self, seed: int) -> tuple[Portion, Portion]:
        """Return training and validation samples: as the data have them, or divided anew by the seed."""
        if self.pool is None:
            return self.train, self.validation
        order = torch.randperm(len(self.pool), generator=generator(seed, "division"))
        most = len(self.train)
        return self.pool.among(order[:most]), self.pool.among(order[most:])


def loss_context(task: Task, recipe: Recipe | None = None) -> LossContext:
    """What the data, and a recipe, say to a loss that asks."""
    return LossContext(
        classes=task.loss_classes,
        class_counts=task.class_counts,
        multilabel=task.multilabel,
        ignore_index=task.info.ignore_index,
        positions=task.positions,
        distributions=recipe is not None and trains_on_distributions(recipe, task),
    )


def prepare(
    task: Task,
    data: Dataset,
    network: Network,
    recipe: Recipe,
    loss: Mapping[str, Any],
    compute: Compute,
    share: int = 1,
) -> Setting:
    """Bring the training and validation splits to the device, once for all replicates.

    Where they take more than a ``share``-th of the memory that there is for them, they stay on disk.

    Raises:
        ValueError: if a target lies outside the classes.
        UserError: if the recipe asks for what these data do not allow.

    """
    splits = [_samples(data, "train"), _samples(data, "validation")]
    maps = _maps(loss, task)
    budget, device = memory_budget(compute.device) // share, compute.device
    pool = None
    if recipe.validation == "per_seed":
        pool = open_portion(task, splits, device, maps, budget)
        first = len(splits[0])
        train, validation = pool.among(torch.arange(first)), pool.among(torch.arange(first, len(pool)))
    else:
        part = len(splits[0]) / max(1, len(splits[0]) + len(splits[1]))
        train = open_portion(task, splits[:1], device, maps, int(budget * part))
        validation = open_portion(task, splits[1:], device, maps, int(budget * (1 - part)))
    for portion in (train, validation):
        for rows in parts(len(portion), at_once(task)):
            task.check_targets(portion.among(rows).targets())
    shape = tuple(train.take(torch.arange(1)).inputs.shape[1:])
    check_recipe(recipe, data, shape)
    check_mixing(recipe, task, shape, auxiliary=maps is not None)
    check_weights(recipe, task, build(loss, loss_context(task, recipe), "loss"), "loss")
    rare = None
    if recipe.augmentation.rare_classes_only:
        counts = torch.tensor(task.info.counts, dtype=torch.float64)
        rare = counts < counts.mean()
    again = partial(prepare, task, data, network, recipe, loss, compute, share)
    return Setting(task, network, recipe, loss, compute, shape, train, validation, pool, rare, again)


def _samples(data: Dataset, name: str) -> Split:
    split = data.split(name)
    if not len(split):
        raise UserError(f"{data.folder}: split '{name}' is empty; training needs at least one sample in it")
    return split


UNEVEN = 2.0
"""How many times as frequent as the rarest the commonest class is from where on classes count as uneven."""


def wants_prior_bias(recipe: Recipe, network: Network, task: Task, model: nn.Module) -> bool:
    """Whether the last layer's bias begins at the classes' prior: as params say, or where it is uneven.

    Of itself it does so only where the last layer has such a bias: not every network of one's own has.
    """
    if recipe.prior_bias != "auto":
        return recipe.prior_bias
    counts = task.class_counts
    if is_pretrained(network) or not task.has_prior or not counts or not min(counts):
        return False
    if prior_bias_of(model, task) is None:
        return False
    if task.multilabel:
        return True
    return max(counts) > UNEVEN * min(counts)


def is_pretrained(network: Network) -> bool:
    """Whether a network begins with weights from a file."""
    return any(key in network.options for key in ("weights", "weights_file"))


def prior_bias_of(model: nn.Module, task: Task) -> Tensor | None:
    """Find the bias of a model's last layer, as it lists its layers; None without one for each class."""
    bias = getattr(model.get_submodule(head_of(model)), "bias", None)
    fits = isinstance(bias, Tensor) and tuple(bias.shape) == (len(task.class_counts),)
    return bias if fits else None


def set_prior_bias(model: nn.Module, task: Task) -> None:
    """Let a model predict the training data's class shares before it has learnt anything.

    Otherwise the first epochs go into leaving "all classes alike", which some losses do faster than others:
    with few positives that would be most of a short training's difference (Lin et al. 2017, 1708.02002,
    sec. 4.1, for focal loss).

    Raises:
        UserError: if the last layer has no bias, or other outputs than classes.

    """
    bias = prior_bias_of(model, task)
    counts = torch.tensor(task.class_counts, dtype=torch.float64).clamp_min(1.0)
    if not task.has_prior or bias is None:
        raise UserError(
            "'recipe.prior_bias' is true, which needs classes and a last layer with a bias for each; "
            f"'{head_of(model)}' of this model has none; allowed: auto, false"
        )
    if task.multilabel:
        total = float(task.positions or counts.sum())
        prior = (counts / (total - counts).clamp_min(1.0)).log()
    else:
        prior = (counts / counts.sum()).log()
    with torch.no_grad():
        bias.copy_(prior - (0.0 if task.multilabel else prior.mean()))


def wants_maps(loss: Mapping[str, Any], task: Task) -> bool:
    """Whether a loss needs maps that are computed with the data."""
    return build(loss, loss_context(task), "loss").auxiliary


def _maps(loss: Mapping[str, Any], task: Task) -> Maps | None:
    made = build(loss, loss_context(task), "loss")
    if not made.auxiliary:
        return None
    return lambda targets: made.prepare(task.loss_target(targets), task.loss_classes)


def check_mixing(recipe: Recipe, task: Task, shape: tuple[int, ...], auxiliary: bool = False) -> None:
    """Refuse to mix what cannot be mixed.

    Args:
        recipe: of the experiment.
        task: what targets mean.
        shape: of one encoded sample.
        auxiliary: whether the loss needs maps of the targets.

    """
    how = recipe.mixing
    mixes = bool(how.mixup or how.cutmix)
    if (mixes or recipe.label_smoothing) and not task.mixes:
        key = "mixing" if mixes else "label_smoothing"
        raise UserError(
            f"'recipe.{key}' needs targets that are classes or labels; task '{task.name}' has others; "
            "allowed there: none"
        )
    if how.cutmix and len(shape) != 3:
        raise UserError(f"'recipe.mixing.cutmix' needs images (C, H, W); found samples of shape {shape}")
    if mixes and auxiliary:
        raise UserError(
            "'recipe.mixing' breaks the regions of which a loss of this experiment needs maps (boundary, "
            "hausdorff, blob); allowed with it: no mixing"
        )


def check_weights(recipe: Recipe, task: Task, loss: Loss, key: str) -> None:
    """Refuse weights and soft labels of the data that a task, a loss or an augmentation cannot take.

    Args:
        recipe: of the experiment.
        task: on the data.
        loss: one of the compared.
        key: where in params.yaml it stands, for messages.

    """
    weights, soft = task.info.weights, task.info.soft
    if not (weights or soft):
        return
    what = "soft labels" if soft else f"a weight for each {weights}"
    if not task.mixes:
        raise UserError(
            f"the data have {what}, of which task '{task.name}' can make no use; allowed: classification, "
            "multilabel, segmentation, or data without"
        )
    if weights and not loss.weighs:
        raise UserError(
            f"{key}: loss '{loss.name}' takes no weights, but the data have {what}; allowed: a loss with an "
            "argument 'weights', (N,) or (N, *spatial), or data without"
        )
    if recipe.augmentation.own is not None and (soft or weights == "position"):
        raise UserError(
            f"'recipe.augmentation.own' is shown inputs and targets, but the data have {what}, which would "
            "not move along; allowed with it: a weight for each sample"
        )


def check_recipe(recipe: Recipe, data: Dataset, shape: tuple[int, ...]) -> None:
    """Refuse what needs one label per sample, or images, where there are none."""
    labelled = data.info.kind == "label"
    if recipe.sampling == "balanced" and not labelled:
        raise UserError(
            f"'recipe.sampling' is 'balanced', which needs one label per sample; found targets of kind "
            f"'{data.info.kind}'; allowed here: shuffle"
        )
    if recipe.augmentation.rare_classes_only and not labelled:
        raise UserError(
            "'recipe.augmentation.rare_classes_only' needs one label per sample; found targets of kind "
            f"'{data.info.kind}'; allowed here: false"
        )
    moving = recipe.augmentation.model_dump(exclude={"noise", "rare_classes_only", "own"})
    if data.info.kind == "boxes" and any(moving.values()):
        raise UserError(
            "'recipe.augmentation': boxes do not move along with shift, flip, vertical_flip or cutout; "
            "allowed here: noise"
        )
    if any(recipe.augmentation.model_dump(exclude={"own"}).values()) and len(shape) != 3:
        raise UserError(f"'recipe.augmentation' needs images (C, H, W); found samples of shape {shape}")
