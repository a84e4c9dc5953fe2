"""Rare classes: class weights, re-sampling, focal loss and augmentation of rare classes do what their names say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.errors import UserError
from lossbench.losses import LossContext, build
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.prediction import predict
from lossbench.training.samples import Plan, changed
from tests.knobs_cases import NETWORK, arm, digits, mean, outcome

SEEDS = (0,)
RARE = 0.08
NAMES = ("common", "rare")


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two classes of noise, the rare one a little brighter: who cannot tell does best to say "common"."""
    folder = tmp_path_factory.mktemp("overlapping")
    rng = np.random.default_rng(1)
    sizes = {"train": 1200, "validation": 200, "test": 1200}
    for split, count in sizes.items():
        labels = (rng.random(count) < (0.5 if split == "test" else RARE)).astype(np.int64)
        images = rng.integers(0, 200, (count, 1, 8, 8)) + 11 * labels[:, None, None, None]
        (folder / split).mkdir()
        np.save(folder / split / "inputs.npy", images.astype(np.uint8))
        np.save(folder / split / "targets.npy", labels)
        if split == "train":
            counts = tuple(np.bincount(labels).tolist())
    info = DatasetInfo("label", NAMES, (1, 8, 8), (), (0.39,), (0.23,), counts, sizes)
    info.write(folder)
    return Dataset.open(folder)


def rare_recall(data: Dataset, **how: Any) -> float:
    made = arm(data, **{"network": {**NETWORK, "layers": 1, "hidden": 0}, "epochs": 8, **how})
    return mean([float(outcome(made, data, seed).recall[1]) for seed in SEEDS])


@pytest.fixture(scope="module")
def neglected(overlapping: Dataset) -> float:
    """Recall of the rare class under cross-entropy."""
    return rare_recall(overlapping)


def test_cross_entropy_neglects_a_rare_class_that_overlaps_a_common_one(neglected: float) -> None:
    assert neglected < 0.4


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"loss": {"name": "cross_entropy", "class_weights": "balanced"}},
        {"loss": {"name": "cross_entropy", "class_weights": {"class_balanced": 0.9999}}},
        {"loss": {"name": "cross_entropy", "class_weights": [1.0, 11.5]}},
        {"loss": {"name": "focal", "class_weights": "balanced"}},
        {"loss": {"name": "hinge", "class_weights": "balanced"}},
        {"loss": {"name": "balanced_softmax"}},
        {"sampling": "balanced"},
    ],
    ids=["balanced", "class-balanced", "given", "focal", "hinge", "balanced-softmax", "sampling"],
)
def test_it_brings_the_rare_class_back(how: Any, overlapping: Dataset, neglected: float) -> None:
    assert rare_recall(overlapping, **how) > neglected + 0.25


def test_balanced_sampling_shows_a_rare_sample_more_often_than_once(overlapping: Dataset) -> None:
    plan = Plan(arm(overlapping, sampling="balanced", batch_size=100), 0)
    order = plan.epoch(1).order
    labels = np.asarray(overlapping.split("train").targets)[order.numpy()]
    assert labels.mean() == pytest.approx(0.5, abs=0.05)
    assert len(order) == 1200
    assert len(set(order.tolist())) < 1000
    assert plan.epoch(2).order.tolist() != order.tolist()


