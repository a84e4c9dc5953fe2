"""What holds a network back from learning its training set by heart: dropout, L1, L2, early stopping, augmentation,
schedules and pretrained weights do what their names say."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from law_cases import each
from safetensors.torch import save_file
from torch import nn
from torch.optim import lr_scheduler

from lossbench.data.dataset import Dataset
from lossbench.errors import UserError
from lossbench.models.base import MODELS, build, check
from lossbench.recipe import Network
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.optimization import Optimizer
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting
from tests.knobs_cases import NETWORK, arm, digits, mean, outcome
from tests.training_cases import labels_dataset, masks_dataset, setting

SEEDS = (0,)
RATE = 0.05
LARGE = {**NETWORK, "width": 16, "hidden": 64}
UNET = {"name": "unet", "width": 4, "depth": 1, "convolutions": 1}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Few digits, of whose labels a third is wrong: what is learnt by heart here is wrong elsewhere."""
    return digits(tmp_path_factory.mktemp("noisy") / "digits", subset=200, corruption={"label_noise": 0.3})


@pytest.fixture(scope="module")
def plain(noisy: Dataset) -> list[float]:
    """Gaps of cross-entropy without any of it."""
    return [outcome(arm(noisy, network=LARGE, epochs=40), noisy, seed).gap for seed in SEEDS]


@pytest.mark.slow
@pytest.mark.parametrize(
    "knob",
    [
        {"network": {**LARGE, "dropout": 0.6}},
        {"l1": 2e-3},
        {"optimizer": {"name": "adam", "learning_rate": 0.005, "weight_decay": 0.02}},
        {"optimizer": {"name": "adamw", "learning_rate": 0.005, "weight_decay": 1.5}},
        {"early_stopping": 3, "checkpoint": "best"},
        {"augmentation": {"shift": 1}},
    ],
    ids=["dropout", "l1", "l2", "decoupled-l2", "early-stopping", "augmentation"],
)
def test_it_narrows_the_gap_between_training_and_test(knob: Any, noisy: Dataset, plain: list[float]) -> None:
    made = arm(noisy, **{"network": LARGE, "epochs": 40, **knob})
    found = [outcome(made, noisy, seed).gap for seed in SEEDS]
    assert mean(found) < mean(plain) - 0.05, (found, plain)


def one_step(data: Dataset, **recipe: Any) -> tuple[Setting, Replicate]:
    """Plain gradient descent on the whole split, once."""
    optimizer = {"name": "sgd", "learning_rate": RATE, **recipe.pop("optimizer", {})}
    made = setting(data, epochs=1, batch_size=len(data.split("train")), optimizer=optimizer, **recipe)
    return made, train_replicate(made, Member(0))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return labels_dataset(tmp_path_factory.mktemp("labels"))


def test_l2_subtracts_rate_times_decay_times_the_weight(labels: Dataset) -> None:
    made, without = one_step(labels)
    _, held = one_step(labels, optimizer={"weight_decay": 0.1})
    for name, before in made.model_of(0).named_parameters():
        expected = without.state[name] - RATE * 0.1 * before
        torch.testing.assert_close(held.state[name], expected, rtol=1e-4, atol=1e-6)


def test_l1_subtracts_rate_times_penalty_times_the_sign_and_leaves_biases_alone(labels: Dataset) -> None:
    made, without = one_step(labels)
    _, held = one_step(labels, l1=0.01)
    for name, before in made.model_of(0).named_parameters():
        pull = before.sign() if before.ndim > 1 else torch.zeros_like(before)
        torch.testing.assert_close(
            held.state[name], without.state[name] - RATE * 0.01 * pull, rtol=1e-4, atol=1e-6
        )


def test_clipping_bounds_the_length_of_a_step(labels: Dataset) -> None:
    def moved(found: tuple[Setting, Replicate]) -> float:
        made, replicate = found
        parts = [
            (replicate.state[name] - one.detach()).norm() for name, one in made.model_of(0).named_parameters()
        ]
        return float(torch.stack(parts).norm())

    assert moved(one_step(labels, gradient_clip=0.01)) == pytest.approx(RATE * 0.01, rel=1e-3)
    assert moved(one_step(labels)) > RATE * 0.02


@pytest.mark.parametrize(
    "network", [{**NETWORK, "dropout": 0.5}, {**UNET, "dropout": 0.5}], ids=["cnn", "unet"]
)
def test_dropout_acts_in_training_alone(network: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(Network(**network), (1, 8, 8), 3)
    twin = build(Network(**{**network, "dropout": 0.0}), (1, 8, 8), 3)
    _copy_in_order(model, twin)
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(model.eval()(images), twin.eval()(images))
    model.train()
    assert not torch.equal(model(images), model(images))


def _copy_in_order(model: nn.Module, twin: nn.Module) -> None:
    """A dropout shifts the numbers of a sequence's layers; their order stays."""
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))


def test_dropout_in_a_u_net_blanks_the_deepest_features_alone() -> None:
    model = build(Network(**{**UNET, "dropout": 0.9}), (1, 8, 8), 3)
    seen: list[torch.Tensor] = []
    model.dropout.register_forward_hook(lambda *given: seen.extend([given[1][0], given[2]]))
    model.train()(torch.randn(4, 1, 8, 8))
    before, after = seen
    assert before.shape == (4, 8, 4, 4)
    assert (after == 0).float().mean() > 0.8


