"""Anomaly detection: trained on normal samples alone, scored on both; a fixed score for all losses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_params
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from losses_cases import Late

from lossbench.data.anomaly import hold_out
from lossbench.data.dataset import Dataset
from lossbench.data.fetching import fetch
from lossbench.data.samples import Fetched, Samples
from lossbench.errors import UserError
from lossbench.evaluation.replicates import predict_replicate, score_predicted
from lossbench.models.base import build
from lossbench.params import Anomaly, parse_params
from lossbench.params import Dataset as DatasetParams
from lossbench.recipe import Compute, Network, Recipe
from lossbench.tasks import task_class
from lossbench.tasks.anomaly import _principal_axes
from lossbench.tasks.base import GAP, task_for
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.prediction import predicting
from lossbench.training.setting import prepare
from lossbench.trial.model import try_model
from lossbench.trial.shared import Trial

NETWORK = Network(name="autoencoder", width=8, latent=6)
sk = Late("sklearn.metrics")
LOSSES = ("brier", "mae", "binary_cross_entropy", "gradient", "dice")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Zeros and ones are normal, all else is not."""
    folder = tmp_path_factory.mktemp("odd") / "digits"
    splits = {"validation": 0.15, "test": 0.3}
    spec = DatasetParams(
        source="digits", path="requirements.lock", splits=splits, anomaly={"normal": ["0", "1"]}
    )
    fetch(spec, "digits", folder)
    return Dataset.open(folder)


def test_training_and_validation_hold_normal_samples_alone(digits: Dataset) -> None:
    assert digits.info.kind == "anomaly"
    assert digits.info.classes == ("normal", "anomaly")
    for name in ("train", "validation"):
        assert not np.asarray(digits.split(name).targets).any()
    share = np.asarray(digits.split("test").targets).mean()
    assert 0.7 < share < 0.9


@given(st.integers(0, 10_000), st.sets(st.sampled_from("abc"), min_size=1, max_size=2))
@settings(max_examples=examples(40))
def test_nothing_is_lost_in_test_and_nothing_abnormal_is_trained_on(seed: int, normal: set[str]) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=30)
    samples = Samples(
        rng.integers(0, 255, (30, 1, 2, 2), dtype=np.uint8), labels, [str(i) for i in range(30)]
    )
    fetched = Fetched("label", ("a", "b", "c"), {}, {})
    splits = {"train": samples, "test": samples}
    made, said = hold_out(splits, fetched, Anomaly(normal=tuple(sorted(normal))), "mine")
    is_normal = np.isin(np.array(list("abc"))[labels], sorted(normal))
    assert len(made["train"]) == is_normal.sum()
    assert (made["test"].targets == ~is_normal).all()
    assert made["test"].columns["class"] == [("a", "b", "c")[label] for label in labels]
    assert (said.kind, said.classes) == ("anomaly", ("normal", "anomaly"))


@pytest.mark.parametrize(
    ("anomaly", "words"),
    [({"abnormal": ["d"]}, "no class is named 'd'"), ({"normal": ["a", "b", "c"]}, "every class is normal")],
)
def test_classes_that_make_no_sense_are_refused(anomaly: dict[str, list[str]], words: str) -> None:
    fetched = Fetched("label", ("a", "b", "c"), {}, {})
    with pytest.raises(UserError, match=f"datasets.mine.anomaly: {words}"):
        hold_out({}, fetched, Anomaly(**anomaly), "mine")  # type: ignore[arg-type]  # pydantic reads lists


def test_masks_cannot_be_anomalies() -> None:
    with pytest.raises(UserError, match="targets are of kind 'mask'"):
        hold_out({}, Fetched("mask", ("a", "b"), {}, {}), Anomaly(abnormal=("a",)), "mine")


def test_scores_equal_scikit_learns(digits: Dataset) -> None:
    task = task_class("anomaly")(digits.info)
    targets = np.asarray(digits.split("test").targets)
    digests = np.random.default_rng(0).random((len(targets), 65))
    found = task.score(digests, targets).metrics
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(targets, digests[:, 0]))
    assert found["aupr"] == pytest.approx(sk.average_precision_score(targets, digests[:, 0]))


