"""The answer in a line per experiment: what to train with and why, what it costs, and what to do next."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lossbench.folds import folds_of
from lossbench.outs import seen_from_top
from lossbench.params import Params, ScriptExperiment
from lossbench.reporting.inputs import Evaluated, Study
from lossbench.reporting.tables import Finding
from lossbench.statistics.record import Verdict
from lossbench.statistics.writing import digits, metric_name
from lossbench.tracking.cost import Seconds, cost_said, costs, memory_said
from lossbench.written import CHAIN

REST = (("tie", "ties with {baseline}"), ("undecided", "undecided"), ("worse", "worse"))
"""Verdicts that are listed after the answer, and their words: each was held against the baseline alone."""
NO_VERDICT = "no verdict: it takes two losses and two seeds"
"""The answer where there is none."""
NAMED = 3
"""Losses to train with whose gains are told one by one."""
IMAGE = 3
"""Dimensions of an image: channels, height, width."""


@dataclass(frozen=True)
class Line:
    """One experiment's answer.

    Attributes:
        do: what to train with.
        why: the rest of the answer, with its punctuation.
        then: what to do next; commands stand between backticks.
        arms: those to train with, the best first.
        baseline: the arm they were held against.

    """

    do: str
    why: str
    then: str
    arms: tuple[str, ...]
    baseline: str

    @property
    def answer(self) -> str:
        """What to train with, and why."""
        return self.do + self.why


def in_a_line(study: Study, found: Sequence[Finding], seconds: Seconds | None = None) -> dict[str, Line]:
    """Return the answer of each experiment that has verdicts against a baseline.

    Losses that each beat the baseline were not compared with one another, and the line says so, but where
    all pairs are compared: then one that another of them beats is not recommended.

    Args:
        study: all outs.
        found: verdicts.
        seconds: of trainings, as measured here; only for what is no out, since they differ between runs.

    """
    made = {}
    for name, one in study.evaluated.items():
        baseline = study.params.baseline_of(name)
        if baseline is None:
            continue
        own = [each for each in found if each.experiment == name]
        against = [each for each in own if each.contrast.baseline == baseline]
        if against:
            made[name] = _line(one, against, baseline, study.params, seconds or {}, beaten(own))
    return made


def unanswered(study: Study, found: Sequence[Finding]) -> list[str]:
    """Name the experiments that have no verdict at all."""
    judged = {each.experiment for each in found}
    return [name for name in study.evaluated if name not in judged]


def beaten(found: Sequence[Finding]) -> dict[str, set[str]]:
    """Arm → those that are better; where all are held against the baseline alone, only that has any."""
    made: dict[str, set[str]] = {}
    for contrast in (each.contrast for each in found):
        if contrast.verdict == Verdict.BETTER:
            made.setdefault(contrast.baseline, set()).add(contrast.arm)
        elif contrast.verdict == Verdict.WORSE:
            made.setdefault(contrast.arm, set()).add(contrast.baseline)
    return made


def _line(
    one: Evaluated,
    found: Sequence[Finding],
    baseline: str,
    params: Params,
    seconds: Seconds,
    beaten_by: Mapping[str, set[str]],
) -> Line:
    groups: dict[str, list[Finding]] = {}
    for each in found:
        groups.setdefault(str(each.contrast.verdict), []).append(each)
    better = sorted(groups.get("better", ()), key=lambda each: -abs(each.contrast.difference))
    ahead = {each.contrast.arm for each in better}
    second = [each for each in better if beaten_by.get(each.contrast.arm, set()) & ahead]
    better = [each for each in better if each not in second]
    arms = tuple(each.contrast.arm for each in better) or (baseline,)
    do, why = _recommended(one, better, groups, one.loss_of(baseline))
    if len(better) > 1 and params.comparison.contrasts == "baseline":
        why += "; they were not compared with one another"
    said = (
        [f"better too, but worse than one of these: {_listed(_losses(one, second), 'and')}"] if second else []
    )
    said += [
        f"{words.format(baseline=one.loss_of(baseline))}: {_listed(_losses(one, rest), 'and')}"
        for verdict, words in REST
        if (rest := groups.get(verdict))
    ]
    said += _not_trained(one, groups.get("not trained", ()))
    prices = [cost_said(arms, baseline, seconds), memory_said(arms, baseline, one.arms)]
    why += "".join(f"; {each}" for each in said) + costs(prices, one.loss_of(baseline))
    said = [*_sample(found), *_folds(folds_of(params, one.name), len(params.seeds))]
    why += "".join(f"; {each}" for each in said)
    return Line(do, why, "; ".join(_next(one, params, groups, arms[0])), arms, baseline)


def _not_trained(one: Evaluated, found: Sequence[Finding]) -> list[str]:
    """Name what was not trained, and whom that leaves without a verdict: a baseline does all of them."""
    if not found:
        return []
    sides = [(each.contrast.baseline, each.contrast.baseline_condition) for each in found]
    sides += [(each.contrast.arm, each.contrast.arm_condition) for each in found]
    untrained = list(dict.fromkeys(one.loss_of(arm) for arm, condition in sides if condition.untrained))
    said = f"not trained: {_listed(untrained, 'and')}"
    judged = _losses(one, found)
    left = [name for name in judged if name not in untrained]
    return [f"{said}; so no verdict on {_listed(left, 'and')}" if left else said]


def _losses(one: Evaluated, found: Sequence[Finding]) -> list[str]:
    return [one.loss_of(each.contrast.arm) for each in found]


def _recommended(
    one: Evaluated, better: Sequence[Finding], groups: dict[str, list[Finding]], baseline: str
) -> tuple[str, str]:
    """Say what to train with, and how much that is better."""
    if not better:
        nothing = set(groups) == {"not trained"}
        return "no answer yet" if nothing else f"no reason shown to leave {baseline}", ""
    names = _listed(_losses(one, better), "or")
    why = f": {'each ' if len(better) > NAMED else ''}better than {baseline} by {_gains(better)} "
    why += f"{metric_name(one.metric)} ({_ahead(better)})"
    return f"train with {names}", why


def _gains(better: Sequence[Finding]) -> str:
    """Say by how much each is better, in their order; of many the least and the most."""
    found = [each.contrast for each in better]
    said = [digits(abs(one.difference), (one.ci_high - one.ci_low) / 2) for one in found]
    return _listed(said, "and") if len(said) <= NAMED else f"{said[-1]} to {said[0]}"


def _ahead(better: Sequence[Finding]) -> str:
    """Say on how many seeds they scored better, an effect size without a unit; looks may differ in seeds."""
    by_seeds: dict[int, list[int]] = {}
    for each in better:
        if each.contrast.ahead is not None:
            by_seeds.setdefault(each.contrast.n, []).append(each.contrast.ahead)
    way = "higher" if better[0].contrast.higher_is_better else "lower"
    counts = [
        f"{' to '.join(dict.fromkeys(str(count) for count in (min(ahead), max(ahead))))} of {n}"
        for n, ahead in sorted(by_seeds.items())
    ]
    return f"{way} on {_listed(counts, 'and')} seeds"


def _sample(found: Sequence[Finding]) -> list[str]:
    """Say what one test sample weighs: a difference of that size may be one image."""
    step = max(each.contrast.step for each in found)
    metric = metric_name(found[0].contrast.metric)
    return [f"one test sample weighs up to {step:.2g} {metric}"] if step else []


def _folds(folds: int, seeds: int) -> list[str]:
    """Say where the data are divided several times: then all samples are tested, each by some seeds."""
    if folds == 1:
        return []
    each = seeds // folds
    return [f"{folds} folds: every sample is tested, by {each} of {seeds} declared seeds"]


def _next(one: Evaluated, params: Params, groups: dict[str, list[Finding]], best: str) -> Iterator[str]:
    study = _study(one, params)
    repro = "run the comparison again"
    if _has_chain(one):
        repro = f"`lossbench run{f' --study {study}' if study else ''}`"
    if "better" in groups or not {"undecided", "not trained"} & set(groups):
        yield from _used(one, study, best)
    if undecided := groups.get("undecided"):
        of = f"for {_listed(_losses(one, undecided), 'and')}: " if "better" in groups else ""
        yield of + _looked_at(one, params, study, undecided)
    if "not trained" in groups:
        anew = (
            f", take '{one.name}' out of `looks.yaml` and declare seeds that nobody has looked at"
            if params.comparison.looks
            else ""
        )
        yield f"for what was not trained: train longer, or widen `tuning`{anew}, then {repro}"


def _used(one: Evaluated, study: str, best: str) -> Iterator[str]:
    """Say how the arm to train with is used."""
    if isinstance(one.experiment, ScriptExperiment):
        yield f"what your script was told for it stands in `reports/tuning/{best}.json`"
        return
    which = f"{f'--study {study} ' if study else ''}--arm {best}"
    if len(one.drawn.info.input_shape) == IMAGE:  # what `predict` reads
        yield f"`lossbench predict {which} FILES`"
    yield f"`lossbench export {which} --onnx {best}.onnx`"


def _looked_at(one: Evaluated, params: Params, study: str, undecided: Sequence[Finding]) -> str:
    """Say how what is undecided may be decided: seeds that no look declares would raise false verdicts."""
    where = f" --study {study}" if study else ""
    looks = params.comparison.looks
    taken = max(each.contrast.n for each in undecided)
    further = next((look for look in looks if look > taken), None)
    if further is not None:
        return f"`lossbench look{where}`: the next declared look is at {further} seeds, for what is undecided"
    if looks:
        return f"all declared looks are taken: it stays undecided at {taken} seeds"
    if not _has_chain(one):
        return "declare `looks=`, and seeds that nobody has looked at: the call stops where all is decided"
    return (
        "declare `comparison.looks` and seeds that nobody has looked at, then "
        f"`lossbench run{where} --looks`: it stops where all is decided"
    )


def _folder(one: Evaluated) -> Path:
    """Find the study's folder."""
    return one.gallery.resolve().parents[2]


def _has_chain(one: Evaluated) -> bool:
    """Whether DVC runs the study; a comparison from Python is called again."""
    return (_folder(one) / CHAIN).exists()


def _study(one: Evaluated, params: Params) -> str:
    """Give the study's folder as seen from where `make` is called; "" for the one that is there."""
    folder = _folder(one)
    if not _has_chain(one):
        return shlex.quote(os.path.relpath(folder))
    return seen_from_top(folder, params)


def _listed(names: Sequence[str], word: str) -> str:
    if len(names) < 2:
        return names[0]
    return f"{', '.join(names[:-1])} {word} {names[-1]}"
