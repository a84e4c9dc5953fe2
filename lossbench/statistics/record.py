"""The record of looks, and what follows from it alone: who is trained on which seeds.

Apart from the tests themselves: a stage that only collects asks this, and imports no numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations, pairwise

from lossbench.errors import UserError


class Verdict(StrEnum):
    """What may be said of an arm against another."""

    BETTER = "better"
    WORSE = "worse"
    TIE = "tie"
    UNDECIDED = "undecided"
    NOT_TRAINED = "not trained"


SETTLED = (Verdict.BETTER, Verdict.WORSE, Verdict.TIE, Verdict.NOT_TRAINED)
"""After these more seeds say nothing new; an untrained arm needs other training, not more of the same."""


def pairs(arms: Sequence[str], baseline: str | None) -> list[tuple[str, str]]:
    """Which arm is compared with which: all with the baseline, or each pair once."""
    if baseline is None:
        return [(second, first) for first, second in combinations(arms, 2)]
    return [(arm, baseline) for arm in arms if arm != baseline]


@dataclass(frozen=True)
class Plan:
    """The declared looks of a study.

    Attributes:
        seeds: all declared seeds, in the order in which looks use them.
        looks: ascending numbers of seeds; the last may not exceed the seeds declared.
        level: family-wise.

    Raises:
        ValueError: if looks do not ascend, or ask for more seeds than are declared.

    """

    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    level: float = 0.05

    def __post_init__(self) -> None:
        check_looks(self.looks, len(self.seeds))

    def at(self, look: int) -> tuple[int, ...]:
        """Seeds of a look."""
        return self.seeds[: self.looks[look]]


def check_looks(looks: Sequence[int], seeds: int) -> None:
    """Refuse looks that make no sense.

    Raises:
        ValueError: saying what was found and what is allowed.

    """
    if not looks:
        raise ValueError("looks must name at least one number of seeds")
    if looks[0] < 2 or any(later <= sooner for sooner, later in pairwise(looks)):
        raise ValueError(f"looks must be ascending numbers of seeds, 2 or more, found {list(looks)}")
    if looks[-1] > seeds:
        raise ValueError(f"the last look needs {looks[-1]} seeds, but {seeds} are declared under 'seeds'")


@dataclass(frozen=True)
class Found:
    """What a look found of one contrast; p-values as they were corrected."""

    p: float
    p_tie: float
    verdict: Verdict


@dataclass(frozen=True)
class Row:
    """One look in the record: how many seeds, which, and (arm, baseline) → p, p of a tie, verdict."""

    look: int
    seeds: tuple[int, ...]
    found: Mapping[tuple[str, str], "Found"] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The looks of one experiment as ``looks.yaml`` holds them: what was declared, and what was taken.

    Attributes:
        looks: as they were declared.
        level: as it was declared.
        taken: one look a row; the last may have been begun only, and then has found nothing yet.
        of: hash of what is compared: a verdict on other trainings is none on these.
        data: hash of the data's content; "" before the first look was written down.

    """

    looks: tuple[int, ...] = ()
    level: float = 0.05
    taken: tuple[Row, ...] = ()
    of: str = ""
    data: str = ""

    @property
    def begun(self) -> bool:
        """Whether the last look has found nothing yet."""
        return bool(self.taken) and not self.taken[-1].found


def spending(looks: Sequence[int], level: float) -> list[float]:
    """Level spent up to each look: half at the first, the rest linearly in seeds, all with the last."""
    if len(looks) == 1:
        return [level]
    first, last = looks[0], looks[-1]
    return [level / 2 * (1 + (look - first) / (last - first)) for look in looks]


def undecided(arms: Sequence[str], baseline: str | None, record: Record) -> list[tuple[str, str]]:
    """Contrasts that no look taken has settled."""
    settled = {pair for row in record.taken for pair, one in row.found.items() if one.verdict in SETTLED}
    return [pair for pair in pairs(list(arms), baseline) if pair not in settled]


