"""Looks: what may be spent at each, who goes on, and that nobody looks unseen."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import examples
from scipy import stats

from lossbench.errors import UserError
from lossbench.statistics.looks import nominal_levels, progress
from lossbench.statistics.looks_file import read_looks, write_looks
from lossbench.statistics.record import Plan, Record, Verdict, seeds_of_arms, spending
from lossbench.statistics.verdict import Rules, compare

PLAN = Plan(seeds=tuple(range(10, 42)), looks=(8, 12, 16, 24, 32))
RULES = Rules(margin=0.01)
designs = st.lists(st.integers(2, 40), min_size=2, max_size=6, unique=True).map(sorted).map(tuple)


def replicates(means, seeds=PLAN.seeds, spread=0.01, seed=0):
    rng = np.random.default_rng(seed)
    return {arm: {one: mean + rng.normal(0, spread) for one in seeds} for arm, mean in means.items()}


def taken(scores, record=None, plan=PLAN, **known):
    return progress(scores, "ce", "accuracy", RULES, plan, record, **known)


@given(designs, st.floats(0.001, 0.2))
def test_half_the_level_is_spent_at_the_first_look_and_all_at_the_last(looks, level):
    spent = spending(looks, level)
    assert spent[0] == pytest.approx(level / 2)
    assert spent[-1] == pytest.approx(level)
    assert all(later > sooner for sooner, later in pairwise(spent))


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("looks", [(8, 16), (8, 12, 32)])
def test_the_nominal_levels_spend_what_was_allowed(looks, two_sided):
    """Against scipy's multivariate normal: no look so far rejects with 1 − spent."""
    levels = nominal_levels(looks, 0.05, two_sided)
    bounds = stats.norm.isf(np.array(levels) / (2 if two_sided else 1))
    for last, spent in enumerate(spending(looks, 0.05), start=1):
        n = np.array(looks[:last])
        covariance = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
        lower = -bounds[:last] if two_sided else np.full(last, -np.inf)
        inside = stats.multivariate_normal(np.zeros(last), covariance).cdf(bounds[:last], lower_limit=lower)
        assert 1 - inside == pytest.approx(spent, abs=2e-4)


def test_eight_seeds_can_still_decide_among_three_contrasts():
    assert nominal_levels(PLAN.looks, 0.05 / 3)[0] >= 2 / 2**8


def test_one_look_is_holms_verdict():
    from lossbench.statistics.verdict import compare

    scores = replicates({"ce": 0.9, "dice": 0.95, "focal": 0.9}, range(8))
    found = taken(scores, plan=Plan(tuple(range(8)), (8,)))
    plain = compare(
        {arm: np.array(list(of_arm.values())) for arm, of_arm in scores.items()}, "ce", "accuracy", RULES
    )
    assert list(found.contrasts) == plain
    assert found.done


def test_what_is_decided_gets_no_further_seeds():
    first = replicates({"ce": 0.9, "dice": 0.99, "focal": 0.905}, PLAN.at(0))
    found = taken(first)
    verdicts = {one.arm: one.verdict for one in found.contrasts}
    assert verdicts == {"dice": Verdict.BETTER, "focal": Verdict.UNDECIDED}
    assert found.wanted == {"ce": PLAN.seeds[8:12], "focal": PLAN.seeds[8:12]}
    assert seeds_of_arms(list(first), "ce", PLAN, found.record) == dict.fromkeys(first, PLAN.at(0))
    further = seeds_of_arms(list(first), "ce", PLAN, found.record, further=True)
    assert further == {"ce": PLAN.at(1), "dice": PLAN.at(0), "focal": PLAN.at(1)}


def test_looks_go_on_until_decided_or_none_is_left():
    scores = replicates({"ce": 0.9, "dice": 0.92, "focal": 0.9, "hinge": 0.903})
    found = taken(scores)
    assert found.done
    for contrast in found.contrasts:
        assert contrast.verdict == Verdict.UNDECIDED or contrast.n in PLAN.looks
        if contrast.verdict == Verdict.UNDECIDED:
            assert contrast.n == 32


def test_a_decision_stays_though_later_seeds_speak_against_it():
    scores = replicates({"ce": 0.9, "dice": 0.99, "focal": 0.905}, PLAN.at(0))
    record = taken(scores).record
    rng = np.random.default_rng(1)
    for arm in scores:
        scores[arm] |= {
            seed: (0.5 if arm == "dice" else 0.9) + rng.normal(0, 0.01) for seed in PLAN.seeds[8:]
        }
    verdicts = {one.arm: one for one in taken(scores, record).contrasts}
    assert verdicts["dice"].verdict == Verdict.BETTER
    assert verdicts["dice"].n == 8
    rewritten = {arm: {seed: 0.9 + rng.normal(0, 0.01) for seed in PLAN.at(0)} for arm in scores}
    assert {one.arm: one.verdict for one in taken(rewritten, record).contrasts}["dice"] == Verdict.BETTER


