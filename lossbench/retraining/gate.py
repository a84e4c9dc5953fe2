"""The gate: whether the challenger may take the champion's place. What is in doubt stays out."""

import hashlib
import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.data.dataset import Dataset
from lossbench.params import Retraining
from lossbench.retraining.scoring import Contender, Difference, Scored, drop_errors, paired_difference, score
from lossbench.tasks.base import CONSTANT, Scores, Task

Array = npt.NDArray[Any]
Slices = Mapping[str, Mapping[str, Array]]
"""split → slice's name → numbers of its samples."""
ONE_CLASS = ("label", "mask")
"""Kinds of target that name one class per position."""
Groups = Mapping[str, Array]
"""split → (N,) number of each sample's group; a split that is missing has none."""


@dataclass(frozen=True)
class Decision:
    """What the gate says, and what it saw.

    Attributes:
        promote: whether the challenger takes over.
        reason: one sentence.
        evidence: split → challenger against champion; empty where it did not come to that.
        challenger: split → its score.
        level: that the test split's interval was given.

    """

    promote: bool
    reason: str
    evidence: Mapping[str, Difference] = field(default_factory=dict)
    challenger: Mapping[str, float] = field(default_factory=dict)
    level: float | None = None


def decide(
    challenger: Contender,
    champion: Contender | None,
    data: Dataset,
    metric: str,
    rules: Retraining,
    slices: Slices | None = None,
    groups: Groups | None = None,
    spend: Callable[[], float] | None = None,
) -> Decision:
    """Decide on a promotion.

    The challenger must hold the absolute floor, and the first champion beat what needs no training; on the
    test split the paired interval's lower bound must exceed the margin; on the reference split, which no
    retraining ever trains on, it must not lie wholly below −margin; and no class or slice may score worse
    than the champion's by more than its limit and one standard error. Without a champion only the floor
    counts, and the task's constant prediction.

    Args:
        challenger: who wants the place.
        champion: who holds it; None the first time.
        data: the current dataset.
        metric: the experiment's primary one.
        rules: margin, floor, limits and level.
        slices: parts of the test and reference splits that are looked at by themselves.
        groups: of samples that are no examples of their own.
        spend: what is left of ``rules.level`` for one more look at the test split; asked where it comes to
            that look. The whole of it, if not given.

    """
    splits = {name: data.split(name) for name in ("test", "reference") if data.info.sizes.get(name)}
    asked = {name: score(challenger, split) for name, split in splits.items()}
    found = {name: one.scores.metrics[metric] for name, one in asked.items()}
    refusal = _unfit(asked, found, challenger.task, metric, rules)
    if refusal:
        return Decision(False, refusal, challenger=found)
    if champion is None:
        return _first(challenger.task, data, found, metric, rules)
    refusal = _incomparable(challenger, champion)
    if refusal:
        return Decision(False, refusal, challenger=found)
    held = {name: score(champion, split) for name, split in splits.items()}
    targets = {name: np.asarray(split.targets) for name, split in splits.items()}
    level = rules.level if spend is None else spend()
    return judge(held, asked, targets, challenger.task, metric, rules, slices or {}, groups or {}, level)


def judge(
    held: Mapping[str, Scored],
    asked: Mapping[str, Scored],
    targets: Mapping[str, Array],
    task: Task,
    metric: str,
    rules: Retraining,
    slices: Slices | None = None,
    groups: Groups | None = None,
    level: float | None = None,
) -> Decision:
    """Decide between two that were scored on the same examples.

    Args:
        held: split → the champion's outputs and scores.
        asked: split → the challenger's.
        targets: split → (N, ...), as stored.
        task: whose metrics these are.
        metric: the primary one.
        rules: margin, limits and level.
        slices: parts of splits that are looked at by themselves.
        groups: of samples that are no examples of their own.
        level: of the test split's interval; ``rules.level`` if not given. The reference split keeps that.

    """
    groups, level = groups or {}, rules.level if level is None else level
    evidence = {
        name: paired_difference(
            held[name],
            asked[name],
            task,
            metric,
            targets[name],
            level if name == "test" else rules.level,
            groups.get(name),
        )
        for name in targets
    }
    found = {name: one.scores.metrics[metric] for name, one in asked.items()}
    reason = _not_better(evidence, metric, rules, level) or _worse_somewhere(
        held, asked, targets, task, metric, rules, slices or {}, groups
    )
    if reason:
        return Decision(False, reason, evidence, found, level)
    written = _written(evidence["test"], metric, level)
    return Decision(True, f"better on the test split: {written}", evidence, found, level)


