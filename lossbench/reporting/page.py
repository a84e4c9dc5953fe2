"""``reports/index.html``: one self-contained page, verdict first, that works offline."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from ruamel.yaml import YAML

from lossbench.reporting import charts
from lossbench.reporting.bundle import vega_bundle
from lossbench.reporting.claims import shown
from lossbench.reporting.gallery import Gallery, read_gallery
from lossbench.reporting.in_a_line import NO_VERDICT, in_a_line, unanswered
from lossbench.reporting.inputs import Evaluated, Study
from lossbench.reporting.markdown import score
from lossbench.reporting.searches import best_of_table, rate_table
from lossbench.reporting.tables import Finding, floors_of, higher_is_better, looks_json, records
from lossbench.reporting.unknown import trained_by, unknown
from lossbench.statistics.hypotheses import Answer
from lossbench.statistics.sentences import rounded, seeds_said
from lossbench.statistics.verdict import Contrast
from lossbench.statistics.writing import digits, metric_name
from lossbench.tracking.cost import Seconds, memory_ratio, times
from lossbench.tuning.search import edges_said

SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
"""What a browser runs; a block of another type is data to it."""
COMMAND = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Chart:
    """A chart, what it says to those who do not see it, and its numbers."""

    key: str
    title: str
    alt: str
    spec: Mapping[str, Any]
    table: pd.DataFrame


@dataclass(frozen=True)
class Section:
    """One experiment's part of the page."""

    one: Evaluated
    found: Sequence[Finding]
    rows: Sequence[Mapping[str, Any]]
    metrics: "Metrics"
    charts: Sequence[Chart]
    gallery: Gallery
    seeds: str
    tuning: Sequence[Mapping[str, Any]]
    command: str
    unknown: Sequence[str]
    measured: bool
    """Whether somebody measured what a step keeps; nobody does of a script's."""


@dataclass(frozen=True)
class Metrics:
    """All metrics of an experiment, the deciding one first: a row each, a column per loss and per floor.

    A cell is a value and its interval ("" where it has none).
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[tuple[str, str]]]]


def page(
    study: Study,
    board: pd.DataFrame,
    found: Sequence[Finding],
    answered: Sequence[Answer],
    drawn: Mapping[str, Sequence[Chart]],
    seconds: Seconds | None = None,
    vega: str | None = None,
) -> str:
    """Render the page.

    Args:
        study: all outs.
        board: the leaderboard.
        found: verdicts.
        answered: hypotheses.
        drawn: experiment → its charts; see :func:`draw`.
        seconds: arm → seed → seconds of training; for the untracked twin only: they differ between runs.
        vega: what :func:`vega_bundle` gives, where it is at hand.

    """
    sections = [
        section_of(one, study, board, found, drawn[name], seconds) for name, one in study.evaluated.items()
    ]
    specs = {chart.key: chart.spec for section in sections for chart in section.charts}
    rendered = (
        environment()
        .get_template("page.html.j2")
        .render(
            study=study,
            sections=sections,
            found=found,
            lines=in_a_line(study, found, seconds),
            unanswered=dict.fromkeys(unanswered(study, found), NO_VERDICT),
            commands=_commands,
            looks={name: one["said"] for name, one in looks_json(study).items()},
            answers=[shown(one, study) for one in answered],
            percent=f"{100 * (1 - study.params.comparison.level):g} %",
            timed=seconds is not None,
            specs=_script_json(specs),
            vega=Markup(vega or vega_bundle()),  # noqa: S704  # vl-convert's own bundle, no user's text
            params=_params_text(study),
            name_of=metric_name,
        )
    )
    return _with_policy(rendered) + "\n"


def draw(
    study: Study, board: pd.DataFrame, found: Sequence[Finding], learned: pd.DataFrame
) -> dict[str, list[Chart]]:
    """Draw every experiment's charts: most of what a page costs, and the same in each of its twins.

    Args:
        study: all outs.
        board: the leaderboard.
        found: verdicts.
        learned: learning curves.

    """
    drawn: dict[str, list[Chart]] = {}
    with charts.unchecked():
        for name, one in study.evaluated.items():
            own = [finding for finding in found if finding.experiment == name]
            drawn[name] = [
                *_charts(one, board, own, learned),
                *_budget_charts(one, own),
                *_search_charts(one, study),
            ]
    return drawn


def _with_policy(html: str) -> str:
    """Have the browser enforce "needs no network": nothing is loaded, and no script runs but these by hash.

    Vega compiles its expressions, hence ``unsafe-eval``; who can run that is one of these scripts anyway.
    """
    digests = [hashlib.sha256(one.encode()).digest() for one in SCRIPT.findall(html)]
    allowed = " ".join(f"'sha256-{base64.b64encode(one).decode()}'" for one in digests)
    return html.replace("script-src SCRIPTS", f"script-src {allowed}", 1)


def environment() -> Environment:
    """Templates of this package; everything shown is escaped."""
    return Environment(
        loader=PackageLoader("lossbench.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def section_of(
    one: Evaluated,
    study: Study,
    board: pd.DataFrame,
    found: Sequence[Finding],
    drawn: Sequence[Chart] = (),
    seconds: Seconds | None = None,
) -> Section:
    """Gather an experiment's part of the page, with the charts that it is handed."""
    own = [finding for finding in found if finding.experiment == one.name]
    return Section(
        one=one,
        found=own,
        rows=_leaders(one, study, board, own, seconds),
        metrics=_metrics(one, board),
        charts=drawn,
        gallery=read_gallery(one),
        command=trained_by(one),
        unknown=unknown(one),
        measured=any(content.get("kept_bytes") for content in one.arms.values()),
        seeds=_seeds_said(one),
        tuning=[
            {"loss": one.loss_of(arm), **study.tuning[arm], "edge": edges_said(study.tuning[arm])}
            for arm in one.arms
        ],
    )


