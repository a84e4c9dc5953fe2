"""Many replicates at once: their weights stacked, every step one call for all (``torch.func``).

Each member has its own weights, batch-norm buffers, batches, augmentation and dropout masks, from its own
generators, and may have its own learning rate and weight decay. Members with different losses are
populations of their own. Bits depend on the population's size, as those of batched kernels do.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lossbench.errors import NO_MEMORY, UserError
from lossbench.training.augmentation import Draws
from lossbench.training.checkpoint import Checkpoint
from lossbench.training.determinism import deterministic, precision
from lossbench.training.dropout import draw_masks, find_sites, take_masks
from lossbench.training.faults import of_the_device
from lossbench.training.graphs import Steps, hindrance
from lossbench.training.interruption import EXIT_CODE, Interruption
from lossbench.training.loop import on_cpu
from lossbench.training.member import Member
from lossbench.training.optimization import Optimizer, make_optimizer, rate_factor
from lossbench.training.patches import in_patches, multiply_patches
from lossbench.training.portions import Batch, Portion, at_once, channels_last, parts
from lossbench.training.progress import Progress, State
from lossbench.training.replicate import Replicate
from lossbench.training.samples import Epoch, Plan, changed
from lossbench.training.setting import Setting

Emit = Callable[[int, tuple[int, dict[str, float]]], None]


def train_population(
    setting: Setting,
    members: Sequence[Member],
    emit: Emit = lambda *_: None,
    checkpoint: Checkpoint | None = None,
    interruption: Interruption | None = None,
) -> list[Replicate]:
    """Train members that share a loss.

    Args:
        setting: the arm.
        members: seeds, and learning rates or weight decays of their own.
        emit: told (member's number, (epoch, values)) after each epoch.
        checkpoint: where an interrupted training left its state, and leaves it again.
        interruption: looked at between steps; the state is written, then SystemExit raised.

    Raises:
        UserError: if the loss or the model cannot be vectorised.

    """
    began = time.perf_counter()
    with deterministic(setting.compute):
        run = _Population(setting, members, checkpoint, interruption or Interruption())
        while run.active:
            run.epoch(emit)
    seconds = (time.perf_counter() - began) / len(members)
    return run.replicates(seconds)


@dataclass(frozen=True)
class _Group:
    """Neighbours in the stack that share learning rate and weight decay, hence an optimizer."""

    optimizer: Optimizer
    rate: float


class _Population:
    """Members on their way; their order within is that of their learning rates."""

    def __init__(
        self,
        setting: Setting,
        members: Sequence[Member],
        checkpoint: Checkpoint | None,
        interruption: Interruption,
    ) -> None:
        self.setting, self.checkpoint, self.interruption = setting, checkpoint, interruption
        recipes = [setting.recipe_of(member).optimizer for member in members]
        self.places = sorted(
            range(len(members)), key=lambda i: (recipes[i].learning_rate, recipes[i].weight_decay)
        )
        self.members = [members[place] for place in self.places]
        self.recipe, self.device = setting.recipe, setting.compute.device
        self.loss = setting.loss_of(self.members[0])
        if self.loss.learned:
            raise UserError(
                "'compute.engine' is 'population', which cannot train a sum with learned weights; "
                "allowed: loop"
            )
        self.plans = [Plan(setting, member.seed) for member in self.members]
        models = [setting.model_of(member.seed) for member in self.members]
        first = self.plans[0].train.take(torch.arange(self.plans[0].batch))
        self.skeleton = copy.deepcopy(models[0])
        self.sites = find_sites(self.skeleton, first.inputs)
        take_masks(self.skeleton, self.sites)
        if self.device == "cuda":
            _lay_out_for_norms(self.skeleton)
        if in_patches(self.device):
            multiply_patches(self.skeleton, len(self.members))
        self.kept = list(models[0].state_dict())
        self.buffers = {
            name: torch.stack([dict(model.named_buffers())[name] for model in models])
            for name, _ in models[0].named_buffers()
        }
        self.names = [name for name, _ in models[0].named_parameters()]
        self.groups = self._groups(models)
        self.progress = [Progress() for _ in self.members]
        self.final: list[State | None] = [None] * len(self.members)
        self.step = 0
        self.total = torch.zeros(len(self.members), dtype=torch.float64, device=self.device)
        self._restore()
        self._try(self.plans[0].mixed(first, 1, 0))
        optimizers = [group.optimizer for group in self.groups]
        self.steps = Steps(
            self._step,
            self._changing,
            setting.compute,
            hindrance(setting, self.members, self.skeleton, optimizers),
        )

    def _groups(self, models: Sequence[nn.Module]) -> list[_Group]:
        recipes = [self.setting.recipe_of(member).optimizer for member in self.members]
        groups = []
        for optimizer, same in groupby(range(len(models)), key=lambda number: recipes[number]):
            numbers = list(same)
            stacked = [
                torch.stack([models[i].get_parameter(name).detach() for i in numbers]).requires_grad_()
                for name in self.names
            ]
            groups.append(_Group(make_optimizer(stacked, optimizer), optimizer.learning_rate))
        return groups

    @property
    def active(self) -> bool:
        """Whether any member still trains."""
        return any(state is None for state in self.final)

    def epoch(self, emit: Emit) -> None:
        """Train one epoch, validate, note for each member that still trains."""
        number = self._number()
        self._train(number)
        losses = (self.total / self.plans[0].per_epoch).tolist()
        scored = self._validate()
        for i, progress in enumerate(self.progress):
            if self.final[i] is not None:
                continue
            values = {"train/loss": losses[i]}
            finite = math.isfinite(losses[i])
            if finite:
                scores, finite = scored[i]
                values |= {f"validation/{name}": value for name, value in scores.items()}
            keep = (lambda i=i: self._state(i)) if self.recipe.checkpoint == "best" else None
            progress.note(values, self.setting.task.monitor, finite, keep)
            emit(self.places[i], (number, values))
            if progress.over(self.recipe):
                best = progress.best_state
                self.final[i] = self._state(i) if best is None else best
        self.step = 0
        self.total.zero_()
        self._save_or_stop()

    def _number(self) -> int:
        return 1 + max(
            one.epoch for one, state in zip(self.progress, self.final, strict=True) if state is None
        )

    def _train(self, number: int) -> None:
        plan = self.plans[0]
        self.loss = self.setting.loss_during(number, self.members[0], self.loss)
        epochs = [one.epoch(number) for one in self.plans]
        rows = torch.stack(
            [one.train.numbers(epoch.order) for one, epoch in zip(self.plans, epochs, strict=True)]
        )
        left = [plan.slice(step) for step in range(self.step, plan.per_epoch)]
        source = Portion(plan.train.source)
        self.skeleton.train()
        for part, flat in zip(left, source.batches([rows[:, one].flatten() for one in left]), strict=True):
            batch = self._changed(flat, epochs, part, number)
            masks = self._masks(number, batch.inputs.shape[1])
            done = (number - 1) * plan.per_epoch + self.step
            factor = rate_factor(
                self.recipe.schedule, done, self.recipe.epochs * plan.per_epoch, plan.per_epoch
            )
            self.steps(
                {"inputs": batch.inputs, "targets": batch.targets, **batch.extra, **masks},
                [group.rate * factor for group in self.groups],
            )
            self.step += 1
            self._save_or_stop()

    def _step(self, given: Mapping[str, Tensor], rates: Sequence[float | Tensor]) -> None:
        """Take a step on all members' batches (inputs, targets, what else a loss is shown) and masks."""
        masks = {name: one for name, one in given.items() if name.endswith(".mask")}
        value, penalised = self._losses(
            {name: one for name, one in given.items() if name not in masks}, masks
        )
        self.total += value.detach()
        self._update(penalised, rates)

    def _changing(self) -> list[Tensor]:
        """All that a step changes."""
        optimizers = [group.optimizer for group in self.groups]
        own = [one for optimizer in optimizers for one in (*optimizer.parameters, *optimizer.tensors())]
        return [*own, *self.buffers.values(), *self.loss.parameters(), *self.loss.buffers(), self.total]

    def _changed(self, batch: Batch, epochs: Sequence[Epoch], part: slice, number: int) -> Batch:
        """Augment all members' samples at once, each as its own generator said; (M, B, ...)."""
        drawn = [epoch.draws.at(part) for epoch in epochs if epoch.draws is not None]
        count = len(batch.inputs) // len(self.members)
        noises = [plan.noise(number, self.step, count) for plan in self.plans]
        noise = torch.cat([one for one in noises if one is not None]) if noises[0] is not None else None
        batch = changed(batch, self.setting, Draws.together(drawn) if drawn else None, noise)
        batch = self._mixed(batch, count, number)
        return Batch(
            *(
                None if one is None else one.reshape(len(self.members), count, *one.shape[1:])  # type: ignore[arg-type]  # inputs and targets are there
                for one in batch
            )
        )

    def _mixed(self, batch: Batch, count: int, number: int) -> Batch:
        """Mix each member's samples with one another."""
        if not self.recipe.mixes and batch.soft is None:
            return batch
        none = [None] * len(self.plans)
        fields = (none if one is None else torch.split(one, count) for one in batch)
        own = [
            plan.mixed(Batch(*parts), number, self.step)
            for plan, *parts in zip(self.plans, *fields, strict=True)
        ]
        joined = Batch(*(None if some[0] is None else torch.cat(some) for some in zip(*own, strict=True)))  # type: ignore[arg-type]  # inputs and targets are there
        return joined._replace(inputs=channels_last(joined.inputs))

    def _masks(self, number: int, count: int) -> dict[str, Tensor]:
        """Draw all members' dropout masks of a step on ``count`` samples each."""
        full = self.plans[0].batch
        sites = [replace(one, shape=(one.shape[0] * count // full, *one.shape[1:])) for one in self.sites]
        drawn = [draw_masks(sites, plan.dropout_seed(number, self.step), self.device) for plan in self.plans]
        stacked = [torch.stack(list(masks)) for masks in zip(*drawn, strict=True)]
        return {f"{site.name}.mask": mask for site, mask in zip(sites, stacked, strict=True)}

    def _parameters(self) -> dict[str, Tensor]:
        """All members' parameters, (M, ...), in the graph of their groups' stacks."""
        stacks = [group.optimizer.parameters for group in self.groups]
        joined = (
            stacks[0] if len(stacks) == 1 else [torch.cat(list(same)) for same in zip(*stacks, strict=True)]
        )
        return dict(zip(self.names, joined, strict=True))

    def _losses(self, batch: State, masks: State) -> tuple[Tensor, Tensor]:
        """(M,) losses of each member on its own batch, and (M,) with the L1 penalty where there is one."""
        parameters = self._parameters()

        def one(
            weights: State, buffers: State, masks: State, inputs: Tensor, targets: Tensor, extra: State
        ) -> Tensor:
            with precision(self.setting.compute):
                outputs = functional_call(self.skeleton, {**weights, **buffers, **masks}, (inputs,))
            return self.setting.task.objective(self.loss, outputs.float(), targets, inputs, **extra)

        extra = {name: one for name, one in batch.items() if name not in ("inputs", "targets")}
        given = (batch["inputs"], batch["targets"], extra)
        value: Tensor = vmap(one)(parameters, self.buffers, masks, *given)
        if not self.recipe.l1:
            return value, value
        weights = [one.abs().flatten(1).sum(1) for one in parameters.values() if one.ndim > 2]
        return value, value + self.recipe.l1 * torch.stack(weights).sum(0)

    def _update(self, total: Tensor, rates: Sequence[float | Tensor]) -> None:
        for group in self.groups:
            group.optimizer.zero_grad()
        total.sum().backward()  # type: ignore[no-untyped-call]  # torch's own
        for group, rate in zip(self.groups, rates, strict=True):
            if self.recipe.gradient_clip is not None:
                clip_each(group.optimizer.parameters, self.recipe.gradient_clip)
            group.optimizer.step(rate)

    @torch.no_grad()
    def _validate(self) -> list[tuple[dict[str, float], bool]]:
        """Each member's scores, and whether its outputs are finite."""
        self.skeleton.eval()
        plan, weights = self.plans[0], {**self._parameters(), **self.buffers}
        shared = self.setting.pool is None

        def one(weights: State, inputs: Tensor) -> Tensor:
            with precision(self.setting.compute):
                outputs: Tensor = functional_call(self.skeleton, weights, (inputs,))
            return outputs.float()

        forward = vmap(one, in_dims=(0, None if shared else 0))
        task, members = self.setting.task, range(len(self.members))
        finite = torch.ones(len(self.members), dtype=torch.bool, device=self.device)
        digests: list[list[Tensor]] = [[] for _ in members]
        for index in parts(len(plan.validation), at_once(task)):
            if shared:
                own = [plan.validation.take(index)] * len(self.members)
                outputs = forward(weights, own[0].inputs)
            else:
                own = [one.validation.take(index) for one in self.plans]
                outputs = forward(weights, torch.stack([one.inputs for one in own]))
            finite &= torch.isfinite(outputs).flatten(1).all(1)
            for i in members:
                digests[i].append(task.score_digest(outputs[i], own[i].targets, own[i].inputs))
        truth = plan.validation.truth() if shared else None
        scores = [
            task.validate(torch.cat(digests[i]), self.plans[i].validation.truth() if truth is None else truth)
            for i in members
        ]
        return list(zip(scores, finite.tolist(), strict=True))

    def _try(self, batch: Batch) -> None:
        """Refuse at once what cannot be vectorised, before an epoch is spent on it."""
        members = len(self.members)
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        shown = {"inputs": batch.inputs, "targets": batch.targets, **batch.extra}
        wide = {name: one.expand(members, *one.shape) for name, one in shown.items()}
        self.skeleton.train()
        try:
            self._losses(wide, self._masks(1, len(batch.inputs)))[1].sum().backward()  # type: ignore[no-untyped-call]  # torch's own
        except (RuntimeError, NotImplementedError) as error:
            if of_the_device(error) is not None or NO_MEMORY.search(str(error)):
                raise
            raise UserError(
                f"'compute.engine' is 'population', which cannot train this loss with this model "
                f"({str(error).splitlines()[0]}); allowed: loop"
            ) from error
        for group in self.groups:
            group.optimizer.zero_grad()
        self.buffers = buffers

    def _state(self, i: int) -> State:
        """Copy one member's weights and buffers, named and ordered as in its model."""
        with torch.no_grad():
            own = {**self._parameters(), **self.buffers}
            return {name: own[name][i].detach().clone() for name in self.kept}

    def _save_or_stop(self) -> None:
        due = self.checkpoint is not None and self.checkpoint.due
        if self.checkpoint is not None and (due or self.interruption.asked):
            self.checkpoint.save(self._content())
        if self.interruption.asked:
            raise SystemExit(EXIT_CODE)

    def _content(self) -> dict[str, Any]:
        return {
            "parameters": [[one.detach() for one in group.optimizer.parameters] for group in self.groups],
            "optimizers": [group.optimizer.state() for group in self.groups],
            "buffers": self.buffers,
            "progress": [one.content() for one in self.progress],
            "final": self.final,
            "step": self.step,
            "total": self.total,
        }

    @torch.no_grad()
    def _restore(self) -> None:
        content = None if self.checkpoint is None else self.checkpoint.load()
        if content is None:
            return
        for group, parameters, state in zip(
            self.groups, content["parameters"], content["optimizers"], strict=True
        ):
            for own, saved in zip(group.optimizer.parameters, parameters, strict=True):
                own.copy_(saved)
            group.optimizer.restore(state)
        self.buffers = content["buffers"]
        self.progress = [Progress.restored(one) for one in content["progress"]]
        self.final, self.step, self.total = content["final"], content["step"], content["total"]

    def replicates(self, seconds: float) -> list[Replicate]:
        """Hand over the kept weights, in the order the members were given in."""
        made: dict[int, Replicate] = {}
        for place, member, progress, state in zip(
            self.places, self.members, self.progress, self.final, strict=True
        ):
            epoch = progress.epoch if progress.best_state is None else progress.best_epoch
            history = tuple(progress.history)
            made[place] = Replicate(
                member.seed, on_cpu(state or {}), history, epoch, progress.diverged, seconds
            )
        return [made[place] for place in range(len(self.members))]


def _lay_out_for_norms(skeleton: nn.Module) -> None:
    """Hand batch norms float32, laid out plainly: cuDNN's convolutions put channels last.

    Within vmap torch's batch norm asks on CUDA whether they are, which is not implemented there; and
    without that it takes no bfloat16 beside float32 statistics.
    """
    for module in skeleton.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(lambda _, given: (given[0].float().contiguous(), *given[1:]))


def clip_each(parameters: Sequence[Tensor], most: float) -> None:
    """Scale each member's gradients to a norm of at most ``most``, as ``clip_grad_norm_`` does for one."""
    gradients = [one.grad for one in parameters if one.grad is not None]
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    scale = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
