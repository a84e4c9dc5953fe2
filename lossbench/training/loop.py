"""The reference: one replicate, from initialisation to its kept weights, top to bottom."""

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.training.checkpoint import Checkpoint
from lossbench.training.determinism import deterministic, precision
from lossbench.training.graphs import Steps, hindrance
from lossbench.training.group import ALONE, Group
from lossbench.training.interruption import EXIT_CODE, Interruption
from lossbench.training.member import Member
from lossbench.training.optimization import Optimizer, l1_penalty, make_optimizer, make_weighing, rate_factor
from lossbench.training.portions import at_once, channels_last, joined, parts
from lossbench.training.progress import Progress
from lossbench.training.replicate import Replicate
from lossbench.training.samples import Plan, changed
from lossbench.training.setting import Setting

Emit = Callable[[tuple[int, dict[str, float]]], None]
UNPRINTED = re.compile(r"[^\w.-]")
"""What the name of a metric cannot hold, and that of a sum's part may."""


def train_replicate(
    setting: Setting,
    member: Member,
    emit: Emit = lambda _: None,
    checkpoint: Checkpoint | None = None,
    interruption: Interruption | None = None,
    group: Group = ALONE,
) -> Replicate:
    """Train one replicate.

    Args:
        setting: the arm.
        member: the seed, and what it has of its own.
        emit: told (epoch, values) after each epoch.
        checkpoint: where an interrupted training left its state, and leaves it again.
        interruption: looked at between steps; the state is written, then SystemExit raised.
        group: the processes that train it together, each calling this; the leading one has the checkpoint.

    """
    began = time.perf_counter()
    with deterministic(setting.compute):
        run = _Run(setting, member, checkpoint, interruption or Interruption(), group)
        while not run.progress.over(run.recipe):
            emit((run.progress.epoch + 1, run.epoch()))
        return run.replicate(time.perf_counter() - began)


