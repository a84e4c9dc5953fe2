"""What a parent run says of its arm: score, interval, rank, verdict, and a description to read.

Read from ``reports/leaderboard.csv``, ``verdicts.csv`` and the evaluation's ``scores.csv``; before the
report has run, the means of the scores stand alone.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lossbench.statistics.record import Verdict
from lossbench.statistics.writing import p_value, with_bounds
from lossbench.tracking.cost import cost_said, read_seconds, with_time
from lossbench.tracking.outs import ArmOuts
from lossbench.tracking.provenance import digest

Row = dict[str, str]
VERDICT_METRICS = {
    "difference": "difference",
    "median": "difference_median",
    "ci_low": "difference_ci_low",
    "ci_high": "difference_ci_high",
    "p": "p",
    "p_holm": "p_holm",
    "p_tie": "p_tie",
    "seeds_needed": "seeds_needed",
    "correlation": "pair_correlation",
}
"""Columns of verdicts.csv → names of metrics."""


@dataclass(frozen=True)
class Summary:
    """Metrics and tags of a parent run."""

    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class Reports:
    """The report's tables, as far as they exist."""

    def __init__(self, root: Path) -> None:
        self.leaderboard = _rows(root / "reports" / "leaderboard.csv")
        self.verdicts = _rows(root / "reports" / "verdicts.csv")
        path = root / "reports" / "verdicts.json"
        content = json.loads(path.read_bytes()) if path.exists() else {}
        self._said = content.get("verdicts", [])
        self._answers, self._looks = content.get("answers", {}), content.get("looks", {})

    def ranks(self, outs: ArmOuts) -> list[Row]:
        """Find the arm's rows of the leaderboard."""
        return [row for row in self.leaderboard if _is(row, outs)]

    def contrasts(self, outs: ArmOuts) -> list[Row]:
        """Find the arm's contrasts."""
        return [row for row in self.verdicts if _is(row, outs)]

    def is_baseline(self, outs: ArmOuts) -> bool:
        """Say whether others were held against the arm; of one seed there are no verdicts."""
        return any(
            (row["experiment"], row["baseline"]) == (outs.experiment, outs.arm) for row in self.verdicts
        )

    def sentences(self, outs: ArmOuts) -> list[str]:
        """Find what the report says of the arm in words."""
        return [str(said["sentence"]) for said in self._said if _is(said, outs)]

    def answer(self, experiment: str, home: Path) -> str:
        """Write an experiment's answer as its Markdown description; "" before the report has run."""
        line = self._answers.get(experiment)
        if line is None:
            return ""
        seconds = read_seconds([*line["arms"], line["baseline"]], home)
        cost = cost_said(line["arms"], line["baseline"], seconds)
        said = _plain(with_time(line["answer"], cost, self._loss(experiment, line["baseline"])))
        return f"{said[0].upper()}{said[1:]}.\n\nNext: {line['next']}."

    def _loss(self, experiment: str, arm: str) -> str:
        rows = (row for row in self.leaderboard if (row["experiment"], row["arm"]) == (experiment, arm))
        return next((row["loss"] for row in rows), arm)

    def conditions(self, outs: ArmOuts) -> dict[str, str]:
        """What bears on the arm's verdict: untrained, collapsed, at an edge, budget-sensitive; its look."""
        of_experiment = [said for said in self._said if said["experiment"] == outs.experiment]
        mine = [said.get("arm_condition") for said in of_experiment if said["arm"] == outs.arm]
        mine += [said.get("baseline_condition") for said in of_experiment if said.get("baseline") == outs.arm]
        clauses = [said.get("budget_sensitive") for said in of_experiment if _is(said, outs)]
        nothing: dict[str, Any] = {"untrained": [], "collapsed": 0, "edges": []}
        state = next((one for one in mine if one), nothing)
        edges = [
            f"{one['parameter']} {one['value']:g} is the {one['end']}"
            + (f" for {one['seeds']} of {one['of']} seeds" if one.get("of") else "")
            for one in state["edges"]
        ]
        return {
            "untrained": " and ".join(state["untrained"]),
            "collapsed": str(state["collapsed"] or ""),
            "edge": ", ".join(edges),
            "budget_sensitive": "; ".join(one for one in clauses if one),
            "look": str(self._looks.get(outs.experiment, {}).get("said", "")),
        }

    def digest(self, experiment: str) -> str | None:
        """Hash what the report says of an experiment; None before it has run."""
        rows = [row for row in (*self.leaderboard, *self.verdicts) if row["experiment"] == experiment]
        return digest(rows) if rows else None


