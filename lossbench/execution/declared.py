"""Which seeds an arm is trained on: those declared, or, where looks are, those of the looks that are begun.

Follows from ``params.yaml`` and ``looks.yaml`` alone, so that the same two give the same outs. ``check``
writes it into what each stage depends on.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lossbench.errors import UserError
from lossbench.params import Params
from lossbench.statistics.looks_file import read_looks, record_of, write_looks
from lossbench.statistics.record import (
    ANEW,
    Plan,
    Record,
    begin_next,
    pairs,
    same_plan,
    seeds_of_arms,
    spending,
    standing,
    undecided,
)
from lossbench.store import hashed

LOOKS = "looks.yaml"
Records = dict[str, Record]


def plan_of(params: Params) -> Plan | None:
    """Return the declared looks; None where all seeds are one."""
    comparison = params.comparison
    return Plan(params.seeds, comparison.looks, comparison.level) if comparison.looks else None


def is_compared(params: Params, experiment: str) -> bool:
    """Whether anything in an experiment is compared, and so looked at."""
    all_pairs = params.comparison.contrasts == "all_pairs"
    return len(params.arms_of(experiment)) > 1 and (all_pairs or params.baseline_of(experiment) is not None)


def against(params: Params, experiment: str) -> str | None:
    """Name the baseline arm; None where all pairs are compared."""
    return None if params.comparison.contrasts == "all_pairs" else params.baseline_of(experiment)


def records_of(params: Params, study: Path) -> Records:
    """Read the looks taken, of the experiments there are; empty where no looks are declared.

    Raises:
        UserError: if what was declared, or what is compared, has changed since a look was taken; also where
            looks were taken and none are declared any more.

    """
    plan, found = plan_of(params), read_looks(study / LOOKS)
    if plan is None:
        _check_still_declared(params, found)
        return {}
    made = {}
    for name in params.experiments:
        record = found.get(name, Record())
        same_plan(plan, record, f"{LOOKS}: {name}")
        digest = compared_digest(params, name)
        if record.taken and record.of not in ("", digest):
            raise UserError(
                f"{LOOKS}: {name}: a look at {record.taken[-1].look} seeds was taken at other trainings; "
                f"since then 'experiments.{name}', its data, search, losses or what it is compared with "
                f"have changed. Restore them, or start anew: remove '{name}' from {LOOKS}, and declare "
                "seeds that nobody has looked at"
            )
        _check_contrasts(params, name, record)
        made[name] = replace(record, of=digest)
    return made


def _check_still_declared(params: Params, found: Records) -> None:
    """Refuse all seeds as one look after a look: that is one more, at a level that is partly spent."""
    for name in params.experiments:
        record = found.get(name, Record())
        if record.taken and is_compared(params, name):
            raise UserError(
                f"{LOOKS}: {name}: a look at {record.taken[-1].look} seeds was taken with looks "
                f"{list(record.looks)} declared, and 'comparison.looks' in params.yaml now declares none; "
                f"all seeds together would be one look more: restore 'comparison.looks', or {ANEW}"
            )


def _check_contrasts(params: Params, experiment: str, record: Record) -> None:
    """Refuse a first look at other contrasts than are compared."""
    first = set(record.taken[0].found) if record.taken else set()
    compared = set(pairs(list(params.arms_of(experiment)), against(params, experiment)))
    if first and first != compared:
        pair = sorted(first ^ compared)[0]
        lacking = pair in compared
        raise UserError(
            f"{LOOKS}: {experiment}: the look at {record.taken[0].look} seeds "
            f"{'lacks' if lacking else 'names'} '{pair[0]}' against '{pair[1]}', which "
            f"{'is' if lacking else 'is not'} compared (the file is written by Lossbench: take it from git "
            "again)"
        )


def compared_digest(params: Params, experiment: str) -> str:
    """Hash what an experiment compares, as params say it."""
    arms = {arm: params.losses[one.loss] for arm, one in params.arms_of(experiment).items()}
    block = params.experiments[experiment]
    dataset = params.datasets[block.dataset].model_dump(mode="json", exclude={"path", "expectations"})
    if dataset["folds"] is None:
        del dataset["folds"]  # looks that were taken before there were any hold the hash without them
    tuning = params.tuning_of(experiment).model_dump(mode="json")
    content = [block.model_dump(mode="json"), dataset, tuning, arms, against(params, experiment)]
    return hashed(content)[:16]


def seeds_of(params: Params, study: Path) -> dict[str, tuple[int, ...]]:
    """Return the seeds of each arm; what is not compared gets those of the first look.

    Args:
        params: of the study.
        study: its folder, with ``looks.yaml``.

    Raises:
        UserError: if what was declared has changed since a look was taken.

    """
    plan, records = plan_of(params), records_of(params, study)
    if plan is None:
        return dict.fromkeys(params.arms, params.seeds)
    made = dict.fromkeys(params.arms, plan.at(0))
    for name, record in records.items():
        if is_compared(params, name):
            made |= seeds_of_arms(list(params.arms_of(name)), against(params, name), plan, record)
    return made


def seeds_told(params: Params, study: Path, experiment: str) -> list[int] | dict[str, list[int]]:
    """List an experiment's seeds as outs hold them; where looks are declared, for each arm."""
    if plan_of(params) is None:
        return list(params.seeds)
    seeds = seeds_of(params, study)
    return {arm: list(seeds[arm]) for arm in params.arms_of(experiment)}