def _seeds_said(one: Evaluated) -> str:
    counts = sorted({len(one.seeds_of(arm)) for arm in one.arms})
    several = f"{counts[0]} to " if len(counts) > 1 else ""
    return f"{several}{counts[-1]} seed{'s' * (counts[-1] != 1)}"


def _leaders(
    one: Evaluated,
    study: Study,
    board: pd.DataFrame,
    found: Sequence[Finding],
    seconds: Seconds | None = None,
) -> list[dict[str, Any]]:
    """The leaderboard by the deciding metric: arms by rank, then what constant predictions reach."""
    lost, baseline = one.diverged(), study.params.baseline_of(one.name)
    # With all pairs compared an arm has several verdicts; these columns hold the one against the baseline.
    against = {each.contrast.arm: each for each in found if each.contrast.baseline == baseline}
    rows = []
    for row in records(board, one.name, metric=one.metric):
        arm = row["arm"]
        rows.append(
            {
                "loss": row["loss"],
                "rank": row["rank"],
                "score": _cell(row),
                "n": row["n"],
                "diverged": lost[arm],
                "seconds": _time(arm, baseline, seconds or {}),
                "memory": _memory(arm, baseline, one),
                "parameters": one.arms[arm]["loss_parameters"],
                **_against(against.get(arm), is_baseline=bool(found) and arm == baseline),
            }
        )
    pairs = dict.fromkeys(("difference", "seconds", "memory"), ("", ""))
    nothing = {**pairs, "seeds": "", "n": "", "diverged": ""}
    rows += [
        {"loss": name, "rank": "", "score": (digits(value, 0), ""), "verdict": "floor", **nothing}
        for name, value in floors_of(one).items()
    ]
    return rows


def _against(finding: Finding | None, is_baseline: bool) -> dict[str, Any]:
    if finding is None:
        return {"verdict": "baseline" if is_baseline else "–", "difference": ("", ""), "seeds": ""}
    contrast = finding.contrast
    return {
        "verdict": str(contrast.verdict),
        "difference": _difference(contrast, finding.level),
        "seeds": seeds_said(contrast),
    }