def test_an_untrained_arm_gets_no_more_of_the_same():
    scores = replicates({"ce": 0.9, "dice": 0.1, "focal": 0.905}, PLAN.at(0))
    found = taken(scores, floors={"majority class": 0.1})
    assert {one.arm: one.verdict for one in found.contrasts}["dice"] == Verdict.NOT_TRAINED
    assert "dice" not in found.wanted


def test_undeclared_seeds_count_for_nothing_and_it_is_said():
    scores = replicates({"ce": 0.9, "dice": 0.905}, PLAN.at(0))
    plain = taken(scores)
    for arm in scores:
        scores[arm] |= {99: 0.0 if arm == "ce" else 1.0}
    found = taken(scores)
    assert found.contrasts == plain.contrasts
    assert found.ignored == {"ce": (99,), "dice": (99,)}
    assert "seed 99 of ce, dice count for nothing" in found.said[0]


@pytest.mark.parametrize(
    "changed",
    [
        Plan(PLAN.seeds, (8, 12, 16)),
        Plan(PLAN.seeds, PLAN.looks, level=0.1),
        Plan((99, *PLAN.seeds[1:]), PLAN.looks),
    ],
)
def test_what_was_declared_may_not_change_after_a_look(changed):
    scores = replicates({"ce": 0.9, "dice": 0.905}, PLAN.at(0))
    record = taken(scores).record
    with pytest.raises(UserError, match=r"looks\.yaml: .*restore"):
        progress(scores, "ce", "accuracy", RULES, changed, record)


@pytest.mark.parametrize("looks", [(), (1, 8), (8, 8), (12, 8), (8, 64)])
def test_looks_without_sense_are_refused(looks):
    with pytest.raises(ValueError, match="look"):
        Plan(PLAN.seeds, looks)


def test_the_record_comes_back_from_its_file_and_leads_to_the_same_trainings(tmp_path):
    scores = replicates({"ce": 0.9, "dice": 0.99, "focal": 0.905}, PLAN.at(0))
    record = taken(scores).record
    file = tmp_path / "looks.yaml"
    write_looks(file, {"digits": record})
    first = file.read_bytes()
    read = read_looks(file)
    write_looks(file, read)
    assert file.read_bytes() == first
    assert seeds_of_arms(list(scores), "ce", PLAN, read["digits"], further=True) == seeds_of_arms(
        list(scores), "ce", PLAN, record, further=True
    )
    assert read_looks(tmp_path / "none.yaml") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("digits: {looks: [8], level: 0.05}", "'digits.taken'"),
        ("digits: {looks: [8], level: 2, taken: []}", "'digits.level' is 2"),
        (
            "digits: {looks: [8], level: 0.05, taken: [{look: 9, seeds: [1], contrasts: []}]}",
            "declared looks are",
        ),
        ("[1, 2]", "expected experiments"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, text, said):
    file = tmp_path / "looks.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_looks(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(25))
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.05]))
def test_no_arm_is_decided_twice_and_the_record_tells_the_same_story(seed, gap):
    scores = replicates({"ce": 0.9, "a": 0.9 + gap, "b": 0.9}, spread=0.02, seed=seed)
    found = taken(scores)
    decided = [
        pair for row in found.record.taken for pair, one in row.found.items() if one.verdict != "undecided"
    ]
    assert len(decided) == len(set(decided))
    again = taken(scores, found.record)
    assert [one.verdict for one in again.contrasts] == [one.verdict for one in found.contrasts]
    assert math.isfinite(found.contrasts[0].p_holm)
    assert isinstance(again.record, Record)


def test_equal_scores_of_an_arm_whose_seed_may_not_count_are_one_at_every_look():
    """A user's script may never have used its seed: eight times the same number is one number."""
    rng = np.random.default_rng(3)
    scores = {
        "ce": {seed: 0.7 + 0.01 * rng.normal() for seed in range(8)},
        "script": dict.fromkeys(range(8), 0.8),
    }
    plan = Plan(tuple(range(8)), (8,))
    for once, verdict in (((), Verdict.BETTER), (("ce", "script"), Verdict.UNDECIDED)):
        (found,) = progress(scores, "ce", "accuracy", RULES, plan, once=once).contrasts
        assert (found.verdict, found.once) == (verdict, bool(once))
        arrays = {arm: np.array(list(values.values())) for arm, values in scores.items()}
        assert compare(arrays, "ce", "accuracy", RULES, once=once)[0].verdict == verdict
