"""``reports/index.html``: one self-contained page, verdict first, that works offline."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from ruamel.yaml import YAML

from lossbench.reporting import charts
from lossbench.reporting.claims import shown
from lossbench.reporting.gallery import Gallery, read_gallery
from lossbench.reporting.in_a_line import in_a_line
from lossbench.reporting.inputs import Evaluated, Study
from lossbench.reporting.markdown import score
from lossbench.reporting.searches import best_of_table, rate_table
from lossbench.reporting.tables import Finding, looks_json, records
from lossbench.statistics.hypotheses import Answer
from lossbench.statistics.sentences import digits

SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
"""What a browser runs; a block of another type is data to it."""
Seconds = Mapping[str, Mapping[str, float]]


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
    charts: Sequence[Chart]
    gallery: Gallery
    floors: Sequence[Mapping[str, Any]]
    seeds: str
    tuning: Sequence[Mapping[str, Any]]


def page(
    study: Study,
    board: pd.DataFrame,
    found: Sequence[Finding],
    answered: Sequence[Answer],
    learned: pd.DataFrame,
    seconds: Seconds | None = None,
) -> str:
    """Render the page.

    Args:
        study: all outs.
        board: the leaderboard.
        found: verdicts.
        answered: hypotheses.
        learned: learning curves.
        seconds: arm → seed → seconds of training; for the untracked twin only: they differ between runs.

    """
    sections = [_section(one, study, board, found, learned, seconds) for one in study.evaluated.values()]
    specs = {chart.key: chart.spec for section in sections for chart in section.charts}
    rendered = (
        environment()
        .get_template("page.html.j2")
        .render(
            study=study,
            sections=sections,
            found=found,
            lines=in_a_line(study, found),
            looks={name: one["said"] for name, one in looks_json(study).items()},
            answers=[shown(one, study) for one in answered],
            percent=f"{100 * (1 - study.params.comparison.level):g} %",
            timed=seconds is not None,
            specs=_script_json(specs),
            vega=Markup(vega_bundle()),  # noqa: S704  # vl-convert's own bundle, no user's text
            params=_params_text(study),
            digits=digits,
        )
    )
    return _with_policy(rendered) + "\n"


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


def _section(
    one: Evaluated,
    study: Study,
    board: pd.DataFrame,
    found: Sequence[Finding],
    learned: pd.DataFrame,
    seconds: Seconds | None,
) -> Section:
    own = [finding for finding in found if finding.experiment == one.name]
    return Section(
        one=one,
        found=own,
        rows=_leaders(one, board, own, study.params.baseline_of(one.name), seconds),
        charts=_charts(one, board, own, learned) + _budget_charts(one, own) + _search_charts(one, study),
        gallery=read_gallery(one),
        floors=_floors(one),
        seeds=_seeds_said(one),
        tuning=[{"loss": one.loss_of(arm), **study.tuning[arm]} for arm in one.arms],
    )


def _seeds_said(one: Evaluated) -> str:
    counts = sorted({len(one.seeds_of(arm)) for arm in one.arms})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _floors(one: Evaluated) -> list[dict[str, Any]]:
    if "floors" not in one.tables:
        return []
    return [
        {str(column): value for column, value in row.items()}
        for row in one.tables["floors"].to_dict("records")
    ]


def _leaders(
    one: Evaluated,
    board: pd.DataFrame,
    found: Sequence[Finding],
    baseline: str | None,
    seconds: Seconds | None,
) -> list[dict[str, Any]]:
    lost = one.diverged()
    # With all pairs compared an arm has several verdicts; this column holds the one against the baseline.
    verdicts = {
        finding.contrast.arm: str(finding.contrast.verdict)
        for finding in found
        if finding.contrast.baseline == baseline
    }
    if found and baseline is not None:
        verdicts[baseline] = "baseline"
    metrics = list(dict.fromkeys(one.scores["metric"]))
    rows = []
    for arm in one.by_arm(one.metric):
        mine = {row["metric"]: row for row in records(board, one.name, arm=arm)}
        rows.append(
            {
                "loss": one.loss_of(arm),
                "rank": mine[one.metric]["rank"],
                "scores": {metric: score(mine[metric]) for metric in metrics},
                "n": mine[one.metric]["n"],
                "diverged": lost[arm],
                "verdict": verdicts.get(arm, "–"),
                "seconds": _mean_seconds(arm, seconds),
                "parameters": one.arms[arm]["loss_parameters"],
            }
        )
    return sorted(rows, key=lambda row: row["rank"])


def _mean_seconds(arm: str, seconds: Seconds | None) -> str:
    values = list((seconds or {}).get(arm, {}).values())
    return f"{sum(values) / len(values):.1f}" if values else "–"


def _charts(
    one: Evaluated, board: pd.DataFrame, found: Sequence[Finding], learned: pd.DataFrame
) -> list[Chart]:
    name = one.name
    metric = one.metric.replace("_", " ")
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
    monitor = learned[(learned["experiment"] == name) & (learned["metric"] == one.task.monitor)]
    alt = f"Learning curves: validation {one.task.monitor.replace('_', ' ')} per epoch and loss, with bands"
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
                "low": contrast.ci_low,
                "high": contrast.ci_high,
                "p after Holm": contrast.p_holm,
                "p (tie)": contrast.p_tie,
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
            "low": contrast.ci_low,
            "high": contrast.ci_high,
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


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script: no request leaves the page."""
    import vl_convert

    snippet = "window.vegaEmbed = vegaEmbed;"
    bundle: str = vl_convert.javascript_bundle(snippet)
    return bundle.replace("</script", "<\\/script")