def ensure_looks(study: Path) -> None:
    """Have ``looks.yaml`` there: DVC knows no dependency that may be missing."""
    if not (study / LOOKS).exists():
        write_looks(study / LOOKS, {})


def content_of(study: Path, dataset: str) -> str:
    """Hash of a fetched dataset's content."""
    provenance = json.loads((study / "data" / dataset / "provenance.json").read_bytes())
    return str(provenance["content_sha256"])[:16]


def forget_other_data(params: Params, study: Path) -> list[str]:
    """Begin the looks of experiments anew whose data have other content by now; returns sentences on it."""
    said = []
    records = records_of(params, study)
    for name, record in records.items():
        now = content_of(study, params.experiments[name].dataset)
        if record.taken and record.data not in ("", now):
            records[name] = Record(of=record.of)
            said.append(
                f"{LOOKS}: {name} was looked at on other data ({record.data}, now {now}): its looks begin "
                "anew"
            )
    if said:
        write_records(params, study, records)
    return said


def begin_looks(params: Params, study: Path) -> list[str]:
    """Begin the next look of every experiment that is undecided; returns their names."""
    plan = plan_of(params)
    if plan is None:
        raise UserError(
            "params.yaml: 'comparison.looks' declares no looks; write there at how many seeds you will "
            "decide, the last no more than 'seeds' has, for example looks: [8, 12, 16]"
        )
    records, begun = records_of(params, study), []
    for name, record in records.items():
        if is_compared(params, name):
            arms, baseline = list(params.arms_of(name)), against(params, name)
            further = begin_next(arms, baseline, plan, record)
            if further is not None:
                records[name] = further
                begun.append(name)
    if begun:
        write_records(params, study, records)
    return begun


def is_left(params: Params, study: Path) -> bool:
    """Whether a look is to be taken: none was yet, or one is begun."""
    records = records_of(params, study)
    return any(
        is_compared(params, name) and (not record.taken or record.begun) for name, record in records.items()
    )


def is_reported(params: Params, study: Path) -> bool:
    """Whether the report says all that ``looks.yaml`` does: a run may have been killed between the two."""
    file = study / "reports" / "verdicts.json"
    try:
        told = json.loads(file.read_bytes()).get("looks", {})
    except (OSError, ValueError):  # none yet, or written by halves
        told = {}
    return all(
        name in told and record_of(told[name]["record"], name, file).taken == record.taken
        for name, record in records_of(params, study).items()
        if is_compared(params, name) and record.taken and not record.begun
    )


def record_found(params: Params, study: Path) -> bool:
    """Write down what the report found at the looks that it could take; says whether there was any news."""
    if plan_of(params) is None:
        return False
    file = study / "reports" / "verdicts.json"
    return record_looks(params, study, json.loads(file.read_bytes()).get("looks", {}), file)


def record_looks(params: Params, study: Path, found: Mapping[str, Any], source: Path) -> bool:
    """Write down what was found at looks, by experiment; says whether there was any news."""
    before = records_of(params, study)
    records = before | {
        name: record_of(one["record"], name, source) for name, one in found.items() if name in before
    }
    if records == before:
        return False
    write_records(params, study, records)
    return True


def write_records(params: Params, study: Path, records: Records) -> None:
    """Write ``looks.yaml``; what it says of experiments that are no longer there stays."""
    others = {name: one for name, one in read_looks(study / LOOKS).items() if name not in params.experiments}
    write_looks(study / LOOKS, others | records)


def looks_said(params: Params, study: Path) -> list[str]:
    """Say at which look each experiment stands."""
    plan = plan_of(params)
    if plan is None:
        return []
    return [
        f"{name}: {standing(losses_of(params, name), against(params, name), plan, record)}"
        + (
            ""
            if record.taken
            else _too_early(plan, len(pairs(list(params.arms_of(name)), against(params, name))))
        )
        for name, record in records_of(params, study).items()
        if is_compared(params, name)
    ]


def _too_early(plan: Plan, contrasts: int) -> str:
    """Say where a first look of several spends level on differences that so few seeds cannot show."""
    if len(plan.looks) == 1 or not contrasts:
        return ""
    spent = spending(plan.looks, plan.level)[0] / contrasts
    least = math.ceil(math.log2(2 / spent))  # all signs agree with p = 2/2^n
    if plan.looks[0] >= least:
        return ""
    many = f"{contrasts} contrast{'s' * (contrasts > 1)}"
    return (
        f"; a first look at {plan.looks[0]} seeds can show no difference among {many} (ties, from five seeds "
        f"on), and half of the level is spent there: let it be at {least} or later"
    )


def losses_of(params: Params, experiment: str) -> dict[str, str]:
    """Map arms to their losses."""
    return {name: arm.loss for name, arm in params.arms_of(experiment).items()}


def nothing_left(params: Params, study: Path) -> str:
    """Say why no look is taken."""
    records = records_of(params, study)
    left = [
        name
        for name, record in records.items()
        if is_compared(params, name) and undecided(list(params.arms_of(name)), against(params, name), record)
    ]
    if not left:
        return "everything is decided: no further look is needed"
    return f"all declared looks are taken; {', '.join(left)} stays undecided"
