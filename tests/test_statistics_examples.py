"""The seeds × examples interval: its two parts against theory, its coverage, its laws."""

import math

import numpy as np
import pytest
from scipy import stats

from lossbench.statistics.examples import seeds_by_examples
from lossbench.statistics.paired import mean_interval


def share(total):
    return total[..., 0] / total[..., 1]


def hits(rng, seeds, examples, logit):
    hit = (rng.normal(logit, 1, (seeds, examples)) > 0).astype(np.float64)
    return np.stack([hit, np.ones_like(hit)], axis=-1)


@pytest.fixture
def arms():
    rng = np.random.default_rng(0)
    return hits(rng, 8, 200, 1.0), hits(rng, 8, 200, 0.8)


def test_seeds_that_all_agree_leave_the_paired_z_interval_over_examples():
    rng = np.random.default_rng(0)
    arm, baseline = (np.repeat(hits(rng, 1, 400, logit), 5, axis=0) for logit in (1.0, 0.8))
    per_example = arm[0, :, 0] - baseline[0, :, 0]
    half = stats.norm.ppf(0.975) * per_example.std(ddof=1) / math.sqrt(400)
    found = seeds_by_examples(arm, baseline, share, 0.05, draws=4000)
    assert (found.low + found.high) / 2 == pytest.approx(per_example.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_examples_that_are_all_alike_leave_the_seed_interval():
    scores = np.random.default_rng(0).normal(0.8, 0.1, (2, 6))
    arm, baseline = (np.repeat(np.stack([one, np.ones(6)], -1)[:, None], 50, axis=1) for one in scores)
    found = seeds_by_examples(arm, baseline, share, 0.05)
    expected = mean_interval(scores[0] - scores[1], 0.05)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_it_is_never_narrower_than_the_seed_interval(arms):
    found = seeds_by_examples(*arms, share, 0.05)
    seed_only = mean_interval((arms[0] - arms[1])[..., 0].mean(axis=1), 0.05)
    assert found.low <= seed_only.low < seed_only.high <= found.high


def test_swapping_the_arms_mirrors_the_interval(arms):
    there, back = seeds_by_examples(*arms, share, 0.05), seeds_by_examples(*reversed(arms), share, 0.05)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_it_repeats_itself_and_the_order_of_seeds_does_not_matter(arms):
    first = seeds_by_examples(*arms, share, 0.05)
    assert first == seeds_by_examples(*arms, share, 0.05)
    turned = seeds_by_examples(*(one[::-1] for one in arms), share, 0.05)
    assert (turned.low, turned.high) == pytest.approx((first.low, first.high))


def test_an_arm_against_itself_differs_by_nothing(arms):
    found = seeds_by_examples(arms[0], arms[0], share, 0.05)
    assert (found.low, found.high) == (0, 0)


def test_a_metric_that_a_resample_leaves_undefined_gives_no_interval(arms):
    found = seeds_by_examples(*arms, lambda total: np.full(total.shape[:-1], np.nan), 0.05)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_it_covers_the_population_where_the_seed_interval_does_not():
    """Two arms equally good in the population that like different examples; five seeds each."""
    rng = np.random.default_rng(0)
    repeats, both, seed_only = 150, 0, 0
    for _ in range(repeats):
        liking = rng.normal(0, 1, 100)
        arm, baseline = (hits(rng, 5, 100, 1 + side * liking) for side in (1, -1))
        interval = seeds_by_examples(arm, baseline, share, 0.05, draws=100)
        both += not interval.excludes(0)
        seed_only += not mean_interval((arm - baseline)[..., 0].mean(axis=1), 0.05).excludes(0)
    assert stats.binomtest(both, repeats, 0.95, alternative="less").pvalue > 0.01
    assert seed_only < 0.9 * repeats


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ((3, 4, 2), (3, 5, 2), "same seeds and examples"),
        ((3, 4), (3, 4), "same seeds and examples"),
        ((1, 4, 2), (1, 4, 2), "found 1 seeds"),
        ((3, 1, 2), (3, 1, 2), "1 examples"),
    ],
)
def test_statistics_that_do_not_pair_are_refused(first, second, sentence):
    with pytest.raises(ValueError, match=sentence):
        seeds_by_examples(np.ones(first), np.ones(second), share, 0.05)
