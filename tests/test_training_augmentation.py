"""Augmentation moves masks with their images, and only those samples it is meant for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples

from lossbench.recipe import Augmentation
from lossbench.training.augmentation import Draws, augment, draw


def drawn(how: Augmentation, count: int, size=(6, 5), seed: int = 0, chosen=None) -> Draws:
    return draw(how, count, size, torch.Generator().manual_seed(seed), chosen)


@settings(max_examples=examples(40), deadline=None)
@given(
    shift=st.integers(0, 3),
    flip=st.booleans(),
    vertical=st.booleans(),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_masks_and_maps_move_with_their_image(shift, flip, vertical, height, width, seed):
    how = Augmentation(shift=shift, flip=flip, vertical_flip=vertical)
    places = torch.arange(4 * height * width).view(4, 1, height, width)
    images, masks, maps = places.float(), places[:, 0], places.double().expand(-1, 3, -1, -1)
    moved, (mask, three) = augment(images, [masks, maps], how, drawn(how, 4, (height, width), seed))
    assert torch.equal(moved[:, 0].long(), mask)
    assert torch.equal(moved.double().expand(-1, 3, -1, -1), three)
    assert mask.dtype == torch.int64


def test_a_shift_moves_down_and_right_and_repeats_the_edge():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    moved, _ = augment(image, [], Augmentation(shift=1), Draws(shift=torch.tensor([[1, -1]])))
    assert moved[0, 0].tolist() == [[1, 2, 2], [1, 2, 2]]


def test_every_shift_within_reach_occurs_about_equally_often():
    shift = drawn(Augmentation(shift=2), 5000).shift
    counts = torch.bincount(shift[:, 0] + 2)
    assert len(counts) == 5
    assert counts.min() > 850


def test_a_flip_is_a_mirror_image_of_half_the_samples():
    images = torch.rand(400, 2, 3, 4)
    draws = drawn(Augmentation(flip=True), 400)
    moved, _ = augment(images, [], Augmentation(flip=True), draws)
    assert 150 < draws.flip.sum() < 250
    assert torch.equal(moved[draws.flip], images[draws.flip].flip(-1))
    assert torch.equal(moved[~draws.flip], images[~draws.flip])


def test_cutout_blanks_one_square_of_the_image_and_leaves_the_mask():
    how = Augmentation(cutout=3)
    images, mask = torch.ones(50, 1, 9, 9), torch.ones(50, 9, 9).long()
    moved, (kept,) = augment(images, [mask], how, drawn(how, 50, (9, 9)))
    blank = (moved == 0).flatten(1).sum(1)
    assert blank.max() == 9
    assert blank.min() >= 4
    assert torch.equal(kept, mask)


def test_noise_has_the_size_that_params_say():
    noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    moved, _ = augment(torch.zeros(64, 1, 8, 8), [], Augmentation(noise=0.3), Draws(), noise)
    assert moved.std().item() == pytest.approx(0.3, rel=0.05)


def test_only_chosen_samples_change():
    how = Augmentation(shift=2, flip=True, vertical_flip=True, cutout=3, noise=0.5)
    images = torch.rand(200, 1, 6, 5)
    chosen = torch.arange(200) % 2 == 0
    draws = drawn(how, 200, chosen=chosen)
    moved, _ = augment(images, [], how, draws, torch.randn(200, 1, 6, 5))
    assert torch.equal(moved[~chosen], images[~chosen])
    assert not (moved[chosen] == images[chosen]).flatten(1).all(1).any()
