"""What the searches found, as tables: score against rate, and the best of k points."""

import math
from typing import Any

import pandas as pd

from lossbench.reporting.inputs import Evaluated, Study


def rate_table(one: Evaluated, study: Study) -> pd.DataFrame:
    """Loss × learning rate: the best validation score of the points with that rate; empty without."""
    rows: list[dict[str, Any]] = []
    for arm in one.arms:
        search = study.tuning[arm]
        best: dict[float, float] = {}
        for trial in search["trials"]:
            rate, mean = trial.get("learning_rate"), trial["mean"]
            if rate is not None:
                best[rate] = max(best.get(rate, -math.inf), -math.inf if mean is None else mean)
        rows += [
            {
                "loss": one.loss_of(arm),
                "learning rate": rate,
                "validation": mean if math.isfinite(mean) else math.nan,
                "metric": search["monitor"],
                "chosen": rate == search["best"].get("learning_rate"),
            }
            for rate, mean in sorted(best.items())
        ]
    return pd.DataFrame(rows)


def best_of_table(one: Evaluated, study: Study) -> pd.DataFrame:
    """Expected best mean validation score of k points drawn from those tried, for each k (Dodge et al. 2019).

    Points at which a seed diverged count as the worst of the others.
    """
    rows: list[dict[str, Any]] = []
    for arm in one.arms:
        means = [trial["mean"] for trial in study.tuning[arm]["trials"]]
        known = [mean for mean in means if mean is not None]
        if not known:
            continue
        scores = sorted(min(known) if mean is None else mean for mean in means)
        rows += [
            {"loss": one.loss_of(arm), "points tried": k, "validation": expected_best(scores, k)}
            for k in range(1, len(scores) + 1)
        ]
    return pd.DataFrame(rows)


def expected_best(scores: list[float], k: int) -> float:
    """Mean over all choices of ``k`` of the scores, without repetition, of the best one.

    Args:
        scores: ascending.
        k: from 1 to their number.

    """
    n = len(scores)
    return sum(score * math.comb(place, k - 1) for place, score in enumerate(scores)) / math.comb(n, k)
