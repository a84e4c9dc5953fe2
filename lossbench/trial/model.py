"""The model: forwards and backwards on two samples, and made again from its seed and its kept weights.

Small samples go through the model itself. Large ones go through it on torch's meta device, which knows shapes
and no numbers, and takes no memory; it takes seconds to load, though.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lossbench.errors import GateError, UserError
from lossbench.models.base import build as build_model
from lossbench.plugins import asked_to_end, is_path
from lossbench.recipe import RECURRENT_WORKSPACES, WORKSPACE
from lossbench.tasks.base import Task
from lossbench.training.determinism import SWITCH, precision, recurrent_in_float32
from lossbench.training.optimization import make_optimizer
from lossbench.training.setting import is_pretrained
from lossbench.trial.advice import tell_of_equal_weights, tell_of_stacking, tell_of_waits
from lossbench.trial.generators import seeded, seeds
from lossbench.trial.shared import MISFIT, Trial, as_trained, brief, device_fault, sized, told

POSITIONS = 2**15
"""Positions of a sample up to which the model computes for real: the meta device costs as much."""
SAME = 1e-4
"""By how much, relatively, what should be the same may differ: kernels may be chosen anew."""


def try_model(trial: Trial) -> Tensor:
    """Run the model forwards and backwards; its outputs, for two samples, without numbers.

    Raises:
        UserError: if it cannot take the samples, or the last batch of an epoch.

    """
    device = "cpu" if int(np.prod(trial.shape[1:])) <= POSITIONS else "meta"
    if trial.compute.device == "cuda":  # it alone knows what has no deterministic form there
        device = "cuda"
    try:
        model, outputs = _built_and_tried(trial, device)
    except (NotImplementedError, UserError):
        if device != "meta":
            raise
        # It lacks operations, and refuses values: .item(), a condition, a constant that lies elsewhere.
        device = "cpu"
        model, outputs = _built_and_tried(trial, device)
    if device == "cuda":
        _advise(model, trial)
    if trial.last == 1:
        try:
            _forward(model.train(), trial, device, 1)
        except MISFIT as error:
            if (fault := device_fault(trial, error)) is not None:
                raise fault from error
            recipe = trial.experiment.recipe
            raise UserError(
                f"{trial.where}: 'recipe.batch_size' is {recipe.batch_size}, which leaves one sample for an "
                f"epoch's last batch, and {trial.whose} cannot train on one (batch norm needs more than one "
                "value a channel); say 'recipe.drop_last: true', or another batch_size"
            ) from None
    return outputs


def _built_and_tried(trial: Trial, device: str) -> tuple[nn.Module, Tensor]:
    """Build the model, and run it; with its outputs.

    Raises:
        UserError: whatever a network of the user's own raises, and an operation that the processor has not.
        NotImplementedError: an operation that the meta device has not.

    """
    try:
        with told(trial.where), as_trained(trial):
            model = _model(trial, device)
            if device == "cuda":
                _check_recurrent(model)
        return model, _step(model, trial, device)
    except (UserError, GateError):
        raise
    except BaseException as error:
        lacking = isinstance(error, NotImplementedError) and device != "meta"
        if asked_to_end(error) or not (lacking or is_path(trial.experiment.model.name)):
            raise
        raise device_fault(trial, error) or UserError(
            f"{trial.where}: {trial.whose} fails: {brief(error)}"
        ) from error


def _advise(model: nn.Module, trial: Trial) -> None:
    """Say what a step on the GPU costs that need not be."""
    inputs = _batch(trial, "cuda", 2)
    who, recipe = f"{trial.where}: {trial.whose}", trial.experiment.recipe

    def step() -> None:
        with precision(trial.compute):
            outputs = model(inputs)
        outputs.float().sum().backward()

    model.train()
    with as_trained(trial):
        tell_of_waits(who, trial.compute, step)
        if trial.compute.engine == "population":
            tell_of_stacking(who, recipe.batch_size, len(inputs), step)


def _model(trial: Trial, device: str, seed: int = 0) -> nn.Module:
    with seeded(seed):
        return _drawn_model(trial, device)


def _drawn_model(trial: Trial, device: str) -> nn.Module:
    """Build the model with weights of torch's generator as it is."""
    with _shapes_alone(device):
        shape = trial.built_for or trial.shape
        model = build_model(trial.experiment.model, shape, trial.task.outputs).train()
    # As training does: what a model makes elsewhere than in parameters and buffers stays where it was made.
    return recurrent_in_float32(model if device == "meta" else model.to(device), trial.compute)


def _shapes_alone(device: str) -> AbstractContextManager[Any]:
    """Make all tensors on the meta device, where that is tried; on another they lie where the model says."""
    return torch.device(device) if device == "meta" else nullcontext()