def test_early_stopping_spares_the_epochs_that_no_longer_help(noisy: Dataset) -> None:
    found = train_replicate(arm(noisy, epochs=40, early_stopping=3, checkpoint="best"), Member(0))
    scores = [one.value for one in found.history if (one.split, one.metric) == ("validation", "accuracy")]
    assert len(scores) < 40
    assert found.epoch == len(scores) - 3 == 1 + scores.index(max(scores))


def rates(data: Dataset, monkeypatch: pytest.MonkeyPatch, **schedule: Any) -> list[float]:
    """The learning rates that a training of 5 epochs of 6 steps goes through."""
    seen: list[float] = []
    take = Optimizer.step

    def noted(self: Optimizer, rate: float) -> None:
        seen.append(rate)
        take(self, rate)

    monkeypatch.setattr(Optimizer, "step", noted)
    train_replicate(
        setting(data, epochs=5, optimizer={"name": "sgd", "learning_rate": RATE}, schedule=schedule),
        Member(0),
    )
    return seen


def torchs(scheduler: Any, each: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], RATE)
    made, found = scheduler(optimizer), []
    for step in range(30):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % each == 0:
            made.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "oracle", "each"),
    [
        ({"name": "constant"}, lambda one: lr_scheduler.ConstantLR(one, 1.0), 1),
        ({"name": "exponential", "gamma": 0.6}, lambda one: lr_scheduler.ExponentialLR(one, 0.6), 6),
        ({"name": "cosine"}, lambda one: lr_scheduler.CosineAnnealingLR(one, 30), 1),
        (
            {"name": "step", "gamma": 0.1, "step_at": [0.4]},
            lambda one: lr_scheduler.MultiStepLR(one, [12]),
            1,
        ),
    ],
    ids=lambda given: given["name"] if isinstance(given, dict) else "",
)
def test_a_training_goes_through_the_learning_rates_of_torchs_schedule(
    schedule: dict[str, Any], oracle: Any, each: int, labels: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rates(labels, monkeypatch, **schedule) == pytest.approx(torchs(oracle, each))


def test_a_warm_up_takes_the_share_of_steps_that_params_say(
    labels: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rates(labels, monkeypatch, name="cosine", warmup=0.2)
    assert found[:6] == pytest.approx([RATE * (step + 1) / 6 for step in range(6)])
    assert found[6] == pytest.approx(RATE)


def kept(replicate: Replicate, folder: Path) -> dict[str, str]:
    """Write a replicate's weights as an arm's folder has them; give the options that name the file."""
    file = folder / "seed-0.safetensors"
    save_file(replicate.state, file)
    return {"weights": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_weights_of_an_earlier_replicate_are_a_head_start(tmp_path: Path) -> None:
    many, few = digits(tmp_path / "many"), digits(tmp_path / "few", subset=60)
    earlier = outcome(arm(many, epochs=6), many)
    pretrained = {**NETWORK, **kept(earlier.replicate, tmp_path)}
    begun = [outcome(arm(few, network=network, epochs=1), few).test for network in (NETWORK, pretrained)]
    assert begun[0] < 0.6
    assert begun[1] > begun[0] + 0.3


@pytest.mark.parametrize(
    ("network", "head"),
    [
        (NETWORK, "9"),
        (UNET, "head"),
        ({"name": "lenet"}, "9"),
        ({"name": "resnet", "depth": 9, "width": 4}, ""),
    ],
    ids=lambda given: given["name"] if isinstance(given, dict) else "",
)
def test_every_model_begins_with_weights_from_a_file_and_keeps_a_head_of_its_own(
    network: dict[str, Any], head: str, tmp_path: Path
) -> None:
    shape = (1, 32, 32)
    torch.manual_seed(3)
    state = build(Network(**network), shape, 7).state_dict()
    file = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    options = {"weights": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    same, other = (build(Network(**network, **options), shape, outputs).state_dict() for outputs in (7, 5))
    assert all(torch.equal(same[key], state[key]) for key in state)
    changed = {key for key in state if state[key].shape != other[key].shape}
    assert len({key.rpartition(".")[0] for key in changed}) == 1
    assert all(torch.equal(other[key], state[key]) for key in state if key not in changed)


@each("name", MODELS)
def test_weights_without_their_hash_are_refused_before_anything_runs(name: str) -> None:
    with pytest.raises(UserError, match=r"'e\.model\.weights' is given without 'e\.model\.sha256'"):
        check(Network(name=name, weights="x.safetensors"), "e.model")


def test_weights_of_another_width_are_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(build(Network(**NETWORK), (1, 8, 8), 3).state_dict(), file)
    options = {"weights": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    with pytest.raises(UserError, match=r"w\.safetensors, whose '0\.bias' is \(8,\)"):
        build(Network(**{**NETWORK, "width": 4}, **options), (1, 8, 8), 3)


def test_masks_are_learnt_with_dropout_in_the_u_net(tmp_path: Path) -> None:
    made = setting(masks_dataset(tmp_path), {**UNET, "dropout": 0.2}, epochs=25, batch_size=8)
    found = train_replicate(made, Member(0))
    last = [one.value for one in found.history if (one.split, one.metric) == ("validation", "mean_iou")][-1]
    assert math.isfinite(last)
    assert last > 0.7
