"""What is measured beside training: how long an epoch takes, what a step keeps, what constants reach."""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from statistics import median

import torch

from lossbench.losses.schedules import is_learned, is_scheduled
from lossbench.recipe import Optimizer as OptimizerParams
from lossbench.training.determinism import precision
from lossbench.training.interruption import Interruption
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.mixing import mixed, trains_on_distributions
from lossbench.training.optimization import make_optimizer
from lossbench.training.portions import channels_last, parts
from lossbench.training.setting import Setting

STEPS = 6
SECONDS = 5.0
"""After which no further step is waited for."""
FORWARD = 1 / 3
"""Of a training step's time that predicting as many samples takes."""


class _Stopwatch(Interruption):
    """Asks for an end after some steps, and notes when each was over."""

    def __init__(self) -> None:
        self.marks = [time.perf_counter()]

    @property
    def asked(self) -> bool:  # type: ignore[override]  # looked at after each step, as the attribute is
        """Whether there were steps enough."""
        self.marks.append(time.perf_counter())
        return len(self.marks) > STEPS or self.marks[-1] - self.marks[0] > SECONDS


def seconds_per_epoch(setting: Setting, member: Member) -> float:
    """Train a few steps and tell from them how long an epoch takes, validation included."""
    watch = _Stopwatch()
    with suppress(SystemExit):  # how training ends when it is asked to
        train_replicate(setting, member, interruption=watch)
    took = [after - before for before, after in zip(watch.marks, watch.marks[1:], strict=False)]
    step = median(took[1:] or took)
    batch = min(setting.recipe.batch_size, len(setting.train))
    samples = len(setting.train) + FORWARD * len(setting.validation)
    return step * samples / batch


@torch.no_grad()
def validation_loss(setting: Setting, member: Member, state: Mapping[str, torch.Tensor]) -> float | None:
    """Mean of the member's own loss over the validation samples: what breaks ties between points of a search.

    Points of one arm share a loss, so that its values may be compared; numbers that change have their last
    value. Weights and soft labels are left out, as of all that is measured on validation samples. None where
    it is not finite, and of a sum with learned weights, which every point has of its own.
    """
    loss, model = setting.loss_of(member), setting.model_of(member.seed)
    if loss.learned:
        return None
    portion, task, device = setting.division(member.seed)[1], setting.task, setting.compute.device
    model.load_state_dict({name: value.to(device) for name, value in state.items()})
    model.eval()
    total = 0.0
    for batch in portion.batches(parts(len(portion), setting.recipe.batch_size)):
        outputs = model(channels_last(batch.inputs)).float()
        extra = {} if batch.auxiliary is None else {"auxiliary": batch.auxiliary}
        value = task.objective(loss, outputs, batch.targets, batch.inputs, **extra)
        total += float(value) * len(batch.targets)
    mean = total / len(portion)
    return mean if math.isfinite(mean) else None


def kept_bytes(setting: Setting, member: Member) -> int:
    """Bytes that a training step keeps for its backward pass, weights left out: what a loss adds to memory.

    The same on every machine, unlike the peak of a process, which holds what the C library did not give back.
    """
    loss, model = setting.loss_of(member), setting.model_of(member.seed)
    train = setting.train
    taken = train.take(torch.arange(min(setting.recipe.batch_size, len(train))))
    batch = mixed(taken, setting.recipe, setting.task, member.seed, 0, 0)
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(saved: torch.Tensor) -> torch.Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved), precision(setting.compute):
        outputs = model(channels_last(batch.inputs))
        # Bound to a name, the graph lives on: no two of its tensors share an address.
        value = setting.task.objective(loss, outputs.float(), batch.targets, batch.inputs, **batch.extra)
    del value
    return sum(kept.values())


CONSTANT_STEPS = 60
CONSTANT_RATE = 0.1
"""Of Adam's steps."""
NUMBERS = 2**20
"""Of the outputs that a constant is fitted on, at most."""


def constant_loss(setting: Setting, member: Member) -> float | None:
    """Find what the best constant logits reach under the member's loss, on part of the training targets.

    An arm whose training ends above it has learnt less than the classes' shares. None where outputs are not
    one logit a class, and for a loss that changes or is learned: it may end as another one than this.
    """
    task, spec = setting.task, member.loss or setting.loss
    if not task.has_prior or is_scheduled(spec) or is_learned(spec):
        return None
    loss, train = setting.loss_of(member), setting.train
    size = min(setting.recipe.batch_size, len(train))
    each = task.outputs * max(1, train.take(torch.arange(1)).targets[0].numel())
    count = max(1, min(len(train), 4 * size, NUMBERS // each))
    rows = torch.linspace(0, len(train) - 1, count).long()
    batches = [
        mixed(train.take(part), setting.recipe, task, member.seed, 0, step)
        for step, part in enumerate(torch.split(rows, size))
    ]
    counts = torch.tensor(task.class_counts, dtype=torch.float32).clamp_min(1.0)
    logits = (counts / counts.sum()).log().to(setting.compute.device).requires_grad_()
    optimizer = make_optimizer([logits], OptimizerParams(name="adam"))
    best = float("inf")
    for _ in range(CONSTANT_STEPS):
        total = torch.zeros((), device=logits.device)
        for batch in batches:
            targets = batch.targets
            per_class = task.multilabel or trains_on_distributions(setting.recipe, task)
            spatial = targets.shape[2:] if per_class else targets.shape[1:]
            shape = (len(targets), task.outputs, *spatial)
            outputs = logits.view(1, -1, *[1] * len(spatial)).expand(shape)
            value = task.objective(loss, outputs, targets, batch.inputs, **batch.extra)
            total = total + value * len(targets) / count
        best = min(best, float(total.detach()))
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step(CONSTANT_RATE)
    return best