def _unfit(
    asked: Mapping[str, Scored], found: Mapping[str, float], task: Task, metric: str, rules: Retraining
) -> str | None:
    for name, one in asked.items():
        if not one.finite or not math.isfinite(found[name]):
            return f"the challenger has no {metric} on the {name} split: its outputs are not finite"
    if rules.floor is None:
        return None
    higher = task.direction(metric).higher_is_better
    held = found["test"] >= rules.floor if higher else found["test"] <= rules.floor
    if held:
        return None
    return f"the challenger's {metric} of {found['test']:.4f} misses the floor of {rules.floor:g}"


def _first(task: Task, data: Dataset, found: Mapping[str, float], metric: str, rules: Retraining) -> Decision:
    """Judge the first champion, which has nobody to beat but the floor and what needs no training.

    A declared floor does not let in what a constant beats: as data shift, the commonest class's share may
    pass a floor that was high when it was written.
    """
    value, held = found["test"], "no floor declared"
    if rules.floor is not None:
        held = f"the floor of {rules.floor:g} is held"
    constant = _best_constant(task, data, metric)
    if constant is None:
        said = f"the task '{task.name}' names no {CONSTANT} to hold it against"
    else:
        gain = (value - constant) * (1 if task.direction(metric).higher_is_better else -1)
        if not gain > rules.margin:
            margin = f" by more than {rules.margin:g}" if rules.margin else ""
            reason = (
                f"no first champion: {metric} {value:.4f} does not beat the {constant:.4f} of a "
                f"{CONSTANT}, which needs no training{margin}"
            )
            return Decision(False, reason, challenger=found)
        said = f"a {CONSTANT} has {constant:.4f}"
    return Decision(True, f"the first champion: {metric} {value:.4f}, {held}; {said}", challenger=found)


def _best_constant(task: Task, data: Dataset, metric: str) -> float | None:
    """Score what says the same of every sample; None where a task of the user's own names nothing such.

    The task's own is the commonest class of training. Where the shares of test differ by chance, whoever says
    another class alone would pass for better: so the commonest class of test counts as well.
    """
    values = [task.floors(data).get(CONSTANT, {}).get(metric, math.nan)]
    if task.info.kind in ONE_CLASS:
        targets = np.asarray(data.split("test").targets)
        known = targets[(targets >= 0) & (targets < len(task.info.classes))]
        other = copy(task)
        other.info = replace(task.info, counts=np.bincount(known, minlength=len(task.info.classes)).tolist())
        values.append(other.score(other.majority_digests(targets), targets).metrics[metric])
    if not math.isfinite(values[0]):
        return None
    best = max if task.direction(metric).higher_is_better else min
    return best(one for one in values if math.isfinite(one))


def _incomparable(challenger: Contender, champion: Contender) -> str | None:
    new, old = challenger.info, champion.info
    unknown = [name for name in new.classes if name not in old.classes]
    if unknown:
        return (
            f"the champion does not know the class '{unknown[0]}'; scores on it cannot be compared: "
            "delete the alias 'champion' to begin anew: a first champion is judged then"
        )
    if new.classes != old.classes:
        return "the champion's classes differ from the challenger's; scores cannot be compared"
    if (new.kind, new.input_shape) != (old.kind, old.input_shape):
        return (
            f"the champion takes {old.kind} inputs of shape {old.input_shape}, "
            f"the data have {new.kind} inputs of shape {new.input_shape}; scores cannot be compared"
        )
    if champion.task.name != challenger.task.name:
        return f"the champion does '{champion.task.name}', the challenger '{challenger.task.name}'"
    if _bits(challenger) == _bits(champion):
        return "the challenger is the champion, bit for bit"
    return None


