"""A population is the loop, many members at a time."""

import pytest
import torch
from law_cases import each, mostly_slow
from training_cases import CNN, digest, labels_dataset, masks_dataset, setting

from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.errors import UserError
from lossbench.losses import REGISTRY
from lossbench.params import Dataset as DatasetParams
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.training.fitting import fit
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.population import clip_each, train_population
from lossbench.training.setting import prepare

SEEDS = [Member(0), Member(1), Member(2)]
GRID = [Member(0, learning_rate=0.02), Member(0, learning_rate=0.001), Member(1, weight_decay=0.1), Member(1)]
EVERYTHING = {
    "augmentation": {"shift": 1, "flip": True, "vertical_flip": True, "noise": 0.1, "cutout": 2},
    "l1": 1e-3,
    "gradient_clip": 0.5,
    "schedule": {"name": "cosine", "warmup": 0.2},
}
GPU = {"engine": "population"}


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return masks_dataset(tmp_path_factory.mktemp("masks"))


def agree(made, members, tolerance=1e-4):
    """Train with both engines and compare weights, buffers and histories."""
    together = train_population(made, members)
    for member, one in zip(members, together, strict=True):
        alone = train_replicate(made, member)
        assert list(one.state) == list(alone.state)
        for name, value in alone.state.items():
            torch.testing.assert_close(one.state[name], value, rtol=tolerance, atol=tolerance, msg=name)
        assert one.seed == member.seed
        assert [record[:3] for record in map(as_tuple, one.history)] == [
            record[:3] for record in map(as_tuple, alone.history)
        ]
        losses = [(a.value, b.value) for a, b in zip(one.history, alone.history, strict=True)]
        assert all(a == pytest.approx(b, rel=1e-3, abs=1e-3) for a, b in losses)


def as_tuple(record):
    return (record.epoch, record.split, record.metric, record.value)


def test_members_beyond_the_most_are_populations_of_their_own(labels):
    divided = fit(setting(labels, compute=GPU | {"members": 2}, epochs=1), SEEDS)
    expected = [
        one
        for part in (SEEDS[:2], SEEDS[2:])
        for one in train_population(setting(labels, compute=GPU, epochs=1), part)
    ]
    assert [digest(one) for one in divided] == [digest(one) for one in expected]


