"""What a loss costs beside the baseline: time, as measured here; in no out, for it differs between runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lossbench.tracking.journal import read_timings

Seconds = Mapping[str, Mapping[int, float]]
"""Arm → seed → seconds of training."""


def read_seconds(arms: Sequence[str], home: Path) -> dict[str, dict[int, float]]:
    """Read what the trainings took on this machine; arms that were not trained here are left out."""
    return {arm: found for arm in arms if (found := read_timings(home, arm))}


def times(arm: str, baseline: str, seconds: Seconds) -> float | None:
    """Return how many times the baseline's time a replicate took, over the seeds that both have."""
    mine, other = seconds.get(arm, {}), seconds.get(baseline, {})
    both = [seed for seed in mine if seed in other]
    if not both or not (total := fmean(other[seed] for seed in both)):
        return None
    return fmean(mine[seed] for seed in both) / total


def cost_said(arms: Sequence[str], baseline: str, seconds: Seconds) -> str:
    """Say what the arms cost: "× 1.0 to 1.3 the time of ce"; "" where nothing was measured here.

    Args:
        arms: those recommended.
        baseline: the arm they are held against; alone, it costs what it costs.
        seconds: as measured.

    """
    found = [
        ratio for arm in arms if arm != baseline and (ratio := times(arm, baseline, seconds)) is not None
    ]
    if not found:
        return ""
    ends = dict.fromkeys(f"{ratio:.1f}" for ratio in (min(found), max(found)))
    return f"× {' to '.join(ends)} the time"
