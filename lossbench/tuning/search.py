"""A search, the same for every arm: a nested grid, or seeded quasi-random points (Halton).

Parity: every arm is given the same points of (learning rate, weight decay) and as many of its loss's own
parameters; each point is trained with the same tuning seeds, which no replicate reuses.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from lossbench.losses.schedules import LEARNED, is_change
from lossbench.params import Range, Tuning
from lossbench.training.member import Member

SEED = 20240
"""Of the scrambled Halton sequence; one for all arms and experiments."""
SPREAD = 10.0
"""A tuned weight of a sum lies within this factor of the one that is written."""
FIRST_DERIVED = 2**31
"""Tuning seeds of a single replicate begin here, where nobody writes seeds."""


@dataclass(frozen=True)
class Trial:
    """One point and what it reached.

    Attributes:
        point: what it was trained with.
        scores: the monitor at the kept epoch, per tuning seed; minus infinity where it diverged.
        losses: the validation loss there, per tuning seed; infinity where it is not known.

    """

    point: Mapping[str, Any]
    scores: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the tuning seeds; minus infinity where one diverged."""
        return fmean(self.scores) if all(map(math.isfinite, self.scores)) else -math.inf

    @property
    def worth(self) -> tuple[float, float]:
        """What points are ordered by: the mean, and among equal ones the smaller validation loss.

        Not where a point has loss parameters of its own: the loss is another then, and so is its unit.
        """
        known = "loss" not in self.point and all(map(math.isfinite, self.losses))
        return self.mean, -fmean(self.losses) if known else -math.inf


Outcome = tuple[float, float]
"""A trained trial's monitor and validation loss."""


