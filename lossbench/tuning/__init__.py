"""The search every arm gets alike: same points, same tuning seeds, on validation data."""

from lossbench.tuning.search import Trial, search, trial_points

__all__ = ["Trial", "search", "trial_points"]
