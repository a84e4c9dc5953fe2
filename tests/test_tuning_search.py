"""The search: nested grids, parity, ties, a search for each replicate, weights of a sum."""

import math
from itertools import pairwise

import pytest
from conftest import tiny_params
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from law_cases import each
from pydantic import ValidationError

from lossbench.execution.fill import Arm
from lossbench.params import Range, Tuning, parse_params
from lossbench.reporting.searches import expected_best
from lossbench.reporting.tables import edges_of
from lossbench.tasks import names
from lossbench.tasks.base import monitored, task_class
from lossbench.tuning.search import (
    chosen,
    edges,
    edges_said,
    outcome,
    own_ranges,
    point_of,
    trial_points,
    tuning_members,
)

RATE = {"low": 0.0003, "high": 0.03}
SUM = {"sum": {"cross_entropy": 1.0, "dice": {"weight": 2.0, "over": "batch"}}}
SEEDS = (7, 8, 9)
exponents = st.floats(-5, 0)


def tuning(**block) -> Tuning:
    return Tuning.model_validate(block)


@settings(deadline=None)
@given(st.tuples(*[exponents] * 4).map(sorted), st.sampled_from([1.5, 2.0, 10**0.5, 10.0]))
def test_a_wider_grid_has_all_points_of_a_narrower_one(ends, ratio):
    outer, low, high, other = (float(f"{10**end:.3g}") for end in ends)
    assume(outer < other and low < high and math.log(high / low) > math.log(ratio) * 1.1)
    narrow = Range(low=low, high=high, ratio=ratio).grid()
    wide = Range(low=outer, high=other, ratio=ratio).grid()
    assert set(narrow) <= set(wide)
    assert all(later / sooner == pytest.approx(ratio, rel=2e-3) for sooner, later in pairwise(wide))


def test_a_grid_says_itself_how_many_trials_it_is_and_every_arm_gets_them():
    found = tuning(
        learning_rate={"low": 0.001, "high": 0.1, "ratio": 10**0.5}, weight_decay={**RATE, "ratio": 10.0}
    )
    points = trial_points(found, {"name": "focal"})
    assert found.trials == len(points) == 5 * 2
    assert points == trial_points(found, SUM)
    assert trial_points(tuning(trials=0, learning_rate={**RATE, "ratio": 10.0}), SUM) == []


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            {"trials": 4, "learning_rate": {**RATE, "ratio": 10.0}},
            "trials is 4, but the grid of ratio has 2 points",
        ),
        ({"learning_rate": {**RATE, "ratio": 10.0}, "weight_decay": RATE}, "every searched range a ratio"),
        ({"learning_rate": {**RATE, "ratio": 10.0}, "loss_parameters": True}, "no room for loss_parameters"),
        ({"learning_rate": {"low": 0.002, "high": 0.003, "ratio": 10.0}}, "no power of 10 lies between"),
        ({"learning_rate": {**RATE, "ratio": 2.0, "scale": "linear"}}, "scale: linear is not"),
    ],
)
def test_a_grid_without_sense_is_refused(block, said):
    with pytest.raises(ValidationError, match=said):
        tuning(**block)


def report(outcomes, **block):
    found = tuning(**{"trials": 3, "learning_rate": RATE, "seeds": [1001]} | block)
    return found, chosen(found, {"name": "focal"}, "accuracy", outcomes, SEEDS)


def test_the_best_mean_is_chosen_and_its_edge_told():
    found, best = report([(0.7, 1.0), (0.8, 1.0), (0.9, 1.0)])
    assert best["best"] == {"learning_rate": 0.03}
    assert best["edge"] == ["learning_rate"] == edges(found, best["best"])
    assert report([(0.7, 1.0), (0.8, 1.0), (0.7, 1.0)])[1]["edge"] == []


def test_a_tie_is_broken_by_validation_loss_not_by_order():
    assert report([(0.8, 0.5), (0.8, 0.4), (0.8, 0.6)])[1]["best"] == {"learning_rate": 0.003}
    assert report([(0.8, math.inf), (0.8, 0.6), (0.7, 0.1)])[1]["best"] == {"learning_rate": 0.003}


def test_where_losses_differ_their_values_break_no_tie():
    found = tuning(trials=3, learning_rate=RATE, seeds=[1001], loss_parameters=True)
    best = chosen(found, SUM, "mean_iou", [(0.8, 0.9), (0.8, 0.1), (0.8, 0.2)], SEEDS)
    assert best["best"] == trial_points(found, SUM)[0]


def test_each_replicates_own_point_is_checked_for_edges():
    """The commonest point lies inside the range; one seed chose the lowest rate, one the highest."""
    inside, low, high = (
        [(0.1, 1), (0.9, 1), (0.2, 1)],
        [(0.9, 1), (0.1, 1), (0.2, 1)],
        [(0.1, 1), (0.2, 1), (0.9, 1)],
    )
    found = tuning(trials=3, learning_rate=RATE, seeds=[1001], scope="replicate")
    best = chosen(found, {"name": "focal"}, "accuracy", [*inside, *low, *inside, *high], (7, 8, 9, 10))
    assert best["best"] == {"learning_rate": 0.003}
    assert best["edge"] == ["learning_rate"]
    assert best["edge_of"] == {"8": ["learning_rate"], "10": ["learning_rate"]}
    assert edges_said(best) == ["learning_rate (2 of 4 seeds)"]
    assert [(one.value, one.end, one.seeds, one.of) for one in edges_of(best)] == [
        (0.0003, "lowest", 1, 4), (0.03, "highest", 1, 4),
    ]  # fmt: skip
    none = chosen(found, {"name": "focal"}, "accuracy", inside * 4, (7, 8, 9, 10))
    assert (none["edge"], none["edge_of"], edges_said(none), edges_of(none)) == ([], {}, [], ())


