"""Classification as the source articles have it: their networks with the sizes put right, their splits, their losses."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from lossbench.data import sources
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.samples import Samples
from lossbench.data.sources import cifar
from lossbench.data.sources.mnist import IdxFile, Mnist, Pooled, redivide
from lossbench.data.sources.obtaining import checksum
from lossbench.errors import UserError
from lossbench.models.base import build
from lossbench.params import Params, load_params
from lossbench.tasks import task_class
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.prediction import predict
from lossbench.training.setting import prepare
from tests.data_cases import dataset, idx

ROOT = Path(__file__).parent.parent
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
STUDIES = {"a1_cifar10": "a1", "a6_mnist_mse_ce_hinge": "a6", "a7_mnist": "a7"}


def study(name: str) -> Params:
    return load_params(ROOT / "studies" / name / "params.yaml")


@pytest.mark.parametrize(
    ("name", "shape", "flattened", "parameters"),
    [
        ("a1_cifar10", COLOUR, 64 * 15 * 15, (3 * 9 * 64 + 64) + (64 * 15 * 15 * 10 + 10)),
        (
            "a6_mnist_mse_ce_hinge",
            GREY,
            32 * 13 * 13,
            (9 * 32 + 32) + (32 * 13 * 13 * 128 + 128) + (128 * 10 + 10),
        ),
        (
            "a7_mnist",
            GREY,
            64 * 5 * 5,
            (9 * 32 + 32) + (32 * 9 * 64 + 64) + (64 * 5 * 5 * 128 + 128) + (128 * 10 + 10),
        ),
    ],
)
def test_a_network_has_the_articles_layers_and_a_flattened_size_that_fits(
    name: str, shape: tuple[int, ...], flattened: int, parameters: int
) -> None:
    model = build(study(name).experiments[STUDIES[name]].model, shape, 10)
    dense = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert dense[0].in_features == flattened
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert isinstance(list(model.modules())[-1], nn.Linear)  # logits: a softmax belongs to the loss


@pytest.mark.parametrize(
    ("name", "batch", "losses"),
    [
        ("a1_cifar10", 64, {"cross_entropy", "double_softmax_cross_entropy"}),
        ("a6_mnist_mse_ce_hinge", 32, {"cross_entropy", "brier", "hinge"}),
        ("a7_mnist", 64, {"cross_entropy"}),
    ],
)
def test_a_study_has_the_articles_recipe_and_one_seed(name: str, batch: int, losses: set[str]) -> None:
    params = study(name)
    recipe = params.experiments[STUDIES[name]].recipe
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("adam", 1e-3)
    assert (recipe.batch_size, recipe.epochs) == (batch, 10)
    assert {params.losses[arm.loss]["name"] for arm in params.arms.values()} == losses
    assert len(params.seeds) == 1
    assert params.tuning.trials == 0


def numbered(count: int) -> Samples:
    return Samples(np.arange(count), np.arange(count) % 10, [str(index) for index in range(count)])


def test_the_pooled_split_is_scikit_learns_56000_and_14000_with_seed_42() -> None:
    options = study("a6_mnist_mse_ce_hinge").datasets["mnist_pooled"].options["pooled"]
    groups = redivide(numbered(70_000), Pooled(**options))
    train, test = train_test_split(np.arange(70_000), test_size=0.2, random_state=42)
    assert (len(train), len(test)) == (56_000, 14_000)
    np.testing.assert_array_equal(groups["train"].inputs, train)
    np.testing.assert_array_equal(groups["test"].inputs, test)
    assert groups["test"].names[:3] == [str(one) for one in test[:3]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool": True, "pooled": {}}, "'pool' and 'pooled' are two divisions of the same samples"),
        ({"pooled": {"test": 1.0}}, "'datasets.m.pooled.test' is 1.0"),
        ({"pooled": {"seed": -1}}, "'datasets.m.pooled.seed' is -1"),
        ({"pooled": {"share": 0.2}}, "datasets.m"),
        ({"pooled": True}, "'datasets.m.pooled' is True"),
    ],
)
def test_a_division_that_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as refused:
        sources.check(dataset("mnist", **options), "datasets.m")
    assert says in str(refused.value)


def enlarged() -> tuple[np.ndarray, np.ndarray]:
    """The digits of scikit-learn in MNIST's form: 28×28, the last quarter for testing."""
    found = load_digits()
    images = np.kron(np.minimum(found.images * 16, 255).astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), found.target


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with few images under checksums of its own, in the form of both publishers."""
    folder = tmp_path / "mirror"
    _lay_out_mnist(folder / "mnist", monkeypatch)
    _lay_out_cifar(folder / "cifar10", monkeypatch)
    monkeypatch.setenv("LOSSBENCH_MIRROR", str(folder))
    return folder


def _lay_out_mnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    images, labels = enlarged()
    cut = 3 * len(images) // 4
    files = {}
    for prefix, part in (("train", slice(cut)), ("t10k", slice(cut, None))):
        for what, array in (("images", images[part]), ("labels", labels[part])):
            content = idx(array)
            one = IdxFile(f"{prefix}-{what}-idx{array.ndim}-ubyte", array.ndim, "", checksum(content))
            files[f"{prefix}-{what}"] = one
            (folder / one.name).write_bytes(content)
    monkeypatch.setattr(Mnist, "files", files)


def _lay_out_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty coloured images a batch, whose class is the row that is bright."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    hashes = {}
    for name in cifar.SHA1:
        labels = np.arange(30) % 10
        pixels = rng.integers(0, 100, (30, 3, 32, 32), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[:, 3 * label : 3 * label + 3] += 120
        content = np.hstack([labels[:, None].astype(np.uint8), pixels.reshape(30, -1)]).tobytes()
        (folder / f"{name}.bin").write_bytes(content)
        hashes[name] = checksum(content, "sha1")
    monkeypatch.setattr(cifar, "ROWS", 30)
    monkeypatch.setattr(cifar, "SHA1", hashes)


def trained(name: str, folder: Path, **recipe: Any) -> dict[str, tuple[float, list[float]]]:
    """Run a study on what the mirror holds: loss → accuracy on the test split, training loss per epoch."""
    params = study(name)
    (key, block), (_, experiment) = *params.datasets.items(), *params.experiments.items()
    fetch(block, key, folder / "data")
    data = Dataset.open(folder / "data")
    task = task_class(experiment.task.name)(data.info, experiment.task.options)
    found = {}
    for arm in params.arms.values():
        shrunk = experiment.recipe.model_copy(update=recipe)
        made = prepare(task, data, experiment.model, shrunk, params.losses[arm.loss], params.compute)
        replicate = train_replicate(made, Member(params.seeds[0]))
        test = data.split("test")
        outputs = predict(task, experiment.model, replicate.state, test.inputs, params.compute).numpy()
        losses = [one.value for one in replicate.history if (one.split, one.metric) == ("train", "loss")]
        found[arm.loss] = (task.score(outputs, np.asarray(test.targets)).metrics["accuracy"], losses)
    return found


@pytest.mark.slow
def test_the_network_of_a7_learns_digits(mirror: Path, tmp_path: Path) -> None:
    assert trained("a7_mnist", tmp_path, epochs=4)["cross_entropy"][0] > 0.9


@pytest.mark.slow
def test_mse_cross_entropy_and_hinge_all_learn_digits_with_the_network_of_a6(
    mirror: Path, tmp_path: Path
) -> None:
    found = trained("a6_mnist_mse_ce_hinge", tmp_path, epochs=4)
    assert set(found) == {"cross_entropy", "squared_error", "hinge"}
    assert all(accuracy > 0.9 for accuracy, _ in found.values()), found
    table = pd.read_parquet(tmp_path / "data/manifest.parquet")
    total = len(load_digits().target)
    assert (table["split"] == "test").sum() == math.ceil(0.2 * total)
    assert (table["split"] == "reference").sum() == 0
    assert (table["split"] == "validation").mean() == pytest.approx(0.8 * 0.2, abs=0.03)
    # The publisher's two sets are mixed: its test images are in both of ours.
    assert set(table.loc[table["split"] == "test", "source"].str[:4]) == {"trai", "t10k"}


@pytest.mark.slow
def test_two_softmaxes_leave_a_floor_under_the_training_loss_that_one_does_not(
    mirror: Path, tmp_path: Path
) -> None:
    found = trained("a1_cifar10", tmp_path, epochs=12, batch_size=30)
    floor = math.log(1 + 9 / math.e)
    assert found["cross_entropy"][0] > 0.9
    assert found["cross_entropy"][1][-1] < 0.5 < floor
    assert all(value > floor for value in found["double_softmax"][1])


def test_images_reach_the_network_with_mean_0_and_deviation_1(mirror: Path, tmp_path: Path) -> None:
    block = study("a7_mnist").datasets["mnist"]
    fetch(block, "mnist", tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    task = task_class("classification")(data.info)
    encoded = task.encode_inputs(torch.from_numpy(np.array(data.split("train").inputs)))
    assert encoded.mean().item() == pytest.approx(0, abs=1e-4)
    assert encoded.std().item() == pytest.approx(1, abs=1e-3)
