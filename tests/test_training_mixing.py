"""Mixup, CutMix and smoothed labels: distributions over the classes, drawn from the seed alone."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import each, examples
from training_cases import digest, labels_dataset, masks_dataset, setting

from lossbench import losses
from lossbench.errors import UserError
from lossbench.losses.building import check_distributions
from lossbench.recipe import Recipe
from lossbench.tasks import task_class
from lossbench.training.fitting import fit
from lossbench.training.member import Member
from lossbench.training.mixing import (
    blended,
    distribution,
    draw_mix,
    makes_distributions,
    mixed,
    pasted,
    smoothed_labels,
)
from lossbench.training.portions import Batch

IGNORE = 255
SOFT = ({"mixing": {"mixup": 0.4}}, {"mixing": {"cutmix": 1.0}}, {"label_smoothing": 0.1})


def recipe(**given) -> Recipe:
    return Recipe(epochs=1, batch_size=4, **given)


def task(name: str, ignore_index: int | None = None) -> SimpleNamespace:
    kinds = task_class(name).kinds
    info = SimpleNamespace(ignore_index=ignore_index)
    return SimpleNamespace(kinds=kinds, multilabel=name == "multilabel", loss_classes=3, info=info)


@settings(max_examples=examples(30))
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.floats(0, 0.99))
def test_a_smoothed_target_is_a_distribution_whose_peak_is_the_class(index, smoothing):
    made = distribution(torch.tensor(index), 5, None, smoothing)
    torch.testing.assert_close(made.sum(1), torch.ones(len(index)))
    assert torch.equal(made.argmax(1), torch.tensor(index))
    entropy = losses.CrossEntropy(label_smoothing=smoothing)
    logits = torch.randn(len(index), 5)
    torch.testing.assert_close(
        losses.CrossEntropy(labels="exclusive")(logits, made), entropy(logits, torch.tensor(index))
    )


@settings(max_examples=examples(30))
@given(
    st.floats(0.1, 4), st.integers(1, 12), st.integers(0, 2**40), st.sampled_from(["mixup", "cutmix", "both"])
)
def test_a_draw_is_a_permutation_and_a_share_that_is_the_area_left(alpha, count, seed, kind):
    how = {name: alpha for name in ("mixup", "cutmix") if kind in (name, "both")}
    mix = draw_mix(recipe(mixing=how), count, (6, 9), seed, 1, 0)
    assert sorted(mix.partner.tolist()) == list(range(count))
    assert 0 <= mix.share <= 1
    if mix.box is not None:
        area = pasted(torch.ones(1, 6, 9), torch.zeros(1, 6, 9), mix.box).mean()
        assert mix.share == pytest.approx(float(area))
    again = draw_mix(recipe(mixing=how), count, (6, 9), seed, 1, 0)
    assert (again.share, again.box) == (mix.share, mix.box)
    assert torch.equal(again.partner, mix.partner)


@pytest.mark.parametrize("soft", SOFT)
def test_mixed_classes_are_distributions_and_inputs_are_mixed_alike(soft):
    index = torch.tensor([0, 1, 2, 0])
    inputs = index.float().view(4, 1, 1, 1).expand(4, 1, 8, 8)  # a pixel tells its class
    for step in range(5):
        made = mixed(Batch(inputs, index, None), recipe(**soft), task("classification"), 3, 1, step)
        torch.testing.assert_close(made.targets.sum(1), torch.ones(4))
        if "mixing" in soft:  # so the mean pixel is the mean class
            expected = made.targets @ torch.arange(3.0)
            torch.testing.assert_close(made.inputs.mean((1, 2, 3)), expected)


def test_mixed_masks_move_with_their_images_and_keep_what_is_not_known():
    masks = torch.randint(3, (4, 8, 8))
    masks[0, :3] = IGNORE
    inputs = masks.float().unsqueeze(1)
    how = task("segmentation", IGNORE)
    cut = mixed(Batch(inputs, masks, None), recipe(mixing={"cutmix": 1.0}), how, 3, 1, 0)
    assert torch.equal(cut.targets, cut.inputs[:, 0].long())
    blend = mixed(Batch(inputs, masks, None), recipe(mixing={"mixup": 1.0}), how, 3, 1, 0)
    known = (blend.targets != IGNORE).all(1)
    torch.testing.assert_close(blend.targets.sum(1)[known], torch.ones(int(known.sum())))
    assert torch.equal((blend.targets == IGNORE).all(1), ~known)
    assert (~known).sum() >= 24
    loss = losses.CrossEntropy(labels="exclusive", ignore_index=IGNORE, check="always")
    assert math.isfinite(loss(torch.randn(4, 3, 8, 8), blend.targets))


def test_several_labels_become_numbers_between_no_and_yes():
    labels = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert smoothed_labels(labels, 0.2, None).unique().tolist() == pytest.approx([0.1, 0.9])
    made = mixed(
        Batch(torch.zeros(2, 1, 4, 4), labels, None),
        recipe(mixing={"mixup": 1.0}),
        task("multilabel"),
        3,
        1,
        0,
    )
    assert made.targets.min() >= 0
    assert made.targets.max() <= 1
    torch.testing.assert_close(made.targets.sum(0), labels.sum(0))  # a permutation keeps the sum


def test_a_blend_with_itself_is_itself():
    values = torch.rand(3, 4)
    torch.testing.assert_close(blended(values, values, 0.3), values)


# --- which losses ---


@pytest.mark.parametrize("soft", SOFT)
def test_every_loss_takes_distributions_or_is_refused_in_a_sentence(soft):
    assert makes_distributions(recipe(**soft), task("classification"))
    context = losses.LossContext(classes=4, class_counts=(9, 5, 2, 1), distributions=True)
    target = torch.full((3, 4, 5, 4), 0.25)
    taken = 0
    for name, cls in losses.REGISTRY.items():
        spec = {"sum": {name: 1.0}} if cls.only_in_sum else {"name": name}
        try:
            check_distributions(spec, "losses.x")
        except UserError as error:
            assert re.match(
                r"losses\.x(\.sum\.\w+)?\.name is \w+, which takes no distribution.*allowed: ", str(error)
            )
            continue
        if cls.auxiliary:
            continue
        taken += 1
        made = losses.build(spec, context, "losses.x")
        assert made.labels == "exclusive"
        assert torch.isfinite(made(torch.randn(3, 4, 5, 4), target))
        assert torch.isfinite(made(torch.randn(3, 4, 5, 4), torch.randint(4, (3, 5, 4))))
    assert taken > 30


def test_labels_written_as_independent_are_refused():
    with pytest.raises(
        UserError, match=r"losses.x.labels is 'independent', but 'recipe.mixing'.*allowed: excl"
    ):
        check_distributions({"name": "dice", "labels": "independent"}, "losses.x")
    with pytest.raises(UserError, match=r"losses.x.sum.zlpr.name is zlpr, which takes no distribution"):
        check_distributions({"sum": {"dice": 1.0, "zlpr": 1.0}}, "losses.x")


# --- training ---


def test_a_recipe_without_these_knobs_is_shown_the_batch_itself():
    batch = Batch(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), None)
    assert mixed(batch, recipe(), task("classification"), 3, 1, 0) is batch
    assert not recipe().mixes


def test_what_was_declared_before_these_knobs_keeps_its_hash():
    assert not {"mixing", "label_smoothing"} & set(recipe().model_dump(mode="json"))
    for soft in SOFT:
        assert soft.items() <= recipe(**soft).model_dump(mode="json", exclude_unset=True).items()
        assert Recipe(**recipe(**soft).model_dump()) == recipe(**soft)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return masks_dataset(tmp_path_factory.mktemp("masks"))


@each("engine", ["loop", "population"])
@each("soft", SOFT)
def test_a_soft_training_repeats_and_differs_from_a_hard_one(labels, engine, soft):
    compute = {"engine": engine}
    made = [
        fit(setting(labels, compute=compute, epochs=1, **one), [Member(0), Member(1)])[0]
        for one in (soft, soft, {})
    ]
    assert digest(made[0]) == digest(made[1])
    assert digest(made[0]) != digest(made[2])


def test_a_population_mixes_each_member_as_the_loop_does(labels):
    soft = {"mixing": {"mixup": 0.4, "cutmix": 1.0}, "label_smoothing": 0.1, "epochs": 2}
    alone = fit(setting(labels, **soft), [Member(1)])[0]
    together = fit(setting(labels, compute={"engine": "population"}, **soft), [Member(0), Member(1)])[1]
    for name, value in alone.state.items():
        torch.testing.assert_close(together.state[name], value, atol=1e-4, rtol=1e-3)


def test_masks_are_trained_mixed(masks):
    found = fit(setting(masks, loss={"name": "dice"}, mixing={"mixup": 0.4}, epochs=1), [Member(0)])[0]
    assert not found.diverged


def test_what_cannot_be_mixed_is_refused(labels, masks):
    with pytest.raises(UserError, match=r"'recipe.mixing' breaks the regions .*allowed with it: no mixing"):
        setting(masks, loss={"sum": {"dice": 1.0, "boundary": 0.1}}, mixing={"cutmix": 1.0})
    with pytest.raises(UserError, match=r"loss.name is zlpr"):
        fit(setting(labels, loss={"name": "zlpr"}, mixing={"mixup": 1.0}), [Member(0)])