def _metrics(one: Evaluated, board: pd.DataFrame) -> Metrics:
    floors = one.tables["floors"] if "floors" in one.tables else pd.DataFrame(columns=["floor", "metric"])
    references = list(dict.fromkeys(floors["floor"]))
    arms = list(one.arms)
    rows = []
    for metric in sorted(dict.fromkeys(one.scores["metric"]), key=lambda name: name != one.metric):
        mine = {row["arm"]: row for row in records(board, one.name, metric=metric)}
        cells = [_cell(mine[arm]) for arm in arms]
        for reference in references:
            value = floors[(floors["floor"] == reference) & (floors["metric"] == metric)]["value"]
            cells.append((digits(float(value.iloc[0]), 0), "") if len(value) else ("–", ""))
        rows.append((metric, "↑" if higher_is_better(one, metric) else "↓", cells))
    return Metrics([*map(one.loss_of, arms), *references], rows)


def _cell(row: Mapping[str, Any]) -> tuple[str, str]:
    """A mean and its interval, which stands on a line of its own."""
    mean, _, interval = score(row).partition(" (")
    return mean, interval.removesuffix(")")


def _time(arm: str, baseline: str | None, seconds: Seconds) -> tuple[str, str]:
    """Mean seconds of a replicate, and how many times the baseline's."""
    values = list(seconds.get(arm, {}).values())
    ratio = times(arm, baseline, seconds) if baseline is not None else None
    mean = f"{sum(values) / len(values):.1f}" if values else "–"
    return mean, f"× {ratio:.1f}" if ratio is not None else ""


def _memory(arm: str, baseline: str | None, one: Evaluated) -> tuple[str, str]:
    """Megabytes that a training step keeps for its backward pass, and how many times the baseline's."""
    kept = one.arms[arm].get("kept_bytes")
    ratio = None if baseline not in one.arms or baseline is None else memory_ratio(arm, baseline, one.arms)
    # rounded to three digits first: 1500 MB are not 1.5e+03
    megabytes = f"{float(f'{kept / 1e6:.3g}'):g}" if kept else "–"
    return megabytes, f"× {ratio:.1f}" if ratio is not None else ""


def _difference(contrast: Contrast, level: float) -> tuple[str, str]:
    """A difference and its interval, which the table sets in brackets; "" where there is none."""
    value, interval = rounded(contrast, level)
    bounds, _, share = interval.removesuffix(")").partition(" (")
    return value, f"{bounds}, {share}" if share else ""


def _commands(said: str) -> Markup:
    """Escape a sentence, and set what stands between backticks as code."""
    return Markup(COMMAND.sub(r"<code>\1</code>", str(escape(said))))  # noqa: S704  # escaped here


def _charts(
    one: Evaluated, board: pd.DataFrame, found: Sequence[Finding], learned: pd.DataFrame
) -> list[Chart]:
    name = one.name
    metric = metric_name(one.metric)
    drawn: list[Chart] = []
    if found:
        table = _contrast_table(one, found)
        alt = f"Forest plot of paired differences in {metric}: " + "; ".join(
            f"{row['contrast']} {row['difference']:.4f}, {row['verdict']}" for row in table.to_dict("records")
        )
        drawn.append(Chart(f"{name}-forest", "Paired differences", alt, charts.forest(one, found), table))
    rows = board[(board["experiment"] == name) & (board["metric"] == one.metric)]
    alt = f"Dot plot of {metric} per loss, every replicate a dot; best: {rows.iloc[0]['loss']}"
    drawn.append(
        Chart(
            f"{name}-scores",
            "Every replicate",
            alt,
            charts.scores(one, board),
            rows.drop(columns=["experiment"]),
        )
    )
    monitor = learned[
        (learned["experiment"] == name)
        & (learned["split"] == "validation")
        & (learned["metric"] == one.task.monitor)
    ]
    if monitor["epoch"].nunique() < 2 and trained_by(one):  # no curve, and none is made up
        return drawn + _optional_charts(one)
    alt = f"Learning curves: validation {metric_name(one.task.monitor)} per epoch and loss, with bands"
    drawn.append(
        Chart(
            f"{name}-learning",
            "Learning curves",
            alt,
            charts.learning(one, learned),
            monitor.drop(columns=["experiment"]),
        )
    )
    return drawn + _optional_charts(one)


