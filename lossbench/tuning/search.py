"""A seeded quasi-random search (Halton), the same for every arm.

Parity: every arm is given the same points of (learning rate, weight decay) and as many of its loss's own
parameters; each point is trained with the same tuning seeds, which no replicate reuses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lossbench.params import Range, Tuning
from lossbench.training.member import Member

SEED = 20240
"""Of the scrambled Halton sequence; one for all arms and experiments."""


@dataclass(frozen=True)
class Trial:
    """One point and what it scored: the monitor's last value, per tuning seed."""

    point: Mapping[str, Any]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the tuning seeds; minus infinity where one diverged."""
        return fmean(self.scores) if all(map(math.isfinite, self.scores)) else -math.inf


def trial_points(tuning: Tuning, loss: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the points of the search.

    Args:
        tuning: how many, over which ranges.
        loss: the loss's block; its own tunable parameters join in if ``tuning.loss_parameters``.

    Returns:
        Dicts with any of learning_rate, weight_decay and loss (a block of params.yaml).

    """
    ranges = {
        name: chosen
        for name, chosen in (("learning_rate", tuning.learning_rate), ("weight_decay", tuning.weight_decay))
        if chosen is not None
    }
    own = own_ranges(loss) if tuning.loss_parameters else {}
    columns = [*ranges.values(), *own.values()]
    if not columns or not tuning.trials:
        return []
    if len(columns) == 1:  # along one axis an even grid beats random points, and includes both ends
        last = tuning.trials - 1
        unit = [[number / last if last else 0.5] for number in range(tuning.trials)]
    else:
        import numpy as np
        from scipy.stats import qmc  # half a second, for searches of several axes alone

        unit = qmc.Halton(len(columns), rng=np.random.default_rng(SEED)).random(tuning.trials).tolist()
    points = []
    for row in unit:
        values = [scale(chosen, float(u)) for chosen, u in zip(columns, row, strict=True)]
        point: dict[str, Any] = dict(zip(ranges, values, strict=False))
        if own:
            point["loss"] = {**loss, **dict(zip(own, values[len(ranges) :], strict=True))}
        points.append(point)
    return points


def own_ranges(loss: Mapping[str, Any]) -> dict[str, Range]:
    """Return the declared ranges of a loss's tunable parameters; none for a sum."""
    from lossbench.losses.registry import (
        REGISTRY,
    )  # imports torch, for who tunes a loss's own parameters alone

    entry = REGISTRY.get(str(loss.get("name")))
    if entry is None:
        return {}
    return {
        name: Range(low=max(low, 1e-6), high=high, scale=kind)
        for name, (low, high, kind) in entry.tunable.items()
    }


def scale(chosen: Range, unit: float) -> float:
    """Place ``unit`` in [0, 1] on a range; four significant digits, so that files read well."""
    if chosen.scale == "log":
        value = math.exp(math.log(chosen.low) + unit * math.log(chosen.high / chosen.low))
    else:
        value = chosen.low + unit * (chosen.high - chosen.low)
    return float(f"{value:.4g}")


def tuning_members(tuning: Tuning, loss: Mapping[str, Any]) -> list[Member]:
    """List who is trained in the search: every point with every tuning seed."""
    return [Member(seed, **point) for point in trial_points(tuning, loss) for seed in tuning.seeds]


def chosen(
    tuning: Tuning, loss: Mapping[str, Any], monitor: str | None, scores: Sequence[float]
) -> dict[str, Any]:
    """Choose the best point; the content of ``reports/tuning/<arm>.json``.

    Args:
        tuning: the search.
        loss: the loss's block.
        monitor: the validation metric, higher is better.
        scores: of :func:`tuning_members`, in order; see :func:`last_score`.

    Returns:
        trials, the best point (empty: the params as written) and whether it lies at the edge of a range.

    """
    points = trial_points(tuning, loss)
    count = len(tuning.seeds)
    trials = [Trial(point, tuple(scores[i * count : (i + 1) * count])) for i, point in enumerate(points)]
    best = max(trials, key=lambda trial: trial.mean, default=None)
    if best is not None and best.mean == -math.inf:
        best = None  # every point diverged: the params as written
    return {
        "points": len(points),
        "seeds": list(tuning.seeds) if points else [],
        "monitor": monitor,
        "trials": [
            {
                "trial": number,
                **trial.point,
                "scores": [_finite(score) for score in trial.scores],
                "mean": _finite(trial.mean),
            }
            for number, trial in enumerate(trials)
        ],
        "best": dict(best.point) if best else {},
        "edge": edges(tuning, best.point) if best else [],
    }


def last_score(entry: Mapping[str, Any]) -> float:
    """Return the monitor at the kept epoch of a finished replicate; minus infinity where it diverged.

    Args:
        entry: of the store.

    """
    if entry["diverged"]:
        return -math.inf
    wanted = (entry["epoch"], "validation", entry["described"]["monitor"])
    found = [value for *where, value in entry["history"] if tuple(where) == wanted]
    return float(found[-1])


def edges(tuning: Tuning, point: Mapping[str, Any]) -> list[str]:
    """Name the ranges at whose end the best value lies: the optimum may lie beyond."""
    ranges = {"learning_rate": tuning.learning_rate, "weight_decay": tuning.weight_decay}
    tried = {name: sorted({p[name] for p in trial_points_of(tuning) if name in p}) for name in ranges}
    return [
        name
        for name, chosen in ranges.items()
        if chosen is not None and name in point and point[name] in (tried[name][0], tried[name][-1])
    ]


def trial_points_of(tuning: Tuning) -> list[dict[str, Any]]:
    """Points of the ranges every arm shares."""
    return trial_points(tuning.model_copy(update={"loss_parameters": False}), {})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
