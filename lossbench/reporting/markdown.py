"""``reports/report.md``: what goes into a pull-request comment, and the end table of ``lossbench run``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lossbench.reporting.in_a_line import in_a_line
from lossbench.reporting.inputs import Study
from lossbench.reporting.tables import Finding, floors_of, looks_json, records
from lossbench.statistics.hypotheses import Answer
from lossbench.statistics.sentences import level_over_report
from lossbench.statistics.writing import digits


def score(row: Mapping[str, Any]) -> str:
    """Write a mean with its interval, to the digits that mean something."""
    if math.isnan(row["mean"]):
        return "–"
    half = (row["ci_high"] - row["ci_low"]) / 2
    mean = digits(row["mean"], half)
    if row["n"] < 2:
        return mean
    return f"{mean} ({digits(row['ci_low'], half)} to {digits(row['ci_high'], half)})"


def markdown(study: Study, board: pd.DataFrame, found: Sequence[Finding], answered: Sequence[Answer]) -> str:
    """Write verdicts, leaderboard and answers as Markdown."""
    lines = ["# Which loss?", ""]
    for name, line in in_a_line(study, found).items():
        lines += [f"**{escape(name)}**: {escape(line.answer)}. Next: {escape(line.then)}.", ""]
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
        lines += ["", "| claim | answer | advantage | p after Holm |", "|---|---|---|---|"]
        lines += [_answer(one, study) for one in answered]
    return "\n".join(lines) + "\n"


def _answer(one: Answer, study: Study) -> str:
    half = (one.ci_high - one.ci_low) / 2
    gain = f"{digits(one.difference, half)} ({digits(one.ci_low, half)} to {digits(one.ci_high, half)})"
    claim = study.params.hypotheses[one.name].claim or one.name
    return f"| {escape(claim)} | **{one.answer}** | {gain} | {one.p_holm:.3f} |"


def escape(text: str) -> str:
    """Keep a name from breaking out of its table cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