def test_focal_loss_moves_weight_from_the_many_easy_samples_to_the_few_hard_ones() -> None:
    # 95 samples that the network is sure of, five that it gets wrong.
    logits = torch.tensor([[3.0, 0.0]]).repeat(100, 1)
    labels = torch.tensor([0] * 95 + [1] * 5)

    def share(gamma: float) -> float:
        loss = build({"name": "focal", "gamma": gamma}, LossContext(2))
        losses = [
            float(loss(logits[part], labels[part])) * (labels == c).sum()
            for c, part in ((0, slice(95)), (1, slice(95, None)))
        ]
        return float(losses[1] / sum(losses))

    shares = [share(gamma) for gamma in (0.0, 1.0, 2.0, 5.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.8
    assert shares[2] > 0.99


def test_rare_classes_alone_are_augmented_by_every_kind_of_change(overlapping: Dataset) -> None:
    how = {
        "shift": 2,
        "flip": True,
        "vertical_flip": True,
        "noise": 0.5,
        "cutout": 3,
        "rare_classes_only": True,
    }
    made = arm(overlapping, augmentation=how, batch_size=400)
    plan = Plan(made, 0)
    epoch = plan.epoch(1)
    seen = []
    for step in range(plan.per_epoch):
        part = plan.slice(step)
        before = plan.train.take(epoch.order[part])
        assert epoch.draws is not None
        after = changed(before, made, epoch.draws.at(part), plan.noise(1, step, len(before.inputs)))
        moved = (after.inputs != before.inputs).flatten(1).any(1)
        assert torch.equal(after.targets, before.targets)
        assert not moved[before.targets == 0].any()
        seen.append(moved[before.targets == 1])
    assert torch.cat(seen).all()


def test_an_imbalance_in_params_thins_the_training_split_and_costs_the_rare_classes(tmp_path: Path) -> None:
    even, skewed = (
        digits(tmp_path / "even", subset=320),
        digits(tmp_path / "skewed", corruption={"imbalance": 50}),
    )
    counts = skewed.info.counts
    assert counts[0] / counts[-1] > 20
    assert abs(sum(counts) - 320) < 80
    found = [
        mean([float(outcome(arm(data, epochs=8), data, seed).recall[7:].mean()) for seed in SEEDS])
        for data in (even, skewed)
    ]
    assert found[1] < found[0] - 0.1


@pytest.fixture(scope="module")
def faint(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Noise with a faint bright square, a sixteenth of the image."""
    folder = tmp_path_factory.mktemp("faint")
    rng = np.random.default_rng(2)
    sizes = {"train": 64, "validation": 16, "test": 64}
    for split, count in sizes.items():
        masks = np.zeros((count, 16, 16), np.uint8)
        for mask, (top, left) in zip(masks, rng.integers(0, 13, (count, 2)), strict=True):
            mask[top : top + 4, left : left + 4] = 1
        (folder / split).mkdir()
        np.save(
            folder / split / "inputs.npy",
            (rng.integers(0, 200, masks.shape) + 25 * masks)[:, None].astype(np.uint8),
        )
        np.save(folder / split / "targets.npy", masks)
    info = DatasetInfo("mask", NAMES, (1, 16, 16), (16, 16), (0.4,), (0.23,), (64 * 240, 64 * 16), sizes)
    info.write(folder)
    return Dataset.open(folder)


@pytest.mark.slow
def test_class_weights_bring_back_a_rare_class_of_masks(faint: Dataset) -> None:
    def recall(**loss: Any) -> float:
        network = {"name": "unet", "width": 4, "depth": 1, "convolutions": 1}
        made = arm(
            faint, {"name": "cross_entropy", **loss}, network, epochs=10, batch_size=8, prior_bias=False
        )
        replicate = train_replicate(made, Member(0))
        test = faint.split("test")
        guess = predict(made.task, made.network, replicate.state, test.inputs, made.compute).argmax(1).numpy()
        return float(guess[np.asarray(test.targets) == 1].mean())

    assert recall() < 0.2
    assert recall(class_weights="balanced") > 0.5


class Bare(nn.Module):
    """A network of one's own, whose last layer is no layer of torch's."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, 64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T


def test_a_network_without_a_bias_for_each_class_begins_as_it_is(overlapping: Dataset) -> None:
    network = {"name": f"{__name__}:Bare", "outputs": "{outputs}"}
    model = arm(overlapping, network=network).model_of(0)
    assert model(torch.zeros(1, 1, 8, 8)).tolist() == [[0.0, 0.0]]
    with pytest.raises(UserError, match="a last layer with a bias for each"):
        arm(overlapping, network=network, prior_bias=True).model_of(0)


def test_of_itself_the_last_bias_begins_at_uneven_shares(overlapping: Dataset) -> None:
    model = arm(overlapping, network={**NETWORK, "layers": 1, "hidden": 0}).model_of(0)
    bias = model.state_dict()[max(one for one in model.state_dict() if one.endswith("bias"))]
    shares = np.array(overlapping.info.counts) / sum(overlapping.info.counts)
    assert torch.softmax(bias, 0).numpy() == pytest.approx(shares, abs=1e-6)