def test_a_search_of_all_replicates_has_its_edge_without_a_count():
    best = report([(0.7, 1.0), (0.8, 1.0), (0.9, 1.0)])[1]
    assert edges_said(best) == ["learning_rate"]
    assert [(one.value, one.end, one.seeds, one.of) for one in edges_of(best)] == [(0.03, "highest", 0, 0)]


def test_where_every_point_diverged_the_params_stand_as_written():
    best = report([(-math.inf, math.inf)] * 3)[1]
    assert (best["best"], best["edge"], best["trials"][0]["mean"]) == ({}, [], None)


def test_each_replicate_may_have_a_search_of_its_own():
    found, best = report(
        [(0.9, 1), (0.8, 1), (0.7, 1), (0.1, 1), (0.2, 1), (0.3, 1), (0.1, 1), (0.2, 1), (0.3, 1)],
        scope="replicate",
    )
    assert point_of(best, 7) == {"learning_rate": 0.0003}
    assert point_of(best, 9) == {"learning_rate": 0.03} == best["best"]
    members = tuning_members(found, {"name": "focal"}, SEEDS)
    assert len(members) == 9
    own = [{one.seed for one in members[start : start + 3]} for start in (0, 3, 6)]
    assert len(set.union(*own)) == 3, "no two searches share a tuning seed"
    assert not set.union(*own) & {*SEEDS, 1001}
    assert tuning_members(found, {"name": "focal"}, SEEDS[:2]) == members[:6], (
        "a further replicate changes no search"
    )


def test_the_weights_of_a_sum_are_tuned_with_its_parts_parameters():
    found = own_ranges(SUM)
    weight = found["sum", "dice", "weight"]
    assert (weight.low, weight.high) == (pytest.approx(0.2), pytest.approx(20))
    assert ("sum", "cross_entropy", "weight") not in found
    points = trial_points(tuning(trials=4, learning_rate=RATE, loss_parameters=True), SUM)
    weights = [point["loss"]["sum"]["dice"]["weight"] for point in points]
    assert len(set(weights)) == 4
    assert all(0.2 <= one <= 20 for one in weights)
    assert all(point["loss"]["sum"]["dice"]["over"] == "batch" for point in points)
    assert SUM["sum"]["dice"]["weight"] == 2.0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7).map(sorted))
def test_the_expected_best_of_k_is_the_mean_over_all_choices(scores):
    from itertools import combinations
    from statistics import fmean

    for k in range(1, len(scores) + 1):
        assert expected_best(scores, k) == pytest.approx(fmean(map(max, combinations(scores, k))))


@each("name", names.MODULES)
def test_the_metric_that_decides_chooses_where_it_has_a_validation_form(name):
    task = task_class(name, "task")
    assert names.MONITORS[name] == task.monitor
    directions = {one.name: one.higher_is_better for one in task.metrics}
    for metric in directions:
        expected = metric if metric in task.validated else task.monitor
        assert monitored(task, metric).monitor == expected
    assert all(directions[metric] for metric in task.validated)


def test_a_trial_is_worth_its_monitor_at_the_kept_epoch():
    history = [
        [1, "validation", "accuracy", 0.4],
        [2, "validation", "accuracy", 0.6],
        [2, "validation", "dice", 0.1],
    ]
    entry = {"diverged": False, "epoch": 2, "history": history, "described": {"monitor": "accuracy"}}
    assert outcome(entry) == (0.6, math.inf)
    assert outcome({**entry, "validation_loss": 0.3}) == (0.6, 0.3)
    assert outcome({**entry, "diverged": True, "validation_loss": 0.3}) == (-math.inf, 0.3)


@pytest.mark.parametrize("scope", ["arm", "replicate"])
@pytest.mark.parametrize("engine", ["loop", "population"])
def test_a_wider_grid_costs_its_new_points_alone(engine, scope, trained_study):
    """What is in the store of the narrower one is found there: the same keys, for the same company."""

    def trials(high, seeds):
        content = tiny_params() | {"seeds": seeds, "compute": {"device": "cpu", "engine": engine}}
        rates = {"low": 0.001, "high": high, "ratio": 10.0}
        content["tuning"] = {"scope": scope, "seeds": [1001, 1002, 1003], "learning_rate": rates}
        return Arm(parse_params(content), "digits-focal", trained_study).trials

    narrow, wide = trials(0.01, [0, 1]), trials(0.1, [0, 1])
    assert set(narrow.keys) < set(wide.keys)
    new = [member for member, key in zip(wide.members, wide.keys, strict=True) if key not in set(narrow.keys)]
    assert {member.learning_rate for member in new} == {0.1}
    more = trials(0.01, [0, 1, 2])
    assert set(narrow.keys) <= set(more.keys), "a further replicate changes no search"
