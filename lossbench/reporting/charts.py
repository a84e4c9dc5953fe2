"""Charts as Vega-Lite specs: data inlined, widths that follow the page, colours safe for the colour-blind."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import altair as alt
import pandas as pd
from altair.utils import schemapi

from lossbench.reporting.inputs import Evaluated
from lossbench.reporting.tables import Finding, floors_of
from lossbench.statistics.writing import digits, metric_name

PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#b8a900", "#666666"]
VERDICT_COLOURS = {
    "better": "#009e73",
    "worse": "#d55e00",
    "tie": "#0072b2",
    "undecided": "#8a8a8a",
    "not trained": "#8a8a8a",
}

MOST_NUMBERED = 12
"""Classes up to which a confusion matrix has room for its numbers."""
PANEL = 220
"""Pixels of a confusion matrix before the page gives it its room."""
NAMED = 110
"""Pixels for a name beside an axis."""
LINE = 22
"""Characters of a name that stand on one line."""
PART = rf"(?=.{{{LINE + 1}}})(.{{1,{LINE - 1}}}[_ -]|.{{{LINE}}})"
BROKEN = rf"split(replace(datum.label, regexp('{PART}', 'g'), '$1\n'), '\n')"
"""A name as lines, broken behind its parts where it has some: a chart cuts no name."""
FAR = 1.0
"""A floor is drawn where it widens the axis by no more than this share; else it is told of."""

alt.data_transformers.disable_max_rows()

Spec = dict[str, Any]


@contextmanager
def unchecked() -> Iterator[None]:
    """Draw without holding every part against Vega-Lite's schema: half of the time. A test holds all."""
    with schemapi.debug_mode(False):
        yield


def _tips(*fields: str) -> list[alt.Tooltip]:
    """Name what a tooltip shows; altair takes 20 ms to find out that a bare string is a field."""
    return [alt.Tooltip(field) for field in fields]


def _losses(names: Sequence[str]) -> alt.Color:
    """One colour and one dash or shape a loss, the same in all charts of an experiment."""
    scale = alt.Scale(domain=list(names), range=[PALETTE[i % len(PALETTE)] for i in range(len(names))])
    return alt.Color(
        "loss:N", scale=scale, title="loss", legend=_legend(columns=4, labelExpr=BROKEN, labelLimit=220)
    )


def _legend(**options: Any) -> alt.Legend:
    """Below the chart, where a phone has room; opaque, whatever the marks are."""
    return alt.Legend(orient="bottom", symbolOpacity=1, **options)


def _named() -> alt.Axis:
    """Names of losses beside the rows, whole."""
    return alt.Axis(labelExpr=BROKEN, labelLimit=220)


def _of_classes() -> alt.Axis:
    """Names of classes, of which some are left out where there are too many to be read."""
    return alt.Axis(labelLimit=NAMED, labelOverlap="greedy", labelSeparation=1)


def _lines(name: str) -> list[str]:
    """Break a name as a label is."""
    return re.sub(PART, r"\1\n", name).split("\n")


