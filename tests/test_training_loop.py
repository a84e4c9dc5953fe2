"""One replicate: it learns, keeps what params say, stops when it should, and admits when it diverged."""

import math

import numpy as np
import pytest
import torch
from law_cases import each, mostly_slow
from training_cases import CLASSES, CNN, digest, labels_dataset, masks_dataset, setting

from lossbench.errors import UserError
from lossbench.training.fitting import fit
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.samples import Plan


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return masks_dataset(tmp_path_factory.mktemp("masks"))


def series(replicate, split: str, metric: str) -> list[float]:
    return [one.value for one in replicate.history if (one.split, one.metric) == (split, metric)]


@each("name", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"])
def test_every_optimizer_learns(labels, name):
    rate = 0.3 if name == "sgd" else 0.03 if name in ("momentum", "nesterov") else 0.01
    made = setting(labels, epochs=12, optimizer={"name": name, "learning_rate": rate})
    found = train_replicate(made, Member(0))
    assert series(found, "validation", "accuracy")[-1] > 0.8
    assert series(found, "train", "loss")[-1] < series(found, "train", "loss")[0]


@pytest.mark.parametrize("loss", mostly_slow(["cross_entropy", "dice", "hinge"], 3))
def test_masks_are_learnt_with_every_kind_of_loss(masks, loss):
    made = setting(masks, loss={"name": loss}, epochs=25, batch_size=8)
    assert series(train_replicate(made, Member(0)), "validation", "mean_iou")[-1] > 0.8


def test_bf16_learns_and_is_not_fp32(labels):
    half = train_replicate(setting(labels, compute={"precision": "bf16"}, epochs=12), Member(0))
    full = train_replicate(setting(labels, epochs=12), Member(0))
    assert series(half, "validation", "accuracy")[-1] > 0.8
    assert all(value.dtype == torch.float32 for value in half.state.values())
    assert digest(half) != digest(full)


def test_the_best_epoch_is_kept_where_params_say_so(labels):
    recipe = {"epochs": 6, "optimizer": {"name": "adam", "learning_rate": 0.05}}
    best = train_replicate(setting(labels, checkpoint="best", **recipe), Member(1))
    last = train_replicate(setting(labels, checkpoint="last", **recipe), Member(1))
    scores = series(best, "validation", "accuracy")
    assert best.history == last.history
    assert best.epoch == 1 + int(np.argmax(scores))
    assert last.epoch == 6
    early = train_replicate(setting(labels, **{**recipe, "epochs": best.epoch}), Member(1))
    if best.epoch == 6:
        assert all(torch.equal(best.state[name], last.state[name]) for name in best.state)
    assert list(early.state) == list(best.state)


def test_the_kept_best_state_is_that_epochs(labels):
    recipe = {"schedule": {"name": "constant"}, "optimizer": {"name": "adam", "learning_rate": 0.05}}
    best = train_replicate(setting(labels, checkpoint="best", epochs=8, **recipe), Member(2))
    stopped = train_replicate(setting(labels, checkpoint="last", epochs=best.epoch, **recipe), Member(2))
    assert all(torch.equal(best.state[name], stopped.state[name]) for name in best.state)


def test_training_stops_early_when_validation_no_longer_improves(labels):
    made = setting(labels, epochs=60, early_stopping=3, optimizer={"name": "adam", "learning_rate": 0.03})
    found = train_replicate(made, Member(0))
    scores = series(found, "validation", "accuracy")
    assert len(scores) < 60
    assert len(scores) - (1 + int(np.argmax(scores))) == 3


def test_a_replicate_that_diverges_stops_and_says_so_and_the_others_go_on(labels):
    members = [Member(0), Member(1, learning_rate=1e30)]
    made = setting(labels, epochs=5, optimizer={"name": "sgd", "learning_rate": 0.01})
    good, bad = fit(made, members)
    assert (good.diverged, bad.diverged) == (False, True)
    assert len(series(good, "train", "loss")) == 5
    assert not math.isfinite(series(bad, "train", "loss")[-1])
    assert len(series(bad, "train", "loss")) < 5
    assert digest(good) == digest(fit(made, members[:1])[0])


def test_a_members_own_loss_and_rate_replace_the_arms(labels):
    made = setting(labels)
    own = Member(0, learning_rate=0.002, weight_decay=0.1, loss={"name": "focal", "gamma": 1.0})
    optimizer = {"name": "adam", "learning_rate": 0.002, "weight_decay": 0.1}
    same = setting(labels, loss={"name": "focal", "gamma": 1.0}, optimizer=optimizer)
    assert digest(train_replicate(made, own)) == digest(train_replicate(same, Member(0)))


@each(
    "change",
    [
        {"l1": 1e-2},
        {"gradient_clip": 0.01},
        {"optimizer": {"name": "adam", "learning_rate": 0.01, "weight_decay": 0.1}},
        {"schedule": {"name": "cosine"}},
        {"schedule": {"name": "constant", "warmup": 0.5}},
        {"augmentation": {"noise": 0.2}},
        {"augmentation": {"shift": 1}},
        {"sampling": "balanced"},
        {"validation": "per_seed"},
        {"batch_size": 32},
    ],
)
def test_every_knob_of_the_recipe_turns_something(labels, change):
    assert digest(train_replicate(setting(labels, **change), Member(0))) != digest(
        train_replicate(setting(labels), Member(0))
    )


def test_l1_makes_weights_smaller(labels):
    def size(l1: float) -> float:
        found = train_replicate(setting(labels, epochs=6, l1=l1), Member(0))
        return sum(float(value.abs().sum()) for value in found.state.values() if value.ndim > 1)

    assert size(0.05) < 0.5 * size(0.0)


def test_dropout_has_masks_of_its_own_in_every_step(labels):
    network = {**CNN, "dropout": 0.5}
    dropped = train_replicate(setting(labels, network), Member(0))
    assert digest(dropped) == digest(train_replicate(setting(labels, network), Member(0)))
    assert digest(dropped) != digest(train_replicate(setting(labels), Member(0)))
    plan = Plan(setting(labels, network), 0)
    seeds = {plan.dropout_seed(epoch, step) for epoch in range(3) for step in range(5)}
    assert len(seeds) == 15


def test_the_last_small_batch_is_left_out_or_trained_on_as_params_say(labels):
    assert Plan(setting(labels, batch_size=36), 0).per_epoch == 2
    assert Plan(setting(labels, batch_size=36, drop_last=False), 0).per_epoch == 3
    assert Plan(setting(labels, batch_size=1000), 0).per_epoch == 1
    train_replicate(setting(labels, batch_size=36, drop_last=False), Member(0))


def test_balanced_sampling_shows_all_classes_equally_often(tmp_path):
    data = labels_dataset(tmp_path, train=600, shares=[0.9, 0.08, 0.02])
    plan = Plan(setting(data, sampling="balanced", batch_size=600), 0)
    shown = torch.cat([plan.train.take(plan.epoch(number).order).targets for number in range(1, 6)])
    assert torch.bincount(shown).float().div(len(shown)).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)


def test_only_rare_classes_are_augmented_where_params_say_so(tmp_path):
    data = labels_dataset(tmp_path, train=300, shares=[0.8, 0.1, 0.1])
    how = {"shift": 3, "rare_classes_only": True}
    plan = Plan(setting(data, augmentation=how, batch_size=300), 0)
    epoch = plan.epoch(1)
    rare = plan.train.take(epoch.order).targets > 0
    moved = (epoch.draws.shift != 0).any(1)
    assert not moved[~rare].any()
    assert moved[rare].float().mean() > 0.9


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ({"sampling": "balanced"}, "sampling"),
        ({"augmentation": {"rare_classes_only": True}}, "rare_classes_only"),
    ],
)
def test_what_needs_one_label_per_sample_is_refused_for_masks(masks, recipe, key):
    with pytest.raises(UserError, match=f"{key}.*'mask'"):
        setting(masks, **recipe)


def test_a_target_beyond_the_classes_is_refused_before_training(tmp_path):
    data = labels_dataset(tmp_path)
    np.save(tmp_path / "train" / "targets.npy", np.full(96, len(CLASSES), dtype=np.int64))
    with pytest.raises(ValueError, match=r"target 3 .* allowed: 0\.\.2"):
        setting(data)
