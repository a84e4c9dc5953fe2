"""The answer in a line per experiment: what to train with and why, and what to do next."""

from collections.abc import Sequence

from lossbench.params import Params
from lossbench.reporting.inputs import Evaluated, Study
from lossbench.reporting.tables import Finding
from lossbench.statistics.sentences import digits, metric_name

REST = (("tie", "ties with it"), ("undecided", "undecided"), ("not trained", "not trained"))
"""Verdicts that are listed after the answer, and their words."""


def in_a_line(study: Study, found: Sequence[Finding]) -> dict[str, tuple[str, str]]:
    """Return, for each experiment, the answer and the next step.

    Losses that each beat the baseline were not compared with one another; the line says so.
    """
    made = {}
    for name, one in study.evaluated.items():
        mine = [each for each in found if each.experiment == name]
        baseline = study.params.baseline_of(name)
        if mine and baseline is not None:
            against = [each for each in mine if each.contrast.baseline == baseline]
            made[name] = (
                _answer(one, against, one.loss_of(baseline)),
                _next(study.params, against, baseline),
            )
    return made


def _answer(one: Evaluated, found: Sequence[Finding], baseline: str) -> str:
    groups: dict[str, list[Finding]] = {}
    for each in found:
        groups.setdefault(each.contrast.verdict, []).append(each)
    better = sorted(groups.get("better", ()), key=lambda each: -abs(each.contrast.difference))
    if better:
        gains = [abs(each.contrast.difference) for each in better]
        half = max((each.contrast.ci_high - each.contrast.ci_low) / 2 for each in better)
        names = _listed([one.loss_of(each.contrast.arm) for each in better], "or")
        spread = " to ".join(dict.fromkeys(digits(gain, half) for gain in (min(gains), max(gains))))
        said = f"train with {names}: {'each ' if len(better) > 1 else ''}better than {baseline} by {spread} "
        said += metric_name(one.metric)
        if len(better) > 1:
            said += "; they were not compared with one another"
    elif set(groups) == {"not trained"}:
        said = "no answer yet"
    else:
        said = f"no reason shown to leave {baseline}"
    for verdict, words in REST:
        if rest := groups.get(verdict):
            said += f"; {words}: {_listed([one.loss_of(each.contrast.arm) for each in rest], 'and')}"
    return said


def _next(params: Params, found: Sequence[Finding], baseline: str) -> str:
    better = [each for each in found if each.contrast.verdict == "better"]
    if any(each.contrast.verdict == "not trained" for each in found):
        return "train longer, or widen `tuning`; then `make repro`"
    if better or all(each.contrast.verdict in ("tie", "worse") for each in found):
        best = (
            max(better, key=lambda each: abs(each.contrast.difference)).contrast.arm if better else baseline
        )
        return f"`lossbench predict --arm {best} FILES`, `lossbench export --arm {best} --onnx model.onnx`"
    if not params.comparison.looks:
        return (
            "declare `comparison.looks` and seeds that nobody has looked at, then `lossbench run "
            "--looks`: it stops "
            "where all is decided"
        )
    taken = max(each.contrast.n for each in found)
    further = next((look for look in params.comparison.looks if look > taken), None)
    if further is None:
        return f"all declared looks are taken: it stays undecided at {taken} seeds"
    return f"`lossbench look`: the next declared look is at {further} seeds, for what is undecided"


def _listed(names: Sequence[str], word: str) -> str:
    if len(names) < 2:
        return names[0]
    return f"{', '.join(names[:-1])} {word} {names[-1]}"