def _bits(one: Contender) -> str:
    digest = hashlib.sha256()
    for name in sorted(one.state):
        digest.update(name.encode() + one.state[name].numpy().tobytes())
    return digest.hexdigest()


def _not_better(
    evidence: Mapping[str, Difference], metric: str, rules: Retraining, level: float
) -> str | None:
    test = evidence["test"]
    if not test.low > rules.margin:
        return f"not shown to be better by more than {rules.margin:g}: {_written(test, metric, level)}"
    reference = evidence.get("reference")
    if reference is not None and reference.high < -rules.margin:
        return f"worse on the frozen reference split: {_written(reference, metric, rules.level)}"
    return None


def _written(one: Difference, metric: str, level: float) -> str:
    grouped = "" if one.groups == one.examples else f" in {one.groups} groups"
    return (
        f"{metric} {one.challenger:.4f} against {one.champion:.4f}, gain {one.gain:.4f} "
        f"({100 * (1 - level):.4g} % {one.low:.4f} to {one.high:.4f}, {one.examples} examples{grouped})"
    )


def _worse_somewhere(
    held: Mapping[str, Scored],
    asked: Mapping[str, Scored],
    targets: Mapping[str, Array],
    task: Task,
    metric: str,
    rules: Retraining,
    slices: Slices,
    groups: Groups,
) -> str | None:
    """Name a class or slice that loses more than its limit, by more than one standard error.

    A class of 35 samples that loses 2 of them has lost 5.7 points, which says nothing; where samples are few
    or the loss is large, one standard error still shuts the gate.
    """
    allowed = rules.max_class_drop
    refusal = _worse_class(held["test"], asked["test"], targets["test"], task, allowed, groups.get("test"))
    for split, parts in slices.items():
        for name, rows in parts.items():
            if refusal:
                return refusal
            part = targets[split][rows]
            before, after = (
                replace(one, digests=one.digests[rows], scores=task.score(one.digests[rows], part))
                for one in (held[split], asked[split])
            )
            own = groups[split][rows] if split in groups else None
            refusal = _worse_slice(f"slice '{name}'", split, before, after, part, task, metric, allowed, own)
    return refusal


def _worse_class(
    held: Scored, asked: Scored, targets: Array, task: Task, allowed: float, groups: Array | None
) -> str | None:
    for measure, new in asked.scores.per_class.items():
        drops = np.nan_to_num(held.scores.per_class[measure] - new)
        if not (drops > allowed).any():
            continue
        errors = drop_errors(held, asked, task, targets, partial(_per_class, measure), groups)
        worst = int(np.argmax(drops - errors))
        if drops[worst] - errors[worst] > allowed:
            return _loses(
                f"class '{task.info.classes[worst]}'", drops[worst], measure, "test", errors[worst], allowed
            )
    return None


def _per_class(measure: str, scores: Scores) -> Array:
    return scores.per_class[measure]


def _worse_slice(
    what: str,
    split: str,
    held: Scored,
    asked: Scored,
    targets: Array,
    task: Task,
    metric: str,
    allowed: float,
    groups: Array | None,
) -> str | None:
    sign = 1 if task.direction(metric).higher_is_better else -1
    drop = sign * (held.scores.metrics[metric] - asked.scores.metrics[metric])
    if not drop > allowed:
        return None
    (error,) = drop_errors(held, asked, task, targets, lambda one: np.array([one.metrics[metric]]), groups)
    return _loses(what, drop, metric, split, error, allowed) if drop - error > allowed else None


def _loses(what: str, drop: float, measure: str, split: str, error: float, allowed: float) -> str:
    return (
        f"{what} loses {drop:.4f} {measure} on the {split} split "
        f"(standard error {error:.4f}); allowed: {allowed:g}"
    )