def _contrast_table(one: Evaluated, found: Sequence[Finding]) -> pd.DataFrame:
    rows = []
    for finding in found:
        contrast, examples = finding.contrast, finding.examples
        rows.append(
            {
                "contrast": f"{one.loss_of(contrast.arm)} − {one.loss_of(contrast.baseline)}",
                "difference": contrast.difference,
                "median": contrast.median,
                "low": contrast.shown.low,
                "high": contrast.shown.high,
                "p after Holm": contrast.p_holm,
                "p of a tie after Holm": contrast.p_tie_holm,
                "pair correlation": contrast.correlation,
                "verdict": str(contrast.verdict),
                "low, new examples too": examples.low if examples else None,
                "high, new examples too": examples.high if examples else None,
            }
        )
    return pd.DataFrame(rows)


def _optional_charts(one: Evaluated) -> list[Chart]:
    name, drawn = one.name, []
    if "per_class" in one.tables:
        table = charts.class_means(one)
        alt = f"Heat map of {table['metric'].iloc[0]} per class and loss, mean over seeds"
        wide = table.pivot_table(index="loss", columns="class", values="value", sort=False).reset_index()
        drawn.append(Chart(f"{name}-classes", "Per class", alt, charts.per_class(one), wide))
    if "reliability" in one.tables:
        alt = "Reliability diagrams: accuracy against confidence per loss, before and after calibration"
        drawn.append(
            Chart(
                f"{name}-reliability",
                "Reliability",
                alt,
                charts.reliability(one),
                charts.pooled_reliability(one),
            )
        )
    if "confusion" in one.tables:
        alt = "Confusion matrices per loss: share of each true class predicted as each class"
        drawn.append(
            Chart(
                f"{name}-confusion",
                "Confusion",
                alt,
                charts.confusion(one),
                charts.confusion_shares(one).query("count > 0"),
            )
        )
    return drawn


def _budget_charts(one: Evaluated, found: Sequence[Finding]) -> list[Chart]:
    rows = [
        {
            "contrast": f"{one.loss_of(each.contrast.arm)} − {one.loss_of(each.contrast.baseline)}",
            "share of the epochs": share,
            "difference": contrast.difference,
            "low": contrast.shown.low,
            "high": contrast.shown.high,
            "verdict": str(contrast.verdict),
        }
        for each in found
        for share, contrast in each.budgets.contrasts
    ]
    if not rows:
        return []
    table = pd.DataFrame(rows)
    sensitive = [one.loss_of(each.contrast.arm) for each in found if each.budgets.clause]
    alt = "Differences against the share of the epochs trained; " + (
        f"budget-sensitive: {', '.join(sensitive)}" if sensitive else "no contrast is budget-sensitive"
    )
    return [Chart(f"{one.name}-budgets", "Difference against budget", alt, charts.budgets(one, table), table)]


def _search_charts(one: Evaluated, study: Study) -> list[Chart]:
    rates, best = rate_table(one, study), best_of_table(one, study)
    drawn = []
    if len(rates):
        alt = "Heat map of the validation score per loss and learning rate; the chosen rate is framed"
        drawn.append(Chart(f"{one.name}-rates", "Learning rates tried", alt, charts.rates(one, rates), rates))
    if len(best):
        alt = "Expected best validation score against the number of points tried, per loss"
        drawn.append(Chart(f"{one.name}-search", "Best of k points", alt, charts.best_of(one, best), best))
    return drawn


def _params_text(study: Study) -> str:
    import io

    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(json.loads(study.params.model_dump_json()), text)
    return text.getvalue()


def _script_json(content: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True)
    escaped = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(escaped)  # noqa: S704  # escaped in the line above
