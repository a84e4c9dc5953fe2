"""What a loss costs beside the baseline: the memory of a step, and time.

Memory is what a step keeps for its backward pass, the same on every machine. Time is as measured here, and in
no out, for it differs between runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

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


def memory_ratio(arm: str, baseline: str, arms: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return how many times the baseline's bytes a step of an arm keeps; None where nobody measured them.

    Args:
        arm: its key.
        baseline: the key of the arm that it is held against.
        arms: arm → content of its ``arm.json``.

    """
    mine, other = (arms[one].get("kept_bytes") for one in (arm, baseline))
    return mine / other if mine and other else None


def cost_said(arms: Sequence[str], baseline: str, seconds: Seconds) -> str:
    """Say what the arms cost: "× 1.0 to 1.3 the time"; "" where nothing was measured here.

    Args:
        arms: those recommended.
        baseline: the arm they are held against; alone, it costs what it costs.
        seconds: as measured.

    """
    return _said("time", [times(arm, baseline, seconds) for arm in arms if arm != baseline])


def memory_said(arms: Sequence[str], baseline: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what a step of the arms keeps: "× 1.1 the memory"; "" where nobody measured it."""
    return _said("memory", [memory_ratio(arm, baseline, known) for arm in arms if arm != baseline])


COSTS = "; costs "


def costs(said: Sequence[str], baseline: str) -> str:
    """Put what arms cost beside a loss into a clause of an answer; "" where nothing is known."""
    known = [one for one in said if one]
    return f"{COSTS}{' and '.join(known)} of {baseline}" if known else ""


def with_time(answer: str, time: str, baseline: str) -> str:
    """Add to an answer the time measured here (:func:`cost_said`), of which an out says nothing."""
    if time and COSTS in answer:
        return answer.replace(COSTS, f"{COSTS}{time} and ", 1)
    return answer + costs([time], baseline)


def _said(what: str, ratios: Sequence[float | None]) -> str:
    found = [ratio for ratio in ratios if ratio is not None]
    if not found:
        return ""
    ends = dict.fromkeys(f"{ratio:.1f}" for ratio in (min(found), max(found)))
    return f"× {' to '.join(ends)} the {what}"