def forest(one: Evaluated, found: Sequence[Finding]) -> Spec:
    """Paired differences: every replicate a dot, the mean with its interval, the margin as a band."""
    dots, means = [], []
    for finding in found:
        contrast = finding.contrast
        name = f"{one.loss_of(contrast.arm)} − {one.loss_of(contrast.baseline)}"
        means.append(
            {
                "contrast": name, "difference": contrast.difference, "low": contrast.shown.low,
                "high": contrast.shown.high, "verdict": str(contrast.verdict),
            }
        )  # fmt: skip
        dots += [
            {"contrast": name, "difference": value, "seed": int(seed), "verdict": str(contrast.verdict)}
            for seed, value in zip(finding.seeds, contrast.differences, strict=True)
        ]
    margin = one.experiment.margin
    colour = alt.Color(
        "verdict:N",
        scale=alt.Scale(domain=list(VERDICT_COLOURS), range=list(VERDICT_COLOURS.values())),
        legend=None,
    )
    y = alt.Y("contrast:N", title=None, sort=None, axis=_named())
    band = alt.Chart(pd.DataFrame([{"a": -margin, "b": margin}])).mark_rect(opacity=0.13, color="#0072b2")
    zero = (
        alt.Chart(pd.DataFrame([{"x": 0}])).mark_rule(strokeDash=[4, 3], color="#888").encode(x=alt.X("x:Q"))
    )
    points = (
        alt.Chart(pd.DataFrame(dots))
        .mark_circle(size=34, opacity=0.55)
        .encode(
            x=alt.X("difference:Q"),
            y=y,
            color=colour,
            yOffset=alt.value(9),
            tooltip=_tips("contrast", "seed", "difference"),
        )
    )
    base = alt.Chart(pd.DataFrame(means)).encode(
        y=y, color=colour, tooltip=_tips("contrast", "verdict", "difference", "low", "high")
    )
    values = [value for finding in found for value in finding.contrast.differences]
    shown = [finding.contrast.shown for finding in found]
    values += [bound for interval in shown for bound in (interval.low, interval.high)]
    scores_of = one.by_arm(one.metric)
    baselines = [float(scores_of[finding.contrast.baseline].mean()) for finding in found]
    shifted = {name: value - baselines[0] for name, value in floors_of(one).items()}
    # With all pairs compared there is no one baseline from which a floor's distance could be drawn.
    drawn, said = _floors(shifted if len(set(baselines)) == 1 else {}, [*values, -margin, margin])
    title = [f"difference in {metric_name(one.metric)}", f"(band: margin ± {margin:g})", *said]
    bars = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q", title=title), x2=alt.X2("high:Q"))
    diamonds = base.mark_point(shape="diamond", filled=True, size=110).encode(x=alt.X("difference:Q"))
    chart = alt.layer(
        band.encode(x=alt.X("a:Q"), x2=alt.X2("b:Q")),
        zero.encode(x=alt.X("x:Q")),
        *drawn,
        points,
        bars,
        diamonds,
    )
    return _spec(chart, max(90, 54 * len(found)))


def budgets(one: Evaluated, table: pd.DataFrame) -> Spec:
    """Each contrast's difference with its interval against the share of the epochs, the margin as a band."""
    names = list(dict.fromkeys(table["contrast"]))
    colour = alt.Color(
        "contrast:N",
        scale=alt.Scale(domain=names, range=[PALETTE[i % len(PALETTE)] for i in range(len(names))]),
        legend=_legend(columns=1, labelLimit=0),  # two names and a minus: a phone has room for one
    )
    shares = [float(table["share of the epochs"].min()), float(table["share of the epochs"].max())]
    scale = alt.Scale(type="log", domain=shares, nice=False)
    margin = one.experiment.margin
    band = alt.Chart(pd.DataFrame([{"a": -margin, "b": margin}])).mark_rect(opacity=0.13, color="#0072b2")
    base = alt.Chart(table).encode(
        x=alt.X("share of the epochs:Q", scale=scale, axis=alt.Axis(format="%")),
        color=colour,
        tooltip=_tips("contrast", "share of the epochs", "difference", "low", "high", "verdict"),
    )
    title = [f"difference in {metric_name(one.metric)}", f"(band: margin ± {margin:g})"]
    lines = base.mark_line(point=True).encode(y=alt.Y("difference:Q", title=title))
    bars = base.mark_rule(opacity=0.6).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    return _spec(alt.layer(band.encode(y=alt.Y("a:Q"), y2=alt.Y2("b:Q")), bars, lines), 260)


def rates(one: Evaluated, table: pd.DataFrame) -> Spec:
    """Heat map of losses × learning rates: the best validation score of the points with that rate."""
    base = alt.Chart(table).encode(
        x=alt.X("learning rate:O", axis=alt.Axis(labelAngle=-40, format=".3g")),
        y=alt.Y("loss:N", sort=[one.loss_of(arm) for arm in one.arms], title=None, axis=_named()),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "validation:Q",
            scale=alt.Scale(scheme="viridis"),
            title=f"validation {metric_name(table['metric'].iloc[0])}",
            legend=_legend(),
        ),
        tooltip=_tips("loss", "learning rate", "validation", "chosen"),
    )
    marks = base.transform_filter(alt.datum.chosen).mark_rect(filled=False, stroke="#d55e00", strokeWidth=3)
    return _spec(alt.layer(cells, marks), max(110, 34 * len(one.arms)))


