"""Weights and soft labels of the data: what training sees of them, and what nothing else does."""

import numpy as np
import pytest
import torch
from training_cases import digest, labels_dataset, masks_dataset, setting

from lossbench.data.dataset import Dataset
from lossbench.errors import UserError
from lossbench.losses import Sum
from lossbench.losses.building import LossContext, build
from lossbench.training.fitting import fit
from lossbench.training.measure import constant_loss
from lossbench.training.member import Member
from lossbench.training.mixing import mixed
from lossbench.training.portions import Batch
from lossbench.training.samples import Plan, changed

ENGINES = ("loop", "population")


def weighted(data: Dataset, of_split) -> Dataset:
    """The same data with weights, or soft labels, as ``fetch`` writes them."""
    found = {split: of_split(data.split(split)) for split in ("train", "validation")}
    for split, extra in found.items():
        for name, values in extra.items():
            np.save(data.folder / split / f"{name}.npy", values.astype(np.float32))
            kind = "sample" if values.ndim == 1 else "position"
            data.info.extra[name] = kind if name == "weights" else True
    return data


def ones(split) -> dict[str, np.ndarray]:
    return {"weights": np.ones(len(split.targets))}


def hard(split) -> dict[str, np.ndarray]:
    return {"soft": np.eye(3)[split.targets]}


def trained(data: Dataset, engine: str = "loop", **changes) -> list[str]:
    made = setting(data, compute={"engine": engine}, epochs=1, **changes)
    return [digest(one) for one in fit(made, [Member(0), Member(1)])]


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_weights_and_labels_that_are_certain_change_nothing_but_rounding(tmp_path, engine):
    def states(data):
        made = setting(data, compute={"engine": engine}, epochs=1)
        return [one.state for one in fit(made, [Member(0), Member(1)])]

    plain = states(labels_dataset(tmp_path / "plain"))
    for name, of_split in (("weights", ones), ("soft", hard)):
        for one, other in zip(
            plain, states(weighted(labels_dataset(tmp_path / name), of_split)), strict=True
        ):
            for key in one:
                torch.testing.assert_close(other[key], one[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_weighs_nothing_is_not_learnt_from(tmp_path, engine):
    """Wrong labels of weight 0 leave the bits as they are; of weight 1 they do not."""
    found = []
    for number, (wrong, weight) in enumerate([(False, 0.0), (True, 0.0), (True, 1.0)]):
        data = labels_dataset(tmp_path / str(number))
        where = data.folder / "train" / "targets.npy"
        targets = np.load(where)
        if wrong:
            targets[::4] = (targets[::4] + 1) % 3
            np.save(where, targets)

        def of_split(split, weight=weight):
            values = np.ones(len(split.targets))
            values[::4] = weight
            return {"weights": values}

        found.append(trained(weighted(data, of_split), engine))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("budget", ["", "0"], ids=["in memory", "from disk"])
def test_a_batch_brings_its_weights_and_soft_labels(tmp_path, monkeypatch, budget):
    if budget:
        monkeypatch.setenv("LOSSBENCH_MEMORY", budget)
    data = weighted(labels_dataset(tmp_path / "data"), lambda split: {
        "weights": np.arange(len(split.targets)), "soft": np.full((len(split.targets), 3), 1 / 3),
    })  # fmt: skip
    made = setting(data, validation="per_seed")
    batch = made.train.take(torch.tensor([5, 2]))
    assert batch.weights.tolist() == [5.0, 2.0]
    assert batch.soft.shape == (2, 3)
    assert len(Plan(made, 0).train.take(torch.arange(4)).weights) == 4


def test_weight_maps_move_with_their_masks(tmp_path):
    data = weighted(masks_dataset(tmp_path / "data"), lambda split: {"weights": split.targets + 1.0})
    made = setting(
        data, augmentation={"flip": True, "vertical_flip": True, "shift": 2}, mixing={"cutmix": 1.0}
    )
    plan = Plan(made, 0)
    epoch = plan.epoch(1)
    batch = changed(plan.train.take(epoch.order[:16]), made, epoch.draws.at(slice(0, 16)), None)
    shown = plan.mixed(batch, 1, 0)
    assert torch.equal(shown.weights, shown.targets + 1.0)
    assert not torch.equal(shown.weights, batch.weights)


def test_weights_are_blended_as_what_they_weigh(tmp_path):
    made = setting(labels_dataset(tmp_path / "data"), mixing={"mixup": 1.0})
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0])
    batch = Batch(weights.view(4, 1, 1, 1).expand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), None, weights)
    shown = mixed(batch, made.recipe, made.task, 0, 1, 0)
    torch.testing.assert_close(shown.weights, shown.inputs[:, 0, 0, 0])