class _Run:
    """One replicate on its way."""

    def __init__(
        self,
        setting: Setting,
        member: Member,
        checkpoint: Checkpoint | None,
        interruption: Interruption,
        group: Group,
    ) -> None:
        self.setting, self.member, self.group = setting, member, group
        self.checkpoint, self.interruption = checkpoint, interruption
        self.recipe = setting.recipe_of(member)
        self.loss = setting.loss_of(member)
        self.plan = Plan(setting, member.seed)
        self.model = setting.model_of(member.seed)
        self.optimizer = make_optimizer(list(self.model.parameters()), self.recipe.optimizer)
        self.weighing = make_weighing(self.loss, self.recipe.optimizer)
        self.progress = Progress()
        self.step = 0
        self.total = torch.zeros((), dtype=torch.float64, device=setting.compute.device)
        self.steps = Steps(
            self._step,
            self._state,
            setting.compute,
            hindrance(setting, [member], self.model, self._optimizers),
        )
        self._restore()

    @property
    def _optimizers(self) -> list[Optimizer]:
        return [self.optimizer] if self.weighing is None else [self.optimizer, self.weighing]

    def epoch(self) -> dict[str, float]:
        """Train one epoch (or what is left of it), validate, note; return ``split/metric`` → value."""
        self._train()
        self.group.see_alike(self.model)
        values, finite = self.group.agreed(self._measured)
        keep = self._copy if self.recipe.checkpoint == "best" and self.group.leads else None
        self.progress.note(values, self.setting.task.monitor, finite, keep)
        self.step = 0
        self.total.zero_()
        self._save_or_stop()
        return values

    def _measured(self) -> tuple[dict[str, float], bool]:
        """Say how an epoch went, and whether loss and outputs were finite."""
        values = {"train/loss": (self.total / self.plan.per_epoch).item()}
        finite = math.isfinite(values["train/loss"])
        for name, weight in self.loss.weights_learned().items():
            values[f"train/weight_of_{UNPRINTED.sub('_', name)}"] = weight
        if finite:
            scores, finite = self._validate()
            values |= {f"validation/{name}": value for name, value in scores.items()}
        return values, finite

    def _train(self) -> None:
        number = self.progress.epoch + 1
        self.loss = self.setting.loss_during(number, self.member, self.loss)
        epoch = self.plan.epoch(number)
        left = [self.plan.slice(step) for step in range(self.step, self.plan.per_epoch)]
        steps = self.recipe.epochs * self.plan.per_epoch
        self.model.train()
        for part, batch in zip(
            left, self.plan.train.batches([epoch.order[one] for one in left]), strict=True
        ):
            draws = None if epoch.draws is None else epoch.draws.at(part)
            noise = self.plan.noise(number, self.step, len(batch.inputs))
            given = self.plan.transformed(changed(batch, self.setting, draws, noise), number, self.step)
            shown = self.plan.mixed(given, number, self.step)
            done = (number - 1) * self.plan.per_epoch + self.step
            factor = rate_factor(self.recipe.schedule, done, steps, self.plan.per_epoch)
            self.steps(
                {"inputs": shown.inputs, "targets": shown.targets, **shown.extra},
                [self.recipe.optimizer.learning_rate * factor],
                self.plan.dropout_seed(number, self.step),
            )
            self.step += 1
            self._save_or_stop()

    def _step(self, given: Mapping[str, Tensor], rates: Sequence[float | Tensor]) -> None:
        """Take a step on a batch: inputs, targets, and what else a loss is shown."""
        inputs, targets = given["inputs"], given["targets"]
        extra = {name: one for name, one in given.items() if name not in ("inputs", "targets")}
        with precision(self.setting.compute):
            outputs = self.group.outputs(self.model, channels_last(inputs))
        value = self.setting.task.objective(self.loss, outputs.float(), targets, inputs, **extra)
        self.total += value.detach()
        self._update(value, rates[0])

    def _update(self, value: Tensor, rate: float | Tensor) -> None:
        if self.recipe.l1 and self.group.leads:  # once, where the processes' gradients are summed
            value = value + self.recipe.l1 * l1_penalty(self.model)
        optimizers = self._optimizers
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.group.backward(value)
        self.group.sum_gradients(self.model.parameters())
        if self.recipe.gradient_clip is not None:
            # One after another: all at once they copy addresses from the host, which a graph cannot hold.
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip, foreach=False)
        for optimizer in optimizers:
            optimizer.step(rate)

    def _state(self) -> list[Tensor]:
        """All that a step changes."""
        modules = (self.model, self.loss)
        own = [one for module in modules for one in (*module.parameters(), *module.buffers())]
        return [*own, *(one for optimizer in self._optimizers for one in optimizer.tensors()), self.total]

    @torch.no_grad()
    def _validate(self) -> tuple[dict[str, float], bool]:
        """Scores of the validation samples, and whether all their outputs were finite."""
        self.model.eval()
        task, portion, finite = self.setting.task, self.plan.validation, True

        def digests() -> Iterator[Tensor]:
            nonlocal finite
            for batch in portion.batches(parts(len(portion), at_once(task))):
                with precision(self.setting.compute):
                    outputs = self.model(batch.inputs).float()
                finite = finite and bool(torch.isfinite(outputs).all())
                yield task.score_digest(outputs, batch.targets, batch.inputs)
                self._stop_if_asked()

        return task.validate(joined(digests(), len(portion)), portion.truth()), finite

    def _save_or_stop(self) -> None:
        if self.checkpoint is not None and self.checkpoint.due:
            self.checkpoint.save(self._content())
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if not self.interruption.asked:
            return
        if self.checkpoint is not None:
            self.checkpoint.save(self._content())
        raise SystemExit(EXIT_CODE)

    def _content(self) -> dict[str, Any]:
        # No generator's state: every epoch and step seeds its own.
        learned: dict[str, Any] = {}
        if self.weighing is not None:
            learned["learned"] = [one.detach() for one in self.loss.learned]
            learned["weighing"] = self.weighing.state()
        return {
            **learned,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state(),
            "progress": self.progress.content(),
            "step": self.step,
            "total": self.total,
        }

    def _restore(self) -> None:
        content = self.group.agreed(lambda: None if self.checkpoint is None else self.checkpoint.load())
        if content is None:
            return
        self.model.load_state_dict(content["model"])
        self.optimizer.restore(content["optimizer"])
        if self.weighing is not None:
            with torch.no_grad():
                for own, saved in zip(self.loss.learned, content["learned"], strict=True):
                    own.copy_(saved)
            self.weighing.restore(content["weighing"])
        self.progress = Progress.restored(content["progress"])
        self.step = content["step"]
        self.total = content["total"]

    def _copy(self) -> dict[str, Tensor]:
        return copy.deepcopy(self.model.state_dict())

    def replicate(self, seconds: float) -> Replicate:
        """Hand over the kept weights."""
        best = self.progress.best_state
        kept = on_cpu(self.model.state_dict() if best is None else best)
        epoch = self.progress.epoch if best is None else self.progress.best_epoch
        history = tuple(self.progress.history)
        return Replicate(self.member.seed, kept, history, epoch, self.progress.diverged, seconds)


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights to the CPU, laid out as safetensors wants them."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
