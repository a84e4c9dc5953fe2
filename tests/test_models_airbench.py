"""The fast network: its whitening follows from the training data, its flips cancel, and it learns."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from torch import nn
from torch.nn import functional as F
from training_cases import digest, labels_dataset, setting

from benchmarks.synthetic import setting as thirty_two
from benchmarks.synthetic import synthetic
from lossbench.data.dataset import Dataset
from lossbench.models.airbench import EPSILON, Whitening
from lossbench.models.base import build
from lossbench.models.from_data import layers_from_data
from lossbench.params import load_params
from lossbench.recipe import Augmentation, Network
from lossbench.training.augmentation import alternating, draw
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.population import train_population
from lossbench.training.prediction import predict
from lossbench.training.samples import Plan
from lossbench.training.seeds import generator
from lossbench.training.setting import Setting

ROOT = Path(__file__).parent.parent
STUDY = ROOT / "studies/cifar10_airbench/params.yaml"
SMALL = {"name": "airbench", "width": 4}
GREY = (1, 12, 12)
NESTEROV = {"name": "nesterov", "learning_rate": 0.5, "momentum": 0.85}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    return synthetic(tmp_path_factory.mktemp("small") / "data", "label", GREY, 96, validation=16)


def made(data, network: dict[str, Any] | None = None, **given: Any) -> Setting:
    return thirty_two(data, network or SMALL, batch_size=16, optimizer=NESTEROV, **given)


def filters(setting: Setting, seed: int) -> torch.Tensor:
    (layer,) = layers_from_data(setting.model_of(seed))
    return layer.get_buffer("weight")


@settings(max_examples=examples(8), deadline=None)
@given(channels=st.integers(1, 3), side=st.integers(3, 9), mixing=st.integers(0, 1000))
def test_the_training_patches_become_uncorrelated_and_of_variance_one(channels, side, mixing):
    random = torch.Generator().manual_seed(mixing)
    images = torch.randn((40, channels, side, side), generator=random, dtype=torch.float64).cumsum(3)
    layer = Whitening(channels).double()
    layer.look_at([images])
    features = layer(images).detach()
    half = features.shape[1] // 2
    flat = features[:, :half].transpose(0, 1).flatten(1)
    moments = flat @ flat.T / flat.shape[1]
    assert torch.equal(features[:, :half], -features[:, half:])
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)
    torch.testing.assert_close(moments, torch.diag(variances / (variances + EPSILON)), rtol=0, atol=1e-6)


def test_batches_do_not_matter_nor_does_where_samples_lie(data, monkeypatch):
    images = torch.randn(30, 3, 8, 8)
    one, many = Whitening(3), Whitening(3)
    one.look_at([images])
    many.look_at(images.split(7))
    torch.testing.assert_close(one.weight, many.weight)
    resident = filters(made(data), 0)
    monkeypatch.setenv("LOSSBENCH_MEMORY", "0")
    assert torch.equal(filters(made(data), 0), resident)


def test_whitening_is_of_the_training_samples_alone(data):
    expected = Whitening(1)
    expected.look_at([made(data).train.take(torch.arange(96)).inputs])
    for seed in (0, 1):
        assert torch.equal(filters(made(data), seed), expected.weight)
    assert torch.equal(filters(made(data, loss={"name": "focal"}), 0), expected.weight)
    divided = made(data, validation="per_seed")
    assert not torch.equal(filters(divided, 0), filters(divided, 1))


def test_weights_from_a_file_keep_their_whitening(data, tmp_path):
    state = build(Network(**SMALL), GREY, 10).state_dict()
    file = tmp_path / "weights.pt"
    torch.save(state, file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    network = {**SMALL, "weights": str(file), "sha256": sha256}
    assert torch.equal(filters(made(data, network), 0), state["network.0.weight"])


def test_training_leaves_the_filters_alone_and_trains_their_bias(data):
    trained = train_replicate(made(data, epochs=2), Member(0)).state
    assert torch.equal(trained["network.0.weight"], filters(made(data), 0))
    assert trained["network.0.bias"].abs().max() > 0


def test_a_population_whitens_alike(data):
    flat = {"optimizer": {"name": "sgd", "learning_rate": 0.05}, "augmentation": {"flip": "alternating"}}
    members = [Member(0), Member(1)]
    one = thirty_two(data, SMALL, batch_size=16, **flat)
    for together, member in zip(train_population(one, members), members, strict=True):
        for name, value in train_replicate(one, member).state.items():
            torch.testing.assert_close(together.state[name], value, rtol=1e-3, atol=1e-3, msg=name)


def test_a_mirror_image_is_predicted_to_the_bit_alike(data):
    one = made(data, {**SMALL, "test_time_shift": False})
    state = train_replicate(one, Member(0)).state
    inputs = data.split("validation").inputs[:]
    straight = predict(one.task, one.network, state, inputs, one.compute)
    assert torch.equal(straight, predict(one.task, one.network, state, inputs[..., ::-1], one.compute))
    plain = Network(**SMALL, test_time_flip=False, test_time_shift=False)
    alone = {name.removeprefix("network."): value for name, value in state.items()}
    sides = [predict(one.task, plain, alone, each, one.compute) for each in (inputs, inputs[..., ::-1])]
    torch.testing.assert_close(straight, (sides[0] + sides[1]) / 2)


@pytest.mark.parametrize("flip", [False, True])
def test_images_moved_by_a_pixel_are_half_of_a_prediction(flip):
    moving = build(Network(**SMALL, test_time_flip=flip), (3, 16, 16), 10).eval()
    still = (
        moving.network if not flip else build(Network(**SMALL, test_time_shift=False), (3, 16, 16), 10).eval()
    )
    if flip:
        still.load_state_dict(moving.state_dict())
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    around = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    views = [torch.from_numpy(around[..., at : at + 16, at : at + 16].copy()) for at in (0, 2)]
    with torch.no_grad():
        expected = still(images) / 2 + (still(views[0]) + still(views[1])) / 4
        torch.testing.assert_close(moving(images), expected)


@settings(max_examples=examples(10), deadline=None)
@given(count=st.integers(1, 300), epoch=st.integers(1, 9), seed=st.integers(0, 100))
def test_two_epochs_in_a_row_show_every_image_from_both_sides(count, epoch, seed):
    first = alternating(count, epoch, generator(seed, "flip"))
    assert torch.equal(alternating(count, epoch + 1, generator(seed, "flip")), ~first)
    assert torch.equal(alternating(count, epoch + 2, generator(seed, "flip")), first)


def test_alternating_flips_belong_to_samples_and_leave_other_draws_as_they_were(tmp_path):
    one = setting(labels_dataset(tmp_path), augmentation={"flip": "alternating", "shift": 1})
    plan = Plan(one, 3)
    by_epoch = []
    for number in (1, 2):
        epoch = plan.epoch(number)
        by_epoch.append(dict(zip(epoch.order.tolist(), epoch.draws.flip.tolist(), strict=True)))
    assert len(by_epoch[0]) == 96
    assert all(by_epoch[1][sample] is not mirrored for sample, mirrored in by_epoch[0].items())
    assert 25 < sum(by_epoch[0].values()) < 71
    assert Plan(one, 4).epoch(1).draws.flip.tolist() != plan.epoch(1).draws.flip.tolist()
    how = Augmentation(flip="alternating", shift=1)
    plain = draw(Augmentation(shift=1), 96, (8, 8), generator(3, "augmentation", 1), None)
    mirrored = torch.zeros(96, dtype=torch.bool)
    both = draw(how, 96, (8, 8), generator(3, "augmentation", 1), None, mirrored)
    assert torch.equal(both.shift, plain.shift)


def test_rare_classes_alone_are_mirrored_where_params_say_so(tmp_path):
    shares = (0.8, 0.1, 0.1)
    one = setting(
        labels_dataset(tmp_path, shares=shares),
        augmentation={"flip": "alternating", "rare_classes_only": True},
    )
    epoch = Plan(one, 0).epoch(1)
    common = one.train.targets()[epoch.order] == 0
    assert not epoch.draws.flip[common].any()
    assert epoch.draws.flip[~common].any()


def test_the_study_takes_the_arithmetic_that_it_says():
    params = load_params(STUDY)
    experiment = params.experiments["airbench"]
    model = build(experiment.model, (3, 32, 32), 10).train()
    assert sum(one.numel() for one in model.parameters()) == 1_971_352
    operations: list[int] = []

    def count(layer: nn.Module, _: Any, out: torch.Tensor) -> None:
        kernel = layer.weight.numel() // layer.weight.shape[0]  # type: ignore[operator,union-attr]  # a tensor
        operations.append(2 * kernel * out[0].numel())

    for layer in model.modules():
        if isinstance(layer, Whitening | nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
    # Forward, and as much again for the inputs' and for the weights' gradients, which the first layer has not.
    an_image = 3 * sum(operations) - 2 * operations[0]
    recipe = experiment.recipe
    steps = recipe.epochs * (48_000 // recipe.batch_size)
    assert an_image * recipe.batch_size * steps == pytest.approx(4.0e14, rel=0.015)
    assert steps == 552
    assert recipe.augmentation.flip == "alternating"
    assert params.compute.precision == "bf16"


def stripes(folder: Path, samples: int) -> Dataset:
    """Noise of 32×32 with a striped patch somewhere, whose colour and direction tell the class."""
    synthetic(folder, "label", (3, 32, 32), samples, validation=100)
    random = np.random.default_rng(1)
    for split in ("train", "validation"):
        inputs, labels = (np.load(folder / split / f"{name}.npy") for name in ("inputs", "targets"))
        lit = np.arange(12) % 4 < 2
        for image, label, (top, left) in zip(
            inputs, labels, random.integers(0, 20, (len(labels), 2)), strict=True
        ):
            image[:] = random.integers(0, 120, image.shape)
            colour = np.array([(label // 2 + 1) >> bit & 1 for bit in range(3)], bool)
            pattern = np.broadcast_to(lit if label % 2 else lit[:, None], (12, 12))
            image[colour, top : top + 12, left : left + 12] = np.where(pattern, 250, 20)
        np.save(folder / split / "inputs.npy", inputs)
    return Dataset.open(folder)


@pytest.mark.slow
def test_it_learns_small_images_of_32_and_repeats_to_the_bit(tmp_path):
    recipe = {
        "epochs": 4,
        "batch_size": 32,
        "optimizer": NESTEROV,
        "augmentation": {"flip": "alternating", "shift": 2},
        "schedule": {"name": "cosine", "warmup": 0.2, "final": 0.05},
    }
    loss = {"name": "cross_entropy", "label_smoothing": 0.2}
    one = thirty_two(stripes(tmp_path / "data", 512), SMALL, loss=loss, **recipe)
    first, again = (train_replicate(one, Member(0)) for _ in range(2))
    assert digest(first) == digest(again)
    reached = [record.value for record in first.history if record.metric == "accuracy"]
    assert reached[-1] > 0.6, reached  # chance is 0.1; 0.78 was measured
