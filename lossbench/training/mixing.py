"""Mixup, CutMix and smoothed labels: the batch that an arm is shown, the same for every loss.

Targets become distributions over the classes, under one softmax, or numbers in [0, 1] of several labels.
What is drawn follows from seed, epoch and step alone, on the CPU: devices and engines agree, and a run can be
resumed at any step.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.recipe import Recipe
from lossbench.tasks.base import Task
from lossbench.training.portions import Batch
from lossbench.training.seeds import derive


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed with itself.

    Attributes:
        partner: (N,) int64, the sample that each is mixed with.
        share: how much of each sample stays, in [0, 1].
        box: rows and columns (top, bottom, left, right) that come from the partner; None: all, blended.

    """

    partner: Tensor
    share: float
    box: tuple[int, int, int, int] | None = None


def makes_distributions(recipe: Recipe, task: Task | type[Task]) -> bool:
    """Whether targets become distributions: class numbers of masks stay what they are when cut and pasted."""
    if task.multilabel:
        return False
    pastes = recipe.mixing.cutmix > 0 and "mask" not in task.kinds
    return recipe.label_smoothing > 0 or recipe.mixing.mixup > 0 or pastes


def trains_on_distributions(recipe: Recipe, task: Task) -> bool:
    """Whether losses are shown distributions: those of the recipe, or the data's soft labels."""
    return makes_distributions(recipe, task) or task.info.soft


def mixed(batch: Batch, recipe: Recipe, task: Task, seed: int, epoch: int, step: int) -> Batch:
    """Mix a batch with itself and soften its targets, as the recipe says; else return it as it is.

    Soft labels take the targets' place. Weights are mixed as what they weigh.

    Args:
        batch: encoded, augmented.
        recipe: with ``mixing`` and ``label_smoothing``.
        task: what targets mean.
        seed: of the replicate.
        epoch: from 1.
        step: within the epoch, from 0.

    """
    mix = draw_mix(recipe, len(batch.inputs), tuple(batch.inputs.shape[2:]), seed, epoch, step)
    smoothing = recipe.label_smoothing
    if mix is None and not smoothing and batch.soft is None:
        return batch
    inputs, targets, ignored, weights = batch.inputs, batch.targets, task.info.ignore_index, batch.weights
    if batch.soft is not None:
        targets = batch.soft * (1 - smoothing) + smoothing / task.loss_classes
    elif makes_distributions(recipe, task):
        targets = distribution(targets, task.loss_classes, ignored, smoothing)
    elif smoothing:
        targets = smoothed_labels(targets, smoothing, ignored)
    if mix is None:
        return Batch(inputs, targets, batch.auxiliary, weights)
    partner = _moved(mix.partner, inputs.device)
    if mix.box is None:
        inputs = blended(inputs, inputs[partner], mix.share)
        targets = _blended_targets(targets, targets[partner], mix.share, ignored)
        weights = None if weights is None else blended(weights, weights[partner], mix.share)
    else:
        inputs = pasted(inputs, inputs[partner], mix.box)
        if targets.shape[-2:] == inputs.shape[-2:] and targets.ndim >= 3:
            targets = pasted(targets, targets[partner], mix.box)
        else:
            targets = _blended_targets(targets, targets[partner], mix.share, ignored)
        if weights is not None and weights.ndim >= 3:
            weights = pasted(weights, weights[partner], mix.box)
        elif weights is not None:
            weights = blended(weights, weights[partner], mix.share)
    return Batch(inputs, targets, batch.auxiliary, weights)


def _moved(partner: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; a GPU is not waited for, which only memory that is pinned allows."""
    if device.type != "cuda":
        return partner
    return partner.pin_memory().to(device, non_blocking=True)


def draw_mix(
    recipe: Recipe, count: int, size: tuple[int, ...], seed: int, epoch: int, step: int
) -> Mix | None:
    """Draw how a batch of ``count`` samples of ``size`` (H, W) is mixed; None where the recipe mixes none.

    Mixup: λ ~ Beta(α, α) for the batch (Zhang et al. 2018, 1710.09412, sec. 2). CutMix: a box of (1 − λ) of
    the area about a random centre, clipped to the image; λ is then what is left (Yun et al. 2019, 1905.04899,
    sec. 3.1). Where both are asked for, a coin chooses for every batch.
    """
    how = recipe.mixing
    if not (how.mixup or how.cutmix):
        return None
    random = np.random.default_rng(derive(seed, "mixing", epoch, step))
    cuts = how.cutmix > 0 and (not how.mixup or random.random() < 0.5)
    alpha = how.cutmix if cuts else how.mixup
    share = float(random.beta(alpha, alpha))
    partner = torch.from_numpy(random.permutation(count))
    if not cuts:
        return Mix(partner, share)
    height, width = size
    rows, columns = (int(length * np.sqrt(1 - share)) for length in (height, width))
    top, left = int(random.integers(height)) - rows // 2, int(random.integers(width)) - columns // 2
    box = (max(top, 0), min(top + rows, height), max(left, 0), min(left + columns, width))
    area = (box[1] - box[0]) * (box[3] - box[2])
    return Mix(partner, 1 - area / (height * width), box)


def distribution(index: Tensor, classes: int, ignore_index: int | None, smoothing: float = 0.0) -> Tensor:
    """Turn class numbers into distributions, smoothed: 1 − ε + ε / C for the class, ε / C for each other.

    Args:
        index: (N, *spatial), integers.
        classes: C.
        ignore_index: value of positions that do not count; they hold it in every class.
        smoothing: ε, in [0, 1).

    Returns:
        (N, C, *spatial), float32.

    """
    ignored = None if ignore_index is None else index == ignore_index
    known = index.long() if ignored is None else index.long().masked_fill(ignored, 0)
    made = F.one_hot(known, classes).movedim(-1, 1).float() * (1 - smoothing) + smoothing / classes
    if ignored is None or ignore_index is None:
        return made
    return made.masked_fill(ignored.unsqueeze(1), float(ignore_index))


def smoothed_labels(labels: Tensor, smoothing: float, ignore_index: int | None) -> Tensor:
    """Move several labels (N, C), each a yes or no, towards 1/2: t (1 − ε) + ε / 2."""
    made = labels.float() * (1 - smoothing) + smoothing / 2
    return made if ignore_index is None else torch.where(labels == ignore_index, labels.float(), made)


def blended(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Return λ a + (1 − λ) b."""
    return share * one + (1 - share) * other


def _blended_targets(one: Tensor, other: Tensor, share: float, ignore_index: int | None) -> Tensor:
    """Blend; what either does not know, nobody does."""
    made = blended(one, other, share)
    if ignore_index is None:
        return made
    unknown = (one == ignore_index) | (other == ignore_index)
    return made.masked_fill(unknown, float(ignore_index))


def pasted(one: Tensor, other: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Put a box (top, bottom, left, right) of ``other`` (N, ..., H, W) into ``one``."""
    top, bottom, left, right = box
    made = one.clone()
    made[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return made
