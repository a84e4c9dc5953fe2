"""What a run will do, said before it begins: trainings, epochs, time and memory."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossbench.execution.fill import Arm, Filling, Flow
from lossbench.execution.jobs import COSTS, TRAIN, Executor, Job, Measure, Where
from lossbench.params import Params, ScriptExperiment
from lossbench.store import Store

GiB = 2**30


@dataclass(frozen=True)
class Planned:
    """What an experiment's arms still need.

    Attributes:
        experiment: its name.
        arms: how many.
        there: trainings that are in the store, or whose outs are.
        trials: of searches, that are missing.
        replicates: that are missing, as far as the searches have told.
        epochs: of all that is missing.
        longest: epochs that follow one another however many workers there are: a trial's, then a replicate's.
        seconds: of one worker, for an epoch; None where it could not be measured.
        peak: bytes that a worker takes at most; None where it could not be measured.

    """

    experiment: str
    arms: int
    there: int
    trials: int
    replicates: int
    epochs: int
    longest: int = 0
    seconds: float | None = None
    peak: int | None = None


def plan(
    params: Params,
    arms: Mapping[str, Arm],
    store: Store,
    where: Where,
    executor: Callable[[], Executor],
    done: Collection[str] = (),
) -> list[Planned]:
    """Say what is missing, measuring a few steps of each experiment of which nothing is known.

    Args:
        params: of the study.
        arms: all of them.
        store: what is there.
        where: for the jobs.
        executor: makes one, if anything is to be measured.
        done: stages that need nothing, though the store may lack something of them.

    """
    counted = [_count(params, name, arms, store, done) for name in params.experiments]
    lacking = [
        one
        for one in counted
        if one.epochs and not _scripted(params, one) and _costs(store, arms, one.experiment) is None
    ]
    if lacking and params.compute.engine == "loop":
        filling = Filling(executor)
        for one in lacking:
            job = Measure(where, params, next(iter(params.arms_of(one.experiment))))
            filling.add(one.experiment, lambda job=job: _once([job]))  # type: ignore[misc]  # the default binds the job
        filling.run()
    return [_priced(one, _costs(store, arms, one.experiment)) for one in counted]


def _scripted(params: Params, one: Planned) -> bool:
    """Whether a script trains: no part of it can be run to see how long it takes."""
    return isinstance(params.experiments[one.experiment], ScriptExperiment)


def _once(jobs: Sequence[Job]) -> Flow:
    yield list(jobs)


def _count(
    params: Params, name: str, arms: Mapping[str, Arm], store: Store, done: Collection[str]
) -> Planned:
    there = trials = replicates = epochs = longest = 0
    for arm in (arms[one] for one in params.arms_of(name)):
        if f"train@{arm.name}" in done:
            there += len(arm.trials.keys) + len(arm.seeds)
            continue
        found, entries = arm.found(store)
        lacking = sum(entry is None for entry in entries)
        trials += lacking
        there += len(entries) - lacking
        epochs += lacking * arm.trials.recipe.epochs
        known, chain = found or {"best": {}}, arm.trials.recipe.epochs if lacking else 0
        last = 0
        for wanted in (arm.replicates(known), *arm.budgets(known).values()):
            kept = sum(store.get(TRAIN, key) is not None for key in wanted.keys) if found else 0
            replicates += len(wanted.keys) - kept
            there += kept
            epochs += (len(wanted.keys) - kept) * wanted.recipe.epochs
            last = max(last, wanted.recipe.epochs if kept < len(wanted.keys) else 0)
        longest = max(longest, chain + last)
    return Planned(name, len(params.arms_of(name)), there, trials, replicates, epochs, longest)


def _costs(store: Store, arms: Mapping[str, Arm], experiment: str) -> Mapping[str, Any] | None:
    first = next(arm for arm in arms.values() if arm.experiment == experiment)
    entry = store.get(COSTS, first.identity.costs)
    return None if entry is None else entry.content


def _priced(one: Planned, costs: Mapping[str, Any] | None) -> Planned:
    if costs is None:
        return one
    return Planned(**{**vars(one), "seconds": costs["seconds"], "peak": costs["peak"]})


def of_params(params: Params) -> list[str]:
    """Say what params ask for, where nothing is known of the data yet: a line for each experiment."""
    lines = []
    for name, one in params.experiments.items():
        tuning, arms = params.tuning_of(name), len(params.arms_of(name))
        each = (params.comparison.looks or (len(params.seeds),))[0]
        searches = each if tuning.scope == "replicate" else 1
        trials = arms * tuning.trials * len(tuning.seeds) * searches
        replicates = arms * each
        lengths = [one.recipe.epochs_at(share) for share in one.recipe.budgets or (1,)]
        epochs = trials * (tuning.epochs or one.recipe.epochs) + replicates * sum(lengths)
        replicates *= len(lengths)
        parts = [f"{trials} trials"] * bool(trials) + [f"{replicates} replicates"]
        lines.append(f"{name}: {' and '.join(parts)} ({epochs:,} epochs)")
    return [
        *lines,
        "the data have not been fetched yet: what is in the store, and how long it takes, a run says",
    ]


def sentences(planned: Sequence[Planned], workers: int) -> list[str]:
    """Say a plan, a line for each experiment and one for the whole."""
    lines, total, longest, known = [], 0.0, 0.0, True
    for one in planned:
        if not one.epochs:
            lines.append(f"{one.experiment}: all {one.there} trainings are done")
            continue
        parts = [f"{one.trials} trials"] * bool(one.trials) + [f"{one.replicates} replicates"]
        line = f"{one.experiment}: {' and '.join(parts)} to train ({one.epochs:,} epochs)"
        if one.there:
            line += f", {one.there} are done"
        if one.seconds is None or one.peak is None:
            known = False
        else:
            total += one.epochs * one.seconds
            longest = max(longest, one.longest * one.seconds)
            line += f"; {one.seconds:.2g} s an epoch, {one.peak / GiB:.1f} GiB a worker"
        lines.append(line)
    if total or not known:
        time = f"about {duration(max(total / workers, longest))}" if known else "how long is not known yet"
        lines.append(f"in all {time}, with {workers} at a time")
    return lines


def duration(seconds: float) -> str:
    """Write a time as one would say it."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