def seeds_of_arms(
    arms: Sequence[str], baseline: str | None, plan: Plan, record: Record | None = None, further: bool = False
) -> dict[str, tuple[int, ...]]:
    """Which seeds every arm is trained on, from the record alone: the same record, the same trainings.

    Args:
        arms: of the experiment.
        baseline: the arm the others are compared with; all pairs where None.
        plan: the declared looks.
        record: of looks taken; none was where None.
        further: with the seeds of the next look, for the arms that are still undecided.

    Raises:
        UserError: if the plan is not the one under which looks were taken.

    """
    record = record or Record()
    same_plan(plan, record)
    open_pairs = pairs(list(arms), baseline)
    counts = dict.fromkeys(arms, plan.looks[0])
    steps = max(1, len(record.taken) + further)
    for look in range(min(steps, len(plan.looks))):
        for arm in {arm for pair in open_pairs for arm in pair}:
            counts[arm] = plan.looks[look]
        found = record.taken[look].found if look < len(record.taken) else {}
        open_pairs = [pair for pair in open_pairs if pair not in found or found[pair].verdict not in SETTLED]
    return {arm: plan.seeds[: counts[arm]] for arm in arms}


def begin_next(arms: Sequence[str], baseline: str | None, plan: Plan, record: Record) -> Record | None:
    """Begin the next look: it stands in the record before anything is trained for it.

    Returns:
        the record with a row that has found nothing yet; None where all is decided, no look is left, or the
        one before has not been written down.

    """
    number = len(record.taken)
    if not number or record.begun or number == len(plan.looks) or not undecided(arms, baseline, record):
        return None
    return replace(record, taken=(*record.taken, Row(plan.looks[number], plan.at(number))))


def standing(arms: Mapping[str, str], baseline: str | None, plan: Plan, record: Record) -> str:
    """Say at which look an experiment stands, what level is spent, and which arms stopped when.

    Args:
        arms: arm → its loss, as the reader knows it.
        baseline: the arm the others are compared with; all pairs where None.
        plan: the declared looks.
        record: of the looks taken.

    """
    number = max(1, len(record.taken))
    said = f"look {number} of {len(plan.looks)}, at {plan.looks[number - 1]} seeds"
    if not record.taken or record.begun:
        said += ", is begun"
    spent = spending(plan.looks, plan.level)[number - 1]
    said += f"; {spent:.3g} of the level of {plan.level:g} is spent with it"
    stopped = [
        f"{_named(pair, arms, baseline)} ({one.verdict}, at {row.look} seeds)"
        for row in record.taken
        for pair, one in row.found.items()
        if one.verdict in SETTLED
    ]
    left = [_named(pair, arms, baseline) for pair in undecided(list(arms), baseline, record)]
    if stopped:
        said += f"; decided: {', '.join(stopped)}"
    if left and record.taken:
        said += f"; open: {', '.join(left)}"
    return said


def _named(pair: tuple[str, str], arms: Mapping[str, str], baseline: str | None) -> str:
    first, second = (arms.get(arm, arm) for arm in pair)
    return first if baseline is not None else f"{first} against {second}"


def same_plan(plan: Plan, record: Record, where: str = "looks.yaml") -> None:
    """Refuse to change what was declared once somebody has looked.

    Raises:
        UserError: naming what was declared when the look was taken, and what is now.

    """
    if not record.taken:
        return
    last = record.taken[-1].look
    if plan.looks != record.looks or plan.level != record.level:
        raise UserError(
            f"{where}: a look at {last} seeds was taken with looks {list(record.looks)} declared at level "
            f"{record.level:g}, and params.yaml now declares {list(plan.looks)} at level {plan.level:g}; "
            "looks "
            f"declared after the first one are no longer worth their level: restore 'comparison', or {ANEW}"
        )
    for row in record.taken:
        if plan.seeds[: row.look] != row.seeds:
            raise UserError(
                f"{where}: the look at {row.look} seeds was taken with seeds {list(row.seeds)}, and 'seeds' "
                f"in params.yaml now begins with {list(plan.seeds[: row.look])}; seeds may not be exchanged "
                f"after a look: restore them, or {ANEW}"
            )


ANEW = "start anew: remove the entry from looks.yaml, and declare seeds that nobody has looked at"
