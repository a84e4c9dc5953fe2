"""Ties are shown, not assumed: two one-sided tests (Schuirmann 1987)."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[Any]


def tost_p(differences: Array, margin: float) -> float:
    """p of the hypothesis that the mean difference lies outside ± margin.

    It is at most ``level`` exactly where the (1 − 2·level) t interval lies inside ± margin.

    Args:
        differences: (n,), n ≥ 2.
        margin: > 0, in the metric's unit.

    Returns:
        The larger of the two one-sided p-values; NaN with fewer than two differences.

    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    center, spread = float(values.mean()), float(stats.sem(values))
    if spread == 0:
        return 0.0 if abs(center) < margin else 1.0
    freedom = len(values) - 1
    above = stats.t.sf((center + margin) / spread, freedom)
    below = stats.t.cdf((center - margin) / spread, freedom)
    return float(max(above, below))