def best_of(one: Evaluated, table: pd.DataFrame) -> Spec:
    """Expected best validation score of k points tried, per loss: whether the search had enough of them."""
    names = [one.loss_of(arm) for arm in one.arms]
    base = alt.Chart(table).encode(
        x=alt.X("points tried:Q", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y("validation:Q", scale=alt.Scale(zero=False), title="expected best validation score"),
        color=_losses(names),
        tooltip=_tips("loss", "points tried", "validation"),
    )
    return _spec(base.mark_line(point=True), 240)


def scores(one: Evaluated, board: pd.DataFrame) -> Spec:
    """Every replicate's primary metric, with the mean and its interval."""
    names = [one.loss_of(arm) for arm in one.arms]
    chosen = one.scores[one.scores["metric"] == one.metric]
    rows = board[(board["experiment"] == one.name) & (board["metric"] == one.metric)]
    y = alt.Y("loss:N", title=None, sort=names, axis=_named())
    values = [*chosen["value"], *rows["ci_low"], *rows["ci_high"]]
    drawn, said = _floors(floors_of(one), values)
    dots = (
        alt.Chart(chosen[["loss", "seed", "value"]])
        .mark_circle(size=34, opacity=0.55)
        .encode(
            x=alt.X("value:Q", scale=alt.Scale(zero=False), title=[metric_name(one.metric), *said]),
            y=y, color=_losses(names).legend(None), tooltip=_tips("loss", "seed", "value"),
        )
    )  # fmt: skip
    base = alt.Chart(rows[["loss", "mean", "ci_low", "ci_high"]]).encode(y=y)
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2=alt.X2("ci_high:Q"))
    ticks = base.mark_tick(thickness=3, size=18).encode(x=alt.X("mean:Q"))
    return _spec(alt.layer(*drawn, dots, bars, ticks), max(90, 40 * len(names)))


def _floors(floors: Mapping[str, float], values: Sequence[float]) -> tuple[list[alt.Chart], list[str]]:
    """Draw floors as dotted lines and say them below the axis; those far off are said alone."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    near, said = [], []
    for name, value in floors.items():
        beyond = max(low - value, value - high)
        drawn = beyond <= FAR * (high - low)
        near += [value] if drawn else []
        where = "dotted" if drawn else f"to the {'left' if value < low else 'right'}"
        said += [f"{name}:", f"{digits(value, 0)}, {where}"]  # two lines: a phone is narrow
    if not near:
        return [], said
    lines = alt.Chart(pd.DataFrame({"x": near})).mark_rule(strokeDash=[2, 3], color="#888", strokeWidth=2)
    return [lines.encode(x=alt.X("x:Q"))], said


def learning(one: Evaluated, learned: pd.DataFrame) -> Spec:
    """The monitored validation metric per epoch, mean over seeds with its interval."""
    names = [one.loss_of(arm) for arm in one.arms]
    chosen = learned[
        (learned["experiment"] == one.name)
        & (learned["split"] == "validation")
        & (learned["metric"] == one.task.monitor)
    ]
    base = alt.Chart(chosen[["loss", "epoch", "mean", "low", "high"]]).encode(
        x=alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1)), color=_losses(names)
    )
    title = f"validation {metric_name(one.task.monitor)}"
    line = base.mark_line(point=True).encode(
        y=alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False)),
        tooltip=_tips("loss", "epoch", "mean", "low", "high"),
    )
    return _spec(
        alt.layer(base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")), line), 280
    )


def reliability(one: Evaluated) -> Spec:
    """Accuracy against confidence before and after the link, pooled over seeds."""
    names = [one.loss_of(arm) for arm in one.arms]
    table = pooled_reliability(one)
    base = alt.Chart(table).encode(
        x=alt.X("confidence:Q", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("accuracy:Q", scale=alt.Scale(domain=[0, 1])),
        color=_losses(names),
        tooltip=_tips("loss", "when", "confidence", "accuracy", "count"),
    )
    ideal = alt.Chart(pd.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]})).mark_line(
        strokeDash=[4, 3], color="#888"
    ).encode(x=alt.X("confidence:Q"), y=alt.Y("accuracy:Q"))  # fmt: skip
    drawn = base.mark_line(point=True)
    sides = [
        alt.layer(ideal, drawn.transform_filter(alt.datum.when == when)).properties(
            title=f"{when} calibration", width=260, height=260
        )
        for when in ("before", "after")
    ]
    return _made(alt.concat(*sides, columns=2))


def pooled_reliability(one: Evaluated) -> pd.DataFrame:
    """Reliability rows pooled over the seeds of each loss."""
    table = one.tables["reliability"].copy()
    table["loss"] = table["arm"].map({arm: one.loss_of(arm) for arm in one.arms})
    for name in ("confidence", "accuracy"):
        table[name] *= table["count"]
    pooled = (
        table.groupby(["loss", "when", "bin"], sort=False)[["confidence", "accuracy", "count"]]
        .sum()
        .reset_index()
    )
    for name in ("confidence", "accuracy"):
        pooled[name] /= pooled["count"]
    return pooled.sort_values(["when", "loss", "bin"])


def per_class(one: Evaluated) -> Spec:
    """Heat map of losses × classes, mean over seeds of the task's first per-class metric."""
    table = class_means(one)
    metric = table["metric"].iloc[0]
    base = alt.Chart(table).encode(
        x=alt.X(
            "class:N",
            sort=list(one.drawn.info.classes),
            title=None,
            axis=alt.Axis(labelAngle=-40, labelLimit=90, labelOverlap="greedy"),
        ),
        y=alt.Y("loss:N", sort=[one.loss_of(arm) for arm in one.arms], title=None, axis=_named()),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "value:Q",
            scale=alt.Scale(scheme="viridis", domain=[0, 1]),
            title=metric_name(metric),
            legend=_legend(),
        ),
        tooltip=_tips("loss", "class", "value"),
    )
    columns = max(1, table["class"].nunique())
    # Where a cell is narrower than its number, colour, tooltip and the table below have to do.
    legible = alt.ExprRef(f"width / {columns} >= 28 ? 1 : 0")
    text = base.mark_text(fontSize=11, opacity=legible).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition(alt.datum.value > 0.6, alt.value("black"), alt.value("white")),
    )
    return _spec(alt.layer(cells, text), max(110, 34 * len(one.arms)))


