"""How trained networks behave on images: minimum functionality, invariance and direction, for both image tasks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.prediction import predict
from lossbench.training.setting import Setting
from tests.knobs_cases import arm, digits

Network = Callable[[np.ndarray], torch.Tensor]
"""Stored images (N, 1, H, W) → probabilities (N, C, *spatial)."""


def trained(made: Setting) -> Network:
    replicate = train_replicate(made, Member(0))

    def network(images: np.ndarray) -> torch.Tensor:
        stored = np.clip(images, 0, 255).astype(np.uint8)
        return predict(made.task, made.network, replicate.state, stored, made.compute).softmax(1)

    return network


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, np.ndarray, np.ndarray]:
    """A network that reads digits, and the test split."""
    data = digits(tmp_path_factory.mktemp("digits") / "digits")
    test = data.split("test")
    return trained(arm(data, epochs=15)), np.array(test.inputs, float), np.array(test.targets)


Reader = tuple[Network, np.ndarray, np.ndarray]


def test_the_average_of_each_digit_is_read_as_that_digit(reader: Reader) -> None:
    network, images, labels = reader
    averages = np.stack([images[labels == label].mean(0) for label in range(10)])
    assert network(averages).argmax(1).tolist() == list(range(10))


def test_a_little_noise_or_light_hardly_changes_what_is_read(reader: Reader) -> None:
    network, images, _ = reader
    read = network(images).argmax(1)
    noise = np.random.default_rng(0).normal(0, 8, images.shape)
    for changed in (images + noise, images * 0.9, images + 8):
        assert (network(changed).argmax(1) == read).float().mean() > 0.97


def test_the_more_noise_the_fewer_digits_are_read_right(reader: Reader) -> None:
    network, images, labels = reader
    noise = np.random.default_rng(1).normal(0, 1, images.shape)
    right = [
        float((network(images + level * noise).argmax(1).numpy() == labels).mean())
        for level in (0, 60, 120, 240)
    ]
    assert right[0] > 0.93
    assert right == sorted(right, reverse=True)
    assert right[-1] < right[0] - 0.2


def test_erasing_a_digit_takes_the_networks_certainty_from_it(reader: Reader) -> None:
    network, images, labels = reader
    rows = np.arange(len(labels))
    certainty = [float(network(images * share)[rows, labels].mean()) for share in (1.0, 0.5, 0.2, 0.0)]
    assert certainty == sorted(certainty, reverse=True)
    assert certainty[-1] < 0.2


SIDE = 16


def squares(count: int, contrast: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dim noise with one brighter square each, and its mask."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for mask, (top, left, side) in zip(masks, rng.integers([2, 2, 4], [8, 8, 7], (count, 3)), strict=True):
        mask[top : top + side, left : left + side] = 1
    return rng.normal(60, 15, masks.shape)[:, None] + contrast * masks[:, None], masks


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A network that finds bright squares."""
    folder: Path = tmp_path_factory.mktemp("squares")
    sizes = {"train": 96, "validation": 16}
    for seed, (split, count) in enumerate(sizes.items()):
        images, masks = squares(count, 60, seed)
        (folder / split).mkdir()
        np.save(folder / split / "inputs.npy", np.clip(images, 0, 255).astype(np.uint8))
        np.save(folder / split / "targets.npy", masks)
    counts = (int((masks == 0).sum()), int((masks == 1).sum()))
    info = DatasetInfo(
        "mask", ("background", "square"), (1, SIDE, SIDE), (SIDE, SIDE), (0.26,), (0.1,), counts, sizes
    )
    info.write(folder)
    network = {"name": "unet", "width": 4, "depth": 1, "convolutions": 1}
    return trained(arm(Dataset.open(folder), {"name": "cross_entropy"}, network, epochs=20, batch_size=8))


def found(network: Network, images: np.ndarray) -> np.ndarray:
    return network(images).argmax(1).numpy()


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def test_a_bright_square_is_found_and_nothing_is_found_where_there_is_none(finder: Network) -> None:
    images, masks = squares(20, 90, 9)
    assert overlap(found(finder, images), masks) > 0.85
    assert found(finder, squares(20, 0, 9)[0]).mean() < 0.02


def test_a_mask_moves_and_turns_with_its_image(finder: Network) -> None:
    images, _ = squares(20, 90, 10)
    before = found(finder, images)
    for change in (
        lambda one: np.roll(one, (2, 2), (-2, -1)),
        lambda one: one[..., ::-1],
        lambda one: one[..., ::-1, :],
        lambda one: np.swapaxes(one, -1, -2),
    ):
        assert overlap(found(finder, change(images).copy()), change(before)) > 0.85


def test_the_fainter_a_square_the_less_of_it_is_found(finder: Network) -> None:
    shares = []
    for contrast in (90, 50, 25, 0):
        images, masks = squares(20, contrast, 11)
        shares.append(float(found(finder, images)[masks == 1].mean()))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    assert shares[-1] < 0.1