def trial_points(tuning: Tuning, loss: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the points of the search.

    Args:
        tuning: how many, over which ranges.
        loss: the loss's block; its own tunable parameters join in if ``tuning.loss_parameters``.

    Returns:
        Dicts with any of learning_rate, weight_decay and loss (a block of params.yaml).

    """
    ranges = tuning.ranges
    own = own_ranges(loss) if tuning.loss_parameters else {}
    columns = [*ranges.values(), *own.values()]
    if not columns or not tuning.trials:
        return []
    if tuning.is_grid:
        rows = [list(row) for row in product(*(one.grid() for one in columns))]
    else:
        rows = [
            [scale(chosen, u) for chosen, u in zip(columns, row, strict=True)]
            for row in _unit(len(columns), tuning.trials)
        ]
    points = []
    for values in rows:
        point: dict[str, Any] = dict(zip(ranges, values, strict=False))
        if own:
            point["loss"] = _with_own(loss, dict(zip(own, values[len(ranges) :], strict=True)))
        points.append(point)
    return points


def _unit(columns: int, trials: int) -> list[list[float]]:
    """Points of the unit cube."""
    if columns == 1:  # along one axis an even grid beats random points, and includes both ends
        last = trials - 1
        return [[number / last if last else 0.5] for number in range(trials)]
    import numpy as np
    from scipy.stats import qmc  # half a second, for searches of several axes alone

    found: list[list[float]] = qmc.Halton(columns, rng=np.random.default_rng(SEED)).random(trials).tolist()
    return found


Own = tuple[str, ...]
"""Where a tuned value stands in a loss's block."""


def own_ranges(loss: Mapping[str, Any]) -> dict[Own, Range]:
    """Return the ranges of what a loss has of its own to tune.

    Of a loss: its declared parameters. Of a sum: the weight of every part but the first (the others' ratio to
    it is what matters: the learning rate is tuned too), and the parts' own parameters. What changes over the
    epochs, or is learned, stays as written.
    """
    if "sum" not in loss:
        declared = _declared(str(loss.get("name")))
        return {(name,): one for name, one in declared.items() if not is_change(loss.get(name))}
    found: dict[Own, Range] = {}
    for number, (key, block) in enumerate(loss["sum"].items()):
        inner = block if isinstance(block, Mapping) and not is_change(block) else {"weight": block}
        weight = inner.get("weight", 1.0)
        if number and weight != LEARNED and not is_change(weight):
            found["sum", key, "weight"] = Range(low=float(weight) / SPREAD, high=float(weight) * SPREAD)
        for name, one in _declared(str(inner.get("name", key))).items():
            if not is_change(inner.get(name)):
                found["sum", key, name] = one
    return found


def _declared(loss: str) -> dict[str, Range]:
    """Return the declared ranges of a loss's tunable parameters."""
    from lossbench.losses.registry import (
        REGISTRY,
    )  # imports torch, for who tunes a loss's own parameters alone

    entry = REGISTRY.get(loss)
    if entry is None:
        return {}
    return {
        name: Range(low=max(low, 1e-6), high=high, scale=kind)
        for name, (low, high, kind) in entry.tunable.items()
    }


def _with_own(loss: Mapping[str, Any], values: Mapping[Own, float]) -> dict[str, Any]:
    """Put tuned values into a loss's block."""
    made = dict(loss)
    for (first, *rest), value in values.items():
        if not rest:
            made[first] = value
            continue
        key, name = rest
        parts = dict(made["sum"])
        block = parts[key]
        is_block = isinstance(block, Mapping) and not is_change(block)
        parts[key] = {**(block if is_block else {"weight": block}), name: value}
        made["sum"] = parts
    return made


def scale(chosen: Range, unit: float) -> float:
    """Place ``unit`` in [0, 1] on a range; four significant digits, so that files read well."""
    if chosen.scale == "log":
        value = math.exp(math.log(chosen.low) + unit * math.log(chosen.high / chosen.low))
    else:
        value = chosen.low + unit * (chosen.high - chosen.low)
    return float(f"{value:.4g}")


def tuning_members(tuning: Tuning, loss: Mapping[str, Any], seeds: Sequence[int]) -> list[Member]:
    """List who is trained in the search: every point with every tuning seed, for each search there is."""
    points = trial_points(tuning, loss)
    return [
        Member(seed, **point)
        for replicate in searches(tuning, seeds)
        for point in points
        for seed in tuning_seeds(tuning, replicate)
    ]


def searches(tuning: Tuning, seeds: Sequence[int]) -> Sequence[int | None]:
    """For whom there is a search: one for all replicates (None), or one for each."""
    return seeds if tuning.scope == "replicate" else [None]


def tuning_seeds(tuning: Tuning, replicate: int | None) -> tuple[int, ...]:
    """Return the tuning seeds: as written, or a replicate's own, which no other search uses."""
    if replicate is None:
        return tuning.seeds
    digests = (hashlib.sha256(f"tuning {seed} of {replicate}".encode()).digest() for seed in tuning.seeds)
    return tuple(FIRST_DERIVED + int.from_bytes(digest[:4]) % FIRST_DERIVED for digest in digests)


def chosen(
    tuning: Tuning,
    loss: Mapping[str, Any],
    monitor: str | None,
    outcomes: Sequence[Outcome],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Choose the best point; the content of ``reports/tuning/<arm>.json``.

    Args:
        tuning: the search.
        loss: the loss's block.
        monitor: the validation metric, higher is better.
        outcomes: of :func:`tuning_members`, in order; see :func:`outcome`.
        seeds: of the replicates.

    Returns:
        trials, the best point (empty: the params as written) and whether it lies at the edge of a range. With
        a search for each replicate ``best_of`` has a point for each, ``best`` is the commonest, and
        ``edge_of`` names for each seed the ranges at whose end its own point lies.

    """
    points, count = trial_points(tuning, loss), len(tuning.seeds)
    wanted = searches(tuning, seeds)
    runs = [
        outcomes[start : start + len(points) * count]
        for start in range(0, len(wanted) * len(points) * count, max(1, len(points) * count))
    ]
    bests = [_best(_trials(points, run, count)) for run in runs]
    shown = [
        Trial(
            point,
            tuple(one[0] for run in runs for one in run[i * count : (i + 1) * count]),
            tuple(one[1] for run in runs for one in run[i * count : (i + 1) * count]),
        )
        for i, point in enumerate(points)
    ]
    best = _commonest(bests)
    report = {
        "points": len(points),
        "seeds": list(tuning.seeds) if points else [],
        "scope": tuning.scope,
        "monitor": monitor,
        "trials": [
            {
                "trial": number,
                **trial.point,
                "scores": [_finite(score) for score in trial.scores],
                "losses": [_finite(loss) for loss in trial.losses],
                "mean": _finite(trial.mean),
            }
            for number, trial in enumerate(shown)
        ],
        "best": best,
        "edge": edges(tuning, best),
    }
    if tuning.scope == "replicate":
        report |= _of_replicates(tuning, wanted, bests)
    return report


def _of_replicates(
    tuning: Tuning, seeds: Sequence[int | None], bests: Sequence[Mapping[str, Any] | None]
) -> dict[str, Any]:
    """Each replicate's point, and at which ends it lies: the commonest point may lie at none."""
    best_of = {str(seed): dict(one or {}) for seed, one in zip(seeds, bests, strict=False)}
    edge_of = {seed: found for seed, point in best_of.items() if (found := edges(tuning, point))}
    edge = [name for name in tuning.ranges if any(name in one for one in edge_of.values())]
    return {"best_of": best_of, "edge": edge, "edge_of": edge_of}


def edges_said(found: Mapping[str, Any]) -> list[str]:
    """Name the ranges at whose end a search chose; where replicates have their own, for how many seeds.

    Args:
        found: content of ``reports/tuning/<arm>.json``.

    """
    if "edge_of" not in found:
        return [str(name) for name in found.get("edge", ())]
    at_end, of = list(found["edge_of"].values()), len(found["best_of"])
    return [f"{name} ({sum(name in one for one in at_end)} of {of} seeds)" for name in found["edge"]]


def point_of(found: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return what a replicate is trained with, as the search found."""
    own: dict[str, Any] = found.get("best_of", {}).get(str(seed), found["best"])
    return own


def _trials(points: Sequence[Mapping[str, Any]], run: Sequence[Outcome], count: int) -> list[Trial]:
    made = []
    for number, point in enumerate(points):
        of_point = run[number * count : (number + 1) * count]
        made.append(Trial(point, tuple(one[0] for one in of_point), tuple(one[1] for one in of_point)))
    return made


def _best(trials: Sequence[Trial]) -> Mapping[str, Any] | None:
    best = max(trials, key=lambda trial: trial.worth, default=None)
    if best is None or best.mean == -math.inf:
        return None  # no search, or every point diverged: the params as written
    return best.point


def _commonest(bests: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the point chosen most often, the first of equally common ones."""
    found = [one for one in bests if one is not None]
    if not found:
        return {}
    counts = Counter(found.index(one) for one in found)
    return dict(found[counts.most_common(1)[0][0]])


def outcome(entry: Mapping[str, Any]) -> Outcome:
    """Return a finished trial's monitor at the kept epoch (minus infinity: diverged) and validation loss.

    Args:
        entry: of the store.

    """
    known = entry.get("validation_loss")
    loss = math.inf if known is None else float(known)
    if entry["diverged"]:
        return -math.inf, loss
    wanted = (entry["epoch"], "validation", entry["described"]["monitor"])
    found = [value for *where, value in entry["history"] if tuple(where) == wanted]
    return float(found[-1]), loss


def edges(tuning: Tuning, point: Mapping[str, Any]) -> list[str]:
    """Name the ranges at whose end the best value lies: the optimum may lie beyond."""
    points = trial_points(tuning.model_copy(update={"loss_parameters": False}), {})  # that all arms share
    tried = {name: sorted({p[name] for p in points if name in p}) for name in tuning.ranges}
    return [
        name for name in tuning.ranges if name in point and point[name] in (tried[name][0], tried[name][-1])
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