def class_means(one: Evaluated) -> pd.DataFrame:
    """Mean over seeds of the task's first per-class metric, per loss and class."""
    table = one.tables["per_class"]
    first = table[table["metric"] == table["metric"].iloc[0]].copy()
    first["loss"] = first["arm"].map({arm: one.loss_of(arm) for arm in one.arms})
    means: pd.DataFrame = first.groupby(["metric", "loss", "class"], sort=False)["value"].mean().reset_index()
    return means


def confusion(one: Evaluated) -> Spec:
    """Row-normalised confusion per loss in per cent, pooled over seeds."""
    table = confusion_shares(one)
    order = list(one.drawn.info.classes)
    base = alt.Chart(table).encode(
        x=alt.X("predicted:N", sort=order, axis=_of_classes()),
        y=alt.Y("true:N", sort=order, axis=_of_classes()),
        tooltip=_tips("loss", "true", "predicted", "share", "count"),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "share:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), title="share", legend=_legend()
        )
    )
    layers = [cells] if len(order) > MOST_NUMBERED else [cells, _numbers(base, len(order))]
    panels = [
        alt.layer(*layers)
        .transform_filter(alt.datum.loss == one.loss_of(arm))
        .properties(title=_lines(one.loss_of(arm)), width=PANEL, height=PANEL)
        for arm in one.arms
    ]
    return _made(alt.concat(*panels, columns=2, data=table))


def _numbers(base: alt.Chart, classes: int) -> alt.Chart:
    """Shares in per cent, of cells that are not empty; the page fits their size to the cell's."""
    return (
        base.transform_filter(alt.datum.count > 0)
        .transform_calculate(percent="datum.share < 0.005 ? '<1' : format(100 * datum.share, '.0f')")
        .mark_text(fontSize=max(8, min(13, PANEL // (2.4 * classes))))
        .encode(
            text=alt.Text("percent:N"),
            color=alt.condition(alt.datum.share > 0.6, alt.value("black"), alt.value("white")),
        )
    )


def confusion_shares(one: Evaluated) -> pd.DataFrame:
    """Counts over seeds and their share of the true class, zeros included: none of them is missing."""
    table = one.tables["confusion"].copy()
    table["loss"] = table["arm"].map({arm: one.loss_of(arm) for arm in one.arms})
    classes = list(one.drawn.info.classes)
    losses = [one.loss_of(arm) for arm in one.arms]
    every = pd.MultiIndex.from_product([losses, classes, classes], names=["loss", "true", "predicted"])
    counts = table.groupby(list(every.names))["count"].sum().reindex(every, fill_value=0).reset_index()
    counts["share"] = counts["count"] / counts.groupby(["loss", "true"])["count"].transform("sum")
    return counts


def _spec(chart: Any, height: int) -> Spec:
    return _made(chart.properties(width="container", height=height))


def _made(chart: Any) -> Spec:
    return dict(chart.to_dict(validate=schemapi.DEBUG_MODE))
