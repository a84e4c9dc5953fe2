"""A loss: shown outputs of the shape that the model gives, beside real targets."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbench.errors import UserError
from lossbench.losses.base import Loss
from lossbench.losses.building import build
from lossbench.losses.foreign import Foreign
from lossbench.plugins import asked_to_end
from lossbench.training.mixing import mixed
from lossbench.training.portions import Batch
from lossbench.training.setting import check_weights, loss_context
from lossbench.trial.advice import tell_of_waits
from lossbench.trial.generators import seeded, seeds
from lossbench.trial.model import SAME
from lossbench.trial.shared import MISFIT, Trial, as_trained, brief, device_fault, sized, some, told

LARGE = 2**22
"""Numbers in a sample's outputs from which on one sample is shown to the losses, not two."""


def build_loss(trial: Trial, name: str, spec: Any) -> Loss:
    """Build a loss as training does."""
    recipe = trial.experiment.recipe
    with told(trial.where):
        made = build(spec, loss_context(trial.task, recipe), f"losses.{name}")
        check_weights(recipe, trial.task, made, f"losses.{name}")
        return made


def show(trial: Trial, name: str, made: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Take a loss forwards and backwards.

    Raises:
        UserError: if it does not fit outputs and targets, or is none.

    """
    count = 1 if outputs[0].numel() > LARGE else len(trial.samples)
    device = trial.compute.device
    task, targets = trial.task, targets[:count]
    made = made.to(device)
    own = any(isinstance(one, Foreign) for one in made.modules())
    if own:
        _refuse_untrained(trial, name, made)

    def shown() -> Batch:
        maps = made.prepare(task.loss_target(targets), task.loss_classes) if made.auxiliary else None
        given = (trial.samples[:count], targets, maps, some(trial.weights, count), some(trial.soft, count))
        batch = Batch(*(None if one is None else one.to(device, copy=True) for one in given))  # type: ignore[arg-type]  # inputs and targets are there
        return mixed(batch, trial.experiment.recipe, task, 0, 1, 0)

    def drawn(logits: Tensor, batch: Batch | None = None) -> Tensor:
        batch = batch or shown()
        given = {
            "logits": logits.clone(),
            **{of: one for of, one in batch._asdict().items() if one is not None},
        }
        seen = {of: one._version for of, one in given.items()}
        with as_trained(trial), told(trial.where):
            value: Tensor = task.objective(made, given["logits"], batch.targets, batch.inputs, **batch.extra)
        _refuse_changes(trial, name, [of for of, one in given.items() if one._version != seen[of]])
        return value

    def value_of(logits: Tensor, batch: Batch | None = None) -> Tensor:
        with seeded(0):
            return drawn(logits, batch)

    try:
        logits = torch.zeros(count, *outputs.shape[1:], requires_grad=True, device=device)
        value = value_of(logits)
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]  # torch's own
        if logits.grad is None:
            raise UserError(
                f"{trial.where}: no gradient leads from what loss '{name}' returns to the logits; "
                "allowed: a value that depends on them, without detach, a comparison or NumPy"
            )
        if own:
            try_own(trial, name, logits, value_of)
            if (whose := seeds(lambda: drawn(logits))) is not None:
                raise UserError(
                    f"{trial.where}: loss '{name}' seeds {whose} generator, so that each step and seed would "
                    "draw the same numbers; allowed: draws from torch's generator as it finds it"
                )
        if device == "cuda":
            made.check, batch = "never", shown()  # as in training: targets have been looked at

            def step() -> None:
                value_of(logits, batch).backward()  # type: ignore[no-untyped-call]  # torch's own

            tell_of_waits(f"{trial.where}: loss '{name}'", trial.compute, step)
    except UserError:
        raise
    except BaseException as error:  # a loss of one's own may raise anything
        if asked_to_end(error):
            raise
        if not own and not isinstance(error, MISFIT):
            raise
        raise device_fault(trial, error, f"{trial.where}: loss '{name}'") or UserError(
            f"{trial.where}: {trial.whose} puts out {sized(outputs)} a sample, which task '{task.name}' "
            f"cannot show to loss '{name}' beside its targets: {brief(error)}"
        ) from None


def _refuse_changes(trial: Trial, name: str, changed: Sequence[str]) -> None:
    """Refuse a loss that writes into what it is shown: the other losses of a sum are shown it, too."""
    if changed:
        raise UserError(
            f"{trial.where}: loss '{name}' changes its {changed[0]} in place, which others are shown after "
            "it; allowed: new tensors (clamp, not clamp_; target.clone() before target[...] = ...)"
        )


def _refuse_untrained(trial: Trial, name: str, made: Loss) -> None:
    """Refuse weights within a loss of the user's own: the optimizer has the model's alone."""
    for foreign in (one for one in made.modules() if isinstance(one, Foreign)):
        learns = (of for of, weight in foreign.named_parameters() if weight.requires_grad)
        if (weight := next(learns, None)) is not None:
            raise UserError(
                f"{trial.where}: loss '{name}' has a weight of its own ('{weight.rpartition('.')[2]}'), "
                "which nothing would train: the optimizer has the model's alone; allowed: a buffer, "
                "'requires_grad=False', or a weight of the model"
            )


def try_own(trial: Trial, name: str, like: Tensor, value_of: Callable[[Tensor], Tensor]) -> None:
    """Try a loss of the user's own on two equal batches: what it remembers would be another's next time.

    A replicate that goes on after a crash begins with a new loss, and workers train one after another.
    """
    found = []
    for _ in range(2):
        logits = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like.device)
        value = value_of(logits.requires_grad_())
        value.backward()  # type: ignore[no-untyped-call]  # torch's own
        assert logits.grad is not None  # noqa: S101  # it has just been made
        steep = bool(torch.isfinite(logits.grad).all())
        if not (steep and bool(torch.isfinite(value))):
            raise UserError(
                f"{trial.where}: loss '{name}' is {value.item():g} on random logits, with "
                f"{'a' if steep else 'no'} finite gradient; allowed: finite numbers"
            )
        found.append(value.item())
    if not math.isclose(*found, rel_tol=SAME, abs_tol=SAME):
        raise UserError(
            f"{trial.where}: loss '{name}' is {found[0]:g}, then {found[1]:g} for the same logits and "
            "targets: it remembers its calls, or draws from Python's or NumPy's generator; allowed: a "
            "function of logits, targets and torch's generator alone"
        )
