"""``reports/report.md``: what goes into a pull-request comment, and the end table of ``lossbench run``."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lossbench.reporting.in_a_line import NO_VERDICT, in_a_line, unanswered
from lossbench.reporting.inputs import Study
from lossbench.reporting.tables import Finding, floors_of, looks_json, records
from lossbench.statistics.hypotheses import Answer
from lossbench.statistics.sentences import level_over_report
from lossbench.statistics.writing import digits, p_value, with_bounds


def score(row: Mapping[str, Any]) -> str:
    """Write a mean with its interval, to the digits that mean something."""
    return with_bounds(row["mean"], row["ci_low"], row["ci_high"])


def markdown(study: Study, board: pd.DataFrame, found: Sequence[Finding], answered: Sequence[Answer]) -> str:
    """Write verdicts, leaderboard and answers as Markdown."""
    lines = ["# Which loss?", ""]
    for name in unanswered(study, found):
        lines += [f"**{escape(name)}: {NO_VERDICT}**.", ""]
    for name, line in in_a_line(study, found).items():
        lines += [f"**{escape(name)}: {escape(line.do)}**{escape(line.why)}. Next: {escape(line.then)}.", ""]
    lines += [f"- {one.sentence}" for one in found] or [
        "No verdict: it takes a baseline and at least two seeds."
    ]
    for name, one_look in looks_json(study).items():
        lines += ["", f"**{escape(name)}** stands at {escape(one_look['said'])}."]
    percent = 100 * (1 - study.params.comparison.level)
    lines += [
        "",
        f"| experiment | loss | metric | mean ({percent:.0f} % interval) | replicates |",
        "|---|---|---|---|---|",
    ]
    for one in study.evaluated.values():
        lines += [
            f"| {escape(one.name)} | {escape(row['loss'])} | {one.metric} | {score(row)} | {row['n']} |"
            for row in records(board, one.name, metric=one.metric)
        ]
        lines += [
            f"| {escape(one.name)} | *{escape(floor)}* | {one.metric} | {digits(value, 0)} | – |"
            for floor, value in floors_of(one).items()
        ]
    families = 2 * len({one.experiment for one in found}) + bool(answered)
    if families:
        lines += ["", level_over_report(families, study.params.comparison.level)]
    if answered:
        lines += [
            "",
            "| claim | answer | advantage | asked: more than | after Holm |",
            "|---|---|---|---|---|",
        ]
        lines += [_answer(one, study) for one in answered]
    return "\n".join(lines) + "\n"


def _answer(one: Answer, study: Study) -> str:
    claim = study.params.hypotheses[one.name].claim or one.name
    gain = with_bounds(one.difference, one.ci_low, one.ci_high)
    p = p_value(one.p_holm, study.params.comparison.level)
    return f"| {escape(claim)} | **{one.answer}** | {gain} | {one.by:g} | {p} |"


def escape(text: str) -> str:
    """Keep a name from breaking out of its table cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
