"""Claims as code: each is supported, refuted or undecided, with its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.statistics.family import holm, seeds_needed
from lossbench.statistics.paired import difference_p, finite, less, mean_interval
from lossbench.statistics.samples import Paired, effect
from lossbench.statistics.verdict import Stage

Array = npt.NDArray[Any]


class Outcome(StrEnum):
    """What the evidence says of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    NOT_TRAINED = "not trained"


@dataclass(frozen=True)
class Claim:
    """That one arm beats another on a metric by more than ``by``.

    Attributes:
        name: its key in params.yaml.
        better: the arm claimed to be better.
        than: the other.
        metric: on which.
        by: how much better at least, ≥ 0, in the metric's unit.
        higher_is_better: of the metric.
        differences: (n,) scores of ``better`` minus scores of ``than``, seed by seed.
        trained: whether both arms were; else the claim has no answer.
        rounding: (n,), what each difference may be off by, or one number for all.

    """

    name: str
    better: str
    than: str
    metric: str
    by: float
    higher_is_better: bool
    differences: Array
    trained: bool = True
    rounding: Array | float = 0.0


@dataclass(frozen=True)
class Answer:
    """What the evidence says of a claim.

    ``difference`` and its interval are signed so that positive speaks for the claim (also where lower is
    better); p is of the hypothesis that the advantage is exactly ``by``.
    """

    name: str
    answer: Outcome
    difference: float
    ci_low: float
    ci_high: float
    p: float
    p_holm: float
    by: float
    n: int
    seeds_needed: int | None


def answer(
    claims: Sequence[Claim],
    level: float,
    power: float = 0.8,
    stage: Stage | None = None,
    family: int | None = None,
) -> list[Answer]:
    """Answer declared claims; they are one Holm family of their own.

    Supported: the advantage exceeds ``by``, by the test of a verdict (the larger of sign-flip and Hall's p)
    after Holm and by its interval. Refuted: it falls short of ``by`` by the same standard. Not trained: an
    arm was not. Else undecided.

    Args:
        claims: with their differences (better minus than) over seeds.
        level: family-wise.
        power: wanted of the number of seeds recommended.
        stage: of several declared looks; Holm's correction where None.
        family: claims in the family, where these are some of them.

    Raises:
        ValueError: if a claim has no differences, one is no finite number, or ``by`` is negative.

    """
    shifted = [_shifted(claim) for claim in claims]
    p_values = [
        difference_p(one, float(np.broadcast_to(claim.rounding, one.shape).sum()))
        for one, claim in zip(shifted, claims, strict=True)
    ]
    family = family or len(claims)
    adjusted = holm(p_values) if stage is None else [min(1.0, p * level / stage.difference) for p in p_values]
    return [
        _answer(claim, values, (p, p_holm), family, level, power)
        for claim, values, p, p_holm in zip(claims, shifted, p_values, adjusted, strict=True)
    ]


def _shifted(claim: Claim) -> Array:
    """How far each block's advantage exceeds what was claimed."""
    values = finite(claim.differences, f"differences of claim '{claim.name}'")
    if len(values) == 0:
        raise ValueError(f"claim '{claim.name}' has no replicates to be answered with")
    if not claim.by >= 0:
        raise ValueError(f"claim '{claim.name}': by must be 0 or more, found {claim.by}")
    shifted = less(values if claim.higher_is_better else -values, claim.by)
    return np.where(np.abs(shifted) <= claim.rounding, 0.0, shifted)


def _answer(
    claim: Claim, shifted: Array, p: tuple[float, float], family: int, level: float, power: float
) -> Answer:
    interval = mean_interval(shifted, level)
    outcome = Outcome.UNDECIDED
    if not claim.trained:
        outcome = Outcome.NOT_TRAINED
    elif p[1] <= level and interval.excludes(0):
        outcome = Outcome.SUPPORTED if shifted.mean() > 0 else Outcome.REFUTED
    return Answer(
        name=claim.name,
        answer=outcome,
        difference=float(shifted.mean()) + claim.by,
        ci_low=interval.low + claim.by,
        ci_high=interval.high + claim.by,
        p=p[0],
        p_holm=p[1],
        by=claim.by,
        n=len(shifted),
        seeds_needed=seeds_needed(
            effect(Paired(shifted, np.zeros(len(shifted)))),
            np.count_nonzero(shifted) / len(shifted),
            family,
            level,
            power,
        ),
    )
