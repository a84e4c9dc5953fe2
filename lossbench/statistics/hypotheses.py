"""Claims as code: each is supported, refuted or undecided, with its evidence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.statistics.family import floor_seeds, holm
from lossbench.statistics.paired import mean_interval, sign_flip_p

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Claim:
    """That one arm beats another on a metric by more than ``by``."""

    name: str
    better: str
    than: str
    metric: str
    by: float
    higher_is_better: bool
    differences: Array


@dataclass(frozen=True)
class Answer:
    """What the evidence says of a claim; ``difference`` is signed so that positive speaks for it."""

    name: str
    answer: str
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    by: float
    n: int


def answer(claims: Sequence[Claim], level: float) -> list[Answer]:
    """Answer declared claims; they are one Holm family of their own.

    Supported: the advantage exceeds ``by``, by sign-flip test after Holm and by its interval. Refuted: it
    falls short of ``by`` by the same standard. Else undecided.

    Args:
        claims: with their differences (better minus than) over seeds.
        level: family-wise.

    """
    shifted = [np.where(claim.higher_is_better, 1, -1) * claim.differences - claim.by for claim in claims]
    p_values = [sign_flip_p(one) for one in shifted]
    return [
        _answer(claim, values, p, p_holm, level)
        for claim, values, p, p_holm in zip(claims, shifted, p_values, holm(p_values), strict=True)
    ]


def _answer(claim: Claim, shifted: Array, p: float, p_holm: float, level: float) -> Answer:
    interval = mean_interval(shifted, level)
    decided = p_holm <= level and interval.excludes(0)
    verdict = ("supported" if shifted.mean() > 0 else "refuted") if decided else "undecided"
    return Answer(
        name=claim.name,
        answer=verdict,
        difference=float(shifted.mean()) + claim.by,
        ci_low=interval.low + claim.by,
        ci_high=interval.high + claim.by,
        p=p,
        p_holm=p_holm,
        by=claim.by,
        n=len(shifted),
    )


def floor_of(claims: Mapping[str, object], level: float) -> int:
    """Fewest seeds with which a family of this many claims can be answered at all."""
    return floor_seeds(max(1, len(claims)), level)


def finite(value: float) -> float | None:
    """NaN and infinities have no place in JSON."""
    return value if math.isfinite(value) else None
