"""A sample's side follows from its content alone."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossbench.data.fetching import smallest_hashes
from lossbench.data.samples import POOL, Samples, content_hashes
from lossbench.data.splits import divide, position, split
from lossbench.errors import UserError
from lossbench.params import Splits

SHARES = {"test": 0.2, "validation": 0.1, "reference": 0.05}
contents = st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), min_size=1, max_size=60)


def sides(hashes: list[str], salt: str = "s") -> dict[str, str]:
    return {hashes[i]: side for side, index in divide(hashes, SHARES, salt).items() for i in index}


def noise(count: int, seed: int = 0) -> Samples:
    images = np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    return Samples(images, np.arange(count) % 3, [f"{seed}-{i}" for i in range(count)])


@given(contents)
def test_every_sample_gets_exactly_one_side(hashes: list[str]) -> None:
    index = np.concatenate(list(divide(hashes, SHARES, "s").values()))
    assert sorted(index) == list(range(len(hashes)))


@given(contents, contents)
def test_no_sample_changes_sides_when_data_grow(old: list[str], new: list[str]) -> None:
    before, after = sides(old), sides(new + old)
    assert all(after[one] == side for one, side in before.items())


@given(contents)
def test_duplicates_land_on_one_side(hashes: list[str]) -> None:
    twice = hashes + hashes
    found = {side: {twice[i] for i in index} for side, index in divide(twice, SHARES, "s").items()}
    assert sum(len(some) for some in found.values()) == len(set(hashes))


@given(contents, st.randoms(use_true_random=False))
def test_order_does_not_matter(hashes: list[str], random: object) -> None:
    shuffled = list(hashes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random
    assert sides(shuffled) == sides(hashes)


def test_shares_are_kept_and_another_salt_is_another_division() -> None:
    hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(20_000)]
    for side, index in divide(hashes, SHARES, "s").items():
        share = SHARES.get(side, 0.65)
        assert abs(len(index) / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5
    assert sides(hashes, "s") != sides(hashes, "t")


def test_positions_are_frozen_for_ever() -> None:
    assert position("00", "lossbench") == 0.1139441574512748


def test_a_pool_is_divided_into_all_four() -> None:
    done = split({POOL: noise(400)}, Splits(), "mine")
    assert list(done) == ["train", "validation", "test", "reference"]
    assert sum(len(one) for one in done.values()) == 400
    assert all(len(one) for one in done.values())


def test_the_publishers_test_split_is_kept_and_the_rest_is_carved_from_training() -> None:
    train, test = noise(400), noise(50, seed=1)
    done = split({"train": train, "test": test}, Splits(), "mine")
    assert done["test"] is test
    carved = {name for key in ("train", "validation", "reference") for name in done[key].names}
    assert carved == set(train.names)


def test_the_publishers_validation_split_is_kept() -> None:
    groups = {"train": noise(300), "validation": noise(40, 1), "test": noise(50, 2)}
    done = split(groups, Splits(), "mine")
    assert done["validation"] is groups["validation"]
    assert 0 < len(done["reference"]) < 60


def test_reference_samples_are_never_trained_on() -> None:
    done = split({POOL: noise(300)}, Splits(reference=0.2), "mine")
    assert not set(done["reference"].hashes()) & set(done["train"].hashes())


def test_too_few_samples_are_refused_by_name() -> None:
    with pytest.raises(
        UserError, match=r"datasets.mine.splits: the \w+ split is empty \(2 samples to divide\)"
    ):
        split({POOL: noise(2)}, Splits(), "mine")


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_larger_subset_contains_a_smaller_one(first: int, second: int) -> None:
    small, large = sorted((first, second))
    samples = noise(60)
    few, many = smallest_hashes(samples, small, "s"), smallest_hashes(samples, large, "s")
    assert set(few.names) <= set(many.names)
    assert len(few) == small


@given(st.integers(0, 2**32 - 1))
def test_content_hashes_tell_values_shapes_and_types_apart(seed: int) -> None:
    one = np.random.default_rng(seed).integers(0, 256, (1, 2, 8), dtype=np.uint8)
    other = one.copy()
    other[0, 0, 0] ^= 1
    variants = [one, other, one.reshape(1, 4, 4), one.astype(np.int64)]
    assert len({content_hashes(array)[0] for array in variants}) == len(variants)