def _step(model: nn.Module, trial: Trial, device: str) -> Tensor:
    """Train and predict once; the training outputs for two samples.

    Raises:
        UserError: for what the model cannot take, or what cannot be trained, kept or scored.

    """
    before = _kept(model, trial)
    try:
        with seeded(0), _shapes_alone(device), as_trained(trial):
            outputs = _forward(model, trial, device, 2).float()
            if not outputs.requires_grad:
                raise UserError(
                    f"{trial.where}: {trial.whose} cannot learn: no gradient leads from its outputs to a "
                    "weight; allowed: logits that depend on weights, without detach or NumPy"
                )
            outputs.backward(torch.zeros_like(outputs))  # type: ignore[no-untyped-call]  # torch's own
            if is_path(trial.experiment.model.name):
                _refuse_untrainable(model, trial, device)
            with torch.no_grad():
                predicted = {count: _forward(model.eval(), trial, device, count) for count in (2, 1)}
    except (NotImplementedError, UserError):  # the caller tells them apart
        raise
    except BaseException as error:  # a network of one's own may raise anything
        if asked_to_end(error):
            raise
        if not isinstance(error, MISFIT) and not is_path(trial.experiment.model.name):
            raise
        where = f" in 'compute.precision: {trial.compute.precision}'" if _is_rounded(trial, device) else ""
        raise device_fault(trial, error) or UserError(
            f"{trial.where}: {trial.whose} fails{where}: {brief(error)}"
        ) from error
    for count, some in predicted.items():
        if some.shape[1:] != outputs.shape[1:]:
            raise UserError(
                f"{trial.where}: {trial.whose} puts out {sized(outputs)} a sample in training, but "
                f"{sized(some)} in evaluation mode, of a batch of {count}; expected the same"
            )
    after = _kept(model, trial)
    if changed := sorted(name for name in {*before, *after} if before.get(name) != after.get(name)):
        raise UserError(
            f"{trial.where}: {trial.whose} makes or resizes '{changed[0]}' while it runs, which kept weights "
            "cannot be put into; make it in __init__, of the size that it keeps"
        )
    if is_path(trial.experiment.model.name):
        _refuse_seeding(trial, device)
        if device != "meta":
            try_again(model, trial, device, outputs.detach())
    return outputs.detach()


def _refuse_untrainable(model: nn.Module, trial: Trial, device: str) -> None:
    """Refuse weights that the optimizer or the engine cannot train, or would train against their will."""
    named = dict(model.named_parameters())
    frozen = next((name for name, one in named.items() if not one.requires_grad), None)
    if frozen is not None and trial.compute.engine == "population":
        raise UserError(
            f"{trial.where}: {trial.whose} has a weight that is not to be trained ('{frozen}'), but "
            "'compute.engine' is 'population', which trains all; allowed: a buffer, or engine: loop"
        )
    odd = [name for name, one in named.items() if one.requires_grad and _odd(one)]
    if odd and device == "meta":
        raise NotImplementedError("whether an optimizer trains such weights is tried on the CPU instead")
    if device == "meta":
        return
    recipe = trial.experiment.recipe
    try:
        if recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(named.values(), recipe.gradient_clip, foreach=False)
        make_optimizer(list(named.values()), recipe.optimizer).step(0.0)
    except (*MISFIT, NotImplementedError) as error:
        if not odd:
            raise
        what = f"{_dtype(named[odd[0]])} numbers"
        if named[odd[0]].is_floating_point():
            what = "sparse gradients"
        raise UserError(
            f"{trial.where}: {trial.whose} has a weight with {what} ('{odd[0]}'), which optimizer "
            f"'{recipe.optimizer.name}' cannot train; allowed: floating-point numbers with dense gradients"
        ) from error


def _odd(weight: Tensor) -> bool:
    return not weight.is_floating_point() or (weight.grad is not None and weight.grad.is_sparse)