@each("name", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"])
def test_every_optimizer_agrees_with_the_loop(labels, name):
    rate = 1e-3 if name in ("adam", "adamw", "rmsprop") else 0.05
    agree(setting(labels, optimizer={"name": name, "learning_rate": rate}), SEEDS, 1e-3)


def test_members_have_learning_rates_and_weight_decays_of_their_own(labels):
    agree(setting(labels, optimizer={"name": "sgd", "learning_rate": 0.05}), GRID)


def test_augmentation_penalty_clipping_and_schedule_agree(labels):
    agree(setting(labels, optimizer={"name": "momentum", "learning_rate": 0.05}, **EVERYTHING), SEEDS)


def test_dropout_masks_are_those_of_the_loop(labels):
    network = {**CNN, "dropout": 0.4}
    agree(setting(labels, network, optimizer={"name": "sgd", "learning_rate": 0.05}), SEEDS)


def test_a_division_per_seed_agrees(labels):
    agree(setting(labels, validation="per_seed", optimizer={"name": "sgd", "learning_rate": 0.05}), SEEDS)


def test_batch_norm_has_statistics_of_its_own_in_every_member(masks):
    made = setting(masks, loss={"name": "dice"}, optimizer={"name": "sgd", "learning_rate": 0.05}, epochs=1)
    agree(made, SEEDS)
    means = [one.state["down.0.1.running_mean"] for one in train_population(made, SEEDS)]
    assert not torch.allclose(means[0], means[1])


@pytest.mark.parametrize("name", mostly_slow([name for name, loss in REGISTRY.items() if loss.single], 8))
def test_every_loss_agrees_on_masks(masks, name):
    network = {"name": "unet", "width": 2, "depth": 1, "convolutions": 1, "norm": False}
    loss = {"sum": {"cross_entropy": 1.0, name: 0.1}} if REGISTRY[name].only_in_sum else {"name": name}
    made = setting(masks, network, loss, optimizer={"name": "sgd", "learning_rate": 0.05}, epochs=1)
    agree(made, SEEDS[:2])


OTHER_TASKS = {
    "detection": (
        {"source": "digit_scenes", "target": "boxes", "train": 24, "validation": 8, "test": 4, "reference": 2},
        {"name": "grid_detector", "width": 4},
        {"name": "focal"},
    ),
    "multilabel": (
        {"source": "digit_scenes", "target": "labels", "train": 24, "validation": 8, "test": 4, "reference": 2},
        {**CNN, "hidden": 0},
        {"name": "binary_cross_entropy"},
    ),
    "anomaly": (
        {"source": "digits", "subset": 200, "splits": {"validation": 0.2, "test": 0.3}, "anomaly": {"normal": ["0", "1"]}},
        {"name": "autoencoder", "width": 4, "latent": 4},
        {"name": "mae"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_every_task_agrees_with_the_loop(task, tmp_path):
    described, network, loss = OTHER_TASKS[task]
    fetch(DatasetParams(path="requirements.lock", **described), "data", tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    recipe = Recipe(epochs=1, batch_size=8, optimizer={"name": "sgd", "learning_rate": 0.01})
    agree(
        prepare(task_class(task)(data.info), data, Network(**network), recipe, loss, Compute()),
        SEEDS[:2],
        1e-3,
    )


def test_the_best_epoch_and_early_stopping_are_each_members_own(labels):
    made = setting(
        labels,
        epochs=25,
        checkpoint="best",
        early_stopping=3,
        optimizer={"name": "sgd", "learning_rate": 0.3},
    )
    together = train_population(made, SEEDS)
    alone = [train_replicate(made, one) for one in SEEDS]
    assert [one.epoch for one in together] == [one.epoch for one in alone]
    assert [len(one.history) for one in together] == [len(one.history) for one in alone]
    assert len({len(one.history) for one in together}) > 1
    for one, other in zip(together, alone, strict=True):
        for name in other.state:
            torch.testing.assert_close(one.state[name], other.state[name], rtol=1e-3, atol=1e-3)


def test_a_member_that_diverges_leaves_the_others_alone(labels):
    made = setting(labels, epochs=3, optimizer={"name": "sgd", "learning_rate": 0.05})
    members = [Member(0), Member(1, learning_rate=1e30), Member(2)]
    together = train_population(made, members)
    assert [one.diverged for one in together] == [False, True, False]
    for one in (0, 2):
        alone = train_replicate(made, members[one])
        assert all(torch.allclose(together[one].state[k], v, atol=1e-4) for k, v in alone.state.items())


def test_the_same_population_gives_the_same_bits_twice(labels):
    made = setting(labels, {**CNN, "dropout": 0.3}, compute=GPU, **EVERYTHING)
    assert list(map(digest, fit(made, SEEDS))) == list(map(digest, fit(made, SEEDS)))


def test_members_with_different_losses_come_back_in_order(labels):
    made = setting(labels, compute=GPU, optimizer={"name": "sgd", "learning_rate": 0.05})
    members = [Member(0, loss={"name": "focal", "gamma": float(gamma)}) for gamma in (2, 0, 1)] + [Member(5)]
    for member, one in zip(members, fit(made, members), strict=True):
        alone = train_replicate(made, member)
        assert one.seed == member.seed
        assert all(torch.allclose(one.state[k], v, atol=1e-4) for k, v in alone.state.items())


def test_what_cannot_be_vectorised_is_refused_in_a_sentence(labels, monkeypatch):
    made = setting(labels, compute=GPU)

    def peeking(loss, outputs, targets, inputs):
        return loss(outputs, targets) * (1 if outputs.sum().item() > 0 else 2)

    monkeypatch.setattr(made.task, "objective", peeking)
    with pytest.raises(UserError, match=r"'compute\.engine' is 'population'.*allowed: loop"):
        fit(made, SEEDS)


def test_clipping_is_each_members_own():
    gradients = [torch.randn(3, 4, 2), torch.randn(3, 5)]
    stacked = [torch.nn.Parameter(torch.zeros_like(one)) for one in gradients]
    for parameter, gradient in zip(stacked, gradients, strict=True):
        parameter.grad = gradient.clone()
    clip_each(stacked, 1.0)
    for member in range(3):
        alone = [torch.nn.Parameter(torch.zeros_like(one[member])) for one in gradients]
        for parameter, gradient in zip(alone, gradients, strict=True):
            parameter.grad = gradient[member].clone()
        torch.nn.utils.clip_grad_norm_(alone, 1.0)
        for parameter, other in zip(stacked, alone, strict=True):
            torch.testing.assert_close(parameter.grad[member], other.grad)