@pytest.mark.parametrize("engine", ENGINES)
def test_masks_are_trained_with_weights_of_pixels(tmp_path, engine):
    plain = trained(masks_dataset(tmp_path / "plain"), engine, loss={"sum": {"cross_entropy": 1, "dice": 1}})
    data = weighted(masks_dataset(tmp_path / "data"), lambda split: {"weights": split.targets + 1.0})
    made = trained(data, engine, loss={"sum": {"cross_entropy": 1, "dice": 1}})
    assert len(set(plain + made)) == 4


def test_the_best_constant_is_that_of_the_weighted_loss(tmp_path):
    def only_class_0(split):
        return {"weights": (split.targets == 0).astype(float)}

    alone = constant_loss(setting(weighted(labels_dataset(tmp_path / "data"), only_class_0)), Member(0))
    assert alone < constant_loss(setting(labels_dataset(tmp_path / "plain")), Member(0))


# --- losses of somebody else's ---


def heeds(logits, target, weights=None):
    each = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    return each.mean() if weights is None else (each * weights).sum() / weights.sum()


def heedless(logits, target):
    return torch.nn.functional.cross_entropy(logits, target)


class Filled(torch.nn.Module):
    def forward(self, logits, target, weights=None):
        return heeds(logits, target, weights)


@pytest.mark.parametrize("name", ["heeds", "Filled"])
def test_a_loss_with_an_argument_weights_is_told_them(name):
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    weights = torch.arange(6.0)
    made = build({"name": f"test_training_weights:{name}"}, LossContext(classes=3))
    ours = build({"name": "cross_entropy"}, LossContext(classes=3))
    torch.testing.assert_close(made(logits, target, weights=weights), ours(logits, target, weights=weights))
    both = Sum({"a": made, "b": ours})
    assert both.weighs
    torch.testing.assert_close(
        both(logits, target, weights=weights), 2 * ours(logits, target, weights=weights)
    )
    masks, maps = torch.randint(3, (2, 4, 4)), torch.rand(2, 4, 4)
    both = Sum({"a": made, "b": ours})(torch.zeros(2, 3, 4, 4), masks, weights=maps)
    assert both.item() == pytest.approx(2 * np.log(3), rel=1e-5)


def test_an_argument_that_params_fill_is_none_that_is_told():
    made = build({"name": "test_training_weights:heeds", "weights": None}, LossContext(classes=3))
    assert not made.weighs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss": {"name": "test_training_weights:heedless"}},
         r"loss: loss 'test_training_weights:heedless' takes no weights, but the data have a weight for each "
         r"sample; allowed: a loss with an argument 'weights'"),
        ({"loss": {"sum": {"cross_entropy": 1, "own": {"name": "test_training_weights:heedless"}}}},
         "loss 'sum' takes no weights"),
    ],
)  # fmt: skip
def test_a_loss_that_takes_no_weights_is_refused(tmp_path, changes, sentence):
    data = weighted(labels_dataset(tmp_path / "data"), ones)
    with pytest.raises(UserError, match=sentence):
        setting(data, **changes)


def test_soft_labels_are_refused_where_a_loss_takes_no_distribution(tmp_path):
    data = weighted(labels_dataset(tmp_path / "data"), hard)
    with pytest.raises(
        UserError, match=r"loss.name is lovasz, which takes no distribution.*as soft labels are"
    ):
        setting(data, loss={"name": "lovasz"})


def test_an_augmentation_of_ones_own_cannot_move_what_it_does_not_see(tmp_path):
    data = weighted(labels_dataset(tmp_path / "data"), hard)
    with pytest.raises(
        UserError, match=r"'recipe.augmentation.own' is shown inputs and targets, but the data"
    ):
        setting(data, augmentation={"own": "test_training_weights:heeds"})