def summarise(
    outs: ArmOuts, reports: Reports, metric: str, curves: Mapping[int, str] | None = None
) -> Summary:
    """Put an arm's scores and verdicts into metrics, tags and a description.

    Args:
        outs: the arm's.
        reports: of the study.
        metric: the one that decides.
        curves: seed → where its replicate's curves are shown.

    """
    metrics = dict(_means(outs))
    tags: dict[str, str] = {}
    for row in reports.ranks(outs):
        name = f"test/{row['metric']}"
        for column, key in (("mean", name), ("sd", f"{name}_sd"), ("ci_low", f"{name}_ci_low")):
            metrics |= _number(row, column, key)
        metrics |= _number(row, "ci_high", f"{name}_ci_high")
        if row["metric"] == metric:
            metrics |= _number(row, "rank", "rank")
            tags["rank"] = row.get("rank", "")
            tags["score"] = _score(row)
    contrasts = reports.contrasts(outs)
    if contrasts:
        for column, key in VERDICT_METRICS.items():
            metrics |= _number(contrasts[0], column, key)
        tags["verdict"] = contrasts[0]["verdict"]
        tags["versus"] = _versus(contrasts[0])
        tags["baseline"] = contrasts[0]["baseline"]
    elif reports.is_baseline(outs):
        tags["verdict"] = "baseline"
    tags |= reports.conditions(outs)
    tags["mlflow.note.content"] = _description(
        outs, metric, tags, contrasts, reports.sentences(outs), curves or {}
    )
    return Summary(metrics, {key: value for key, value in tags.items() if value})


def _means(outs: ArmOuts) -> Iterator[tuple[str, float]]:
    values: dict[str, list[float]] = {}
    for of_seed in outs.scores.values():
        for name, value in of_seed.items():
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    for name, found in values.items():
        yield f"test/{name}", fmean(found)
        if len(found) > 1:
            yield f"test/{name}_sd", stdev(found)


def _description(
    outs: ArmOuts,
    metric: str,
    tags: Mapping[str, str],
    contrasts: Sequence[Row],
    sentences: Sequence[str],
    curves: Mapping[int, str],
) -> str:
    """Write the arm's Markdown description."""
    described = outs.described
    loss, count = _plain(str(described["loss"])), len(described["seeds"])
    many = "s" * (count != 1)
    lines = [f"**{loss}** on **{_plain(outs.experiment)}**, {count} replicate{many}."]
    if "score" in tags:
        lines.append(f"Test {_plain(metric)}: **{tags['score']}**, rank {tags['rank']}.")
    if curves:  # among the first lines: MLflow folds what is long
        links = ", ".join(f"[{seed}]({where})" for seed, where in sorted(curves.items()))
        lines.append(f"Learning curves of seed {links}.")
    if contrasts:
        lines += [
            "",
            "| against | difference (interval), p after Holm | verdict |",
            "|---|---|---|",
        ]
        lines += [
            f"| {_plain(row['baseline'])} | {_versus(row) or '–'} | **{row['verdict']}** |"
            for row in contrasts
        ]
    elif tags.get("verdict") == "baseline":
        lines.append("This is the baseline that the others are compared with.")
    lines += ["", *(_plain(one) for one in sentences)]
    lines += ["", "The arm's replicates (one a seed) and tuning trials are the child runs below it."]
    return "\n".join(lines)


def _score(row: Row) -> str:
    """Write an arm's score as the report does."""
    mean, low, high = (_finite(row, column) for column in ("mean", "ci_low", "ci_high"))
    if mean is None:
        return "–"
    return with_bounds(mean, math.nan if low is None else low, math.nan if high is None else high)


def _versus(row: Row) -> str:
    """Write a contrast with its baseline for a table's cell; of a tie the interval and p that show it."""
    tie = row["verdict"] == Verdict.TIE
    keys = ("tie_low", "tie_high", "p_tie_holm") if tie else ("ci_low", "ci_high", "p_holm")
    value, low, high, p = (_finite(row, key) for key in ("difference", *keys))
    if value is None or low is None or high is None or p is None:
        return ""
    of = " of a tie" if tie else ""
    return f"{with_bounds(value, low, high)}, {p_value(p)}{of}"


def _finite(row: Row, column: str) -> float | None:
    text = row.get(column) or "nan"
    value = float(text)
    return value if math.isfinite(value) else None


def _number(row: Row, column: str, key: str) -> dict[str, float]:
    value = _finite(row, column)
    return {} if value is None else {metric_name(key): value}


def metric_name(name: str) -> str:
    """Keep what MLflow allows in a metric's name."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _plain(text: str) -> str:
    """Keep a user's name from being read as Markdown or HTML.

    An underscore within a word means nothing there, and the list of experiments shows what is written.
    """
    return re.sub(r"([\\`*{}\[\]<>#|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def _is(row: Mapping[str, Any], outs: ArmOuts) -> bool:
    return (row["experiment"], row["arm"]) == (outs.experiment, outs.arm)


def _rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