def _dtype(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _refuse_seeding(trial: Trial, device: str) -> None:
    """Refuse a network of the user's own that seeds what every replicate's seed should decide."""

    def used() -> None:
        _forward(_drawn_model(trial, device), trial, device, 2)

    with torch.no_grad(), as_trained(trial):
        whose = seeds(used)
    if whose is not None:
        raise UserError(
            f"{trial.where}: {trial.whose} seeds {whose} generator itself, so that all seeds would draw "
            "the same numbers; allowed: what is drawn comes from torch's generator as it finds it"
        )


def try_again(used: nn.Module, trial: Trial, device: str, outputs: Tensor) -> None:
    """Refuse a network that its seed or its kept weights do not make again.

    Args:
        used: built with seed 0, and used once.
        trial: of an experiment with a network of the user's own.
        device: where it is.
        outputs: its first, in training.

    """
    again = _model(trial, device)
    if {id(one) for one in used.parameters()} & {id(one) for one in again.parameters()}:
        raise _refused(
            trial, "is one network however often it is made: a replicate would begin as another ended"
        )
    with torch.no_grad(), seeded(0), _shapes_alone(device), as_trained(trial):
        alike = _alike(_forward(again, trial, device, 2).float(), outputs)
    if not alike:
        raise _refused(trial, "puts out other numbers when it is made again with the same seed")
    other = _model(trial, device, 1)
    weights = zip(again.parameters(), other.parameters(), strict=True)
    if not is_pretrained(trial.experiment.model) and all(torch.equal(one, two) for one, two in weights):
        tell_of_equal_weights(f"{trial.where}: {trial.whose}")
    other.load_state_dict(used.state_dict())
    with torch.no_grad(), _shapes_alone(device), as_trained(trial):
        made = []
        for model in (used, other):
            with seeded(0):
                made.append(_forward(model.eval(), trial, device, 2).float())
    if not _alike(*made):
        raise _refused(trial, "predicts otherwise when it is made again and given its kept weights")


def _alike(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=SAME, atol=SAME * (1 + float(other.abs().max())))


def _refused(trial: Trial, what: str) -> UserError:
    return UserError(
        f"{trial.where}: {trial.whose} {what}; allowed: what is drawn comes from torch's generator (not "
        "NumPy's or Python's), and what predictions need is in parameters and persistent buffers (not in "
        "counters or plain lists of layers) of a new network each time"
    )


def _forward(model: nn.Module, trial: Trial, device: str, count: int) -> Tensor:
    """Run the model on some samples: it must put out floating-point numbers for as many."""
    inputs = _batch(trial, device, count)
    seen = inputs._version
    with precision(trial.compute) if _is_rounded(trial, device) else nullcontext():
        outputs: Tensor = model(inputs)
    if inputs._version != seen and type(trial.task).objective is not Task.objective:
        raise UserError(
            f"{trial.where}: {trial.whose} changes its inputs in place, which task '{trial.task.name}' "
            "compares its outputs with; allowed: new tensors (relu(x), not relu(x, inplace=True))"
        )
    if outputs.shape[:1] != (count,):  # a squeeze() loses a batch of one
        raise UserError(
            f"{trial.where}: {trial.whose} puts out {'×'.join(map(str, outputs.shape)) or 'one number'} for "
            f"a batch of {count}; expected {count} of whatever a sample has"
        )
    if outputs.device.type != device:
        raise UserError(
            f"{trial.where}: {trial.whose} puts its outputs on '{outputs.device.type}', but is given samples "
            f"on '{device}'; allowed: no device named in a model, which is moved to 'compute.device'"
        )
    refuse_nan(trial, outputs)
    if not outputs.is_floating_point():
        raise UserError(
            f"{trial.where}: {trial.whose} puts out {_dtype(outputs)} numbers; "
            "expected floating point, the logits"
        )
    return outputs


def refuse_nan(trial: Trial, outputs: Tensor) -> None:
    """Refuse a network that begins with NaN."""
    if not outputs.is_meta and bool(outputs.isnan().any()):
        raise UserError(f"{trial.where}: {trial.whose} puts out NaN before any training; allowed: numbers")


def _is_rounded(trial: Trial, device: str) -> bool:
    """Whether it is tried in another precision than float32, as it will be trained."""
    return device == trial.compute.device and trial.compute.precision == "bf16"


def _kept(model: nn.Module, trial: Trial) -> dict[str, tuple[int, ...]]:
    """Name → shape of all that is kept of a trained model."""
    state = model.state_dict()
    if lazy := next((name for name, one in state.items() if is_lazy(one)), None):
        raise UserError(
            f"{trial.where}: model '{trial.experiment.model.name}' has a lazy layer ('{lazy}'), whose size "
            "only a first batch would tell; say its sizes: replicates begin with weights from their seeds"
        )
    if odd := next((name for name, one in state.items() if not isinstance(one, Tensor)), None):
        raise UserError(
            f"{trial.where}: {trial.whose} keeps '{odd}', which is no tensor; allowed: tensors alone"
        )
    return {name: tuple(one.shape) for name, one in state.items()}


def _batch(trial: Trial, device: str, count: int) -> Tensor:
    return trial.samples[:1].to(device).repeat(count, *[1] * len(trial.shape))  # its own: it may be changed


def _check_recurrent(model: nn.Module) -> None:
    """Refuse a workspace with which cuDNN's recurrent layers need not repeat: nothing would raise.

    Raises:
        UserError: naming the variable.

    """
    found = os.environ.get(SWITCH, WORKSPACE)
    if found not in RECURRENT_WORKSPACES and any(isinstance(one, nn.RNNBase) for one in model.modules()):
        raise UserError(
            f"{SWITCH} is {found}, with which a GPU's recurrent layers need not repeat their results; put "
            f"{SWITCH}={RECURRENT_WORKSPACES[0]} before the command"
        )