def test_a_constant_score_is_chance(digits: Dataset) -> None:
    task = task_class("anomaly")(digits.info)
    targets = np.asarray(digits.split("test").targets)
    found = task.score(task.majority_digests(targets), targets).metrics
    assert found["auroc"] == 0.5
    assert found["aupr"] == pytest.approx(targets.mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_reconstruction_loss_trains(loss: str, digits: Dataset) -> None:
    recipe = Recipe(epochs=1, batch_size=32)
    task = task_class("anomaly")(digits.info)
    made = prepare(task, digits, NETWORK, recipe, {"name": loss}, Compute())
    assert not train_replicate(made, Member(0)).diverged


@pytest.mark.parametrize("write", [True, False])
def test_a_metric_of_ones_own_is_shown_reconstructions(
    write: bool, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def darkness(decisions, targets):\n    assert decisions.shape[1:] == (1, 8, 8)\n    return decisions.mean()\n"
    (tmp_path / "of_images.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    metric = "of_images:darkness"
    task = task_for("anomaly", metric)(digits.info)
    made = prepare(task, digits, NETWORK, Recipe(epochs=1, batch_size=32), {"name": "brier"}, Compute())
    state = train_replicate(made, Member(0)).state
    predicted = predict_replicate(state, NETWORK, 0, task, metric, digits, Compute(), write=write)
    found = score_predicted(predicted, task, metric, digits, write=write)
    assert 0 < found.scores.metrics[metric] < 1
    assert abs(found.scores.metrics[GAP]) < 1


def test_a_loss_that_needs_maps_of_the_targets_is_refused_in_a_sentence(digits: Dataset) -> None:
    task = task_class("anomaly")(digits.info)
    spec = {"sum": {"brier": 1.0, "boundary": 1.0}}
    with pytest.raises(UserError, match="reconstructs its augmented inputs"):
        train_replicate(
            prepare(task, digits, NETWORK, Recipe(epochs=1, batch_size=32), spec, Compute()), Member(0)
        )


def test_the_target_is_the_image_that_the_network_saw(digits: Dataset) -> None:
    task = task_class("anomaly")(digits.info)
    stored = torch.from_numpy(np.array(digits.split("train").inputs[:5]))
    seen = task.encode_inputs(stored)
    received = []

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        received.append(target)
        return outputs.sum()

    task.objective(loss, torch.zeros(5, 1, 8, 8), torch.zeros(5), seen)  # type: ignore[arg-type]  # a loss to listen with
    torch.testing.assert_close(received[0], stored.float() / 255)


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> dict[str, torch.Tensor]:
    task = task_class("anomaly")(digits.info)
    recipe = Recipe(epochs=30, batch_size=16, optimizer={"learning_rate": 0.005})
    made = prepare(task, digits, NETWORK, recipe, {"name": "binary_cross_entropy"}, Compute())
    return train_replicate(made, Member(0)).state


@pytest.mark.slow
def test_unseen_digits_are_found(digits: Dataset, trained: dict[str, torch.Tensor]) -> None:
    """Behaviour, minimum functionality: zeros and ones against all others."""
    task = task_class("anomaly")(digits.info)
    test = digits.split("test")
    with predicting(task, NETWORK, trained, test.inputs, Compute()) as predictor:
        digests, _ = predictor.digests(test)
    assert task.score(digests, np.asarray(test.targets)).metrics["auroc"] > 0.9


def test_a_damaged_normal_image_is_less_normal_than_itself(
    digits: Dataset, trained: dict[str, torch.Tensor]
) -> None:
    """Behaviour, direction."""
    task = task_class("anomaly")(digits.info)
    test = digits.split("test")
    normal = np.asarray(test.inputs)[np.asarray(test.targets) == 0]
    damaged = normal.copy()
    damaged[:, :, 2:6, 2:6] = 255 - damaged[:, :, 2:6, 2:6]
    with predicting(task, NETWORK, trained, normal, Compute()) as predictor:
        scores = [
            predictor.digests(replace(test, inputs=images, targets=np.zeros(len(images), np.int64)))[0][:, 0]
            for images in (normal, damaged)
        ]
    assert (scores[1] > scores[0]).mean() > 0.95


def test_floors_name_the_nearest_neighbour_and_chance(digits: Dataset) -> None:
    floors = task_class("anomaly")(digits.info).floors(digits)
    assert floors["constant prediction"]["aupr"] == pytest.approx(
        np.asarray(digits.split("test").targets).mean()
    )
    assert floors["nearest neighbour"]["auroc"] > 0.95


def test_an_image_whose_sides_do_not_halve_is_refused() -> None:
    with pytest.raises(UserError, match="divisible by 4; found 10×8"):
        build(Network(name="autoencoder"), (1, 10, 8), 1)


def test_principal_axes_of_few_large_images_are_those_of_the_pixels_covariance():
    known = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    for count in (40, 20):  # more images than pixels, and fewer
        mean, axes = _principal_axes(known[:count])
        centred = known[:count].double() - mean.double()
        _, expected = torch.linalg.eigh(centred.T @ centred)
        plane = expected[:, -axes.shape[1] :]
        torch.testing.assert_close((axes @ axes.T).double(), plane @ plane.T, atol=1e-4, rtol=0)
    assert _principal_axes(known[[0, 0, 0]])[1].shape == (30, 0)


def test_scores_need_no_reconstructions(digits):
    task = task_class("anomaly")(digits.info)
    inputs = task.encode_inputs(torch.from_numpy(np.array(digits.split("train").inputs[:5])))
    outputs = torch.randn(inputs.shape)
    whole, brief = (digest(outputs, None, inputs) for digest in (task.digest, task.score_digest))
    assert torch.equal(whole[:, :1], brief)
    targets = np.array([0, 1, 0, 0, 1])
    assert task.score(whole.numpy(), targets).metrics == task.score(brief.numpy(), targets).metrics


def test_a_network_that_changes_the_image_it_is_compared_with_is_refused(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_inplace.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.first = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 1, 1))\n"
        "    def forward(self, x):\n        return self.first(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    content = tiny_params()
    experiment = content["experiments"]["digits"]
    experiment |= {"task": "anomaly", "metric": "auroc", "model": "mine_inplace:Net"}
    task, params = task_class("anomaly")(digits.info), parse_params(content)
    samples = task.encode_inputs(torch.from_numpy(np.array(digits.split("train").inputs[:2])))
    trial = Trial("params.yaml", params.experiments["digits"], task, samples, Compute())
    with pytest.raises(UserError, match="changes its inputs in place, which task 'anomaly' compares"):
        try_model(trial)
