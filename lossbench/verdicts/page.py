"""One page that stands alone: sentences, forest plot, table. Drawn by hand, without a library for it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from lossbench.statistics.record import Verdict
from lossbench.statistics.verdict import Contrast
from lossbench.statistics.writing import digits
from lossbench.verdicts.result import SHOWN, Found, Verdicts, ended, title

RIGHT, TOP, BOTTOM = 16, 12, 42


@dataclass(frozen=True)
class Layout:
    """Sizes of a forest plot, in its own units; without room beside a row its label stands above it."""

    width: int
    labels: int
    row: int
    ticks: int


WIDE, NARROW = Layout(720, 210, 46, 5), Layout(350, 0, 62, 3)
"""Beside a desk's other windows, and on a phone."""
COLOURS = {
    Verdict.BETTER: "--better",
    Verdict.WORSE: "--worse",
    Verdict.TIE: "--tie",
    Verdict.UNDECIDED: "--undecided",
    Verdict.NOT_TRAINED: "--undecided",
}
PRINTED = {"--better": "#00704f", "--worse": "#b34700", "--tie": "#0a5c99", "--undecided": "#5c6370"}
"""Used where the plot stands without the page's style."""
MOST_DOTS = 400
LONGEST = 26
"""Letters of a label, wide ones."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Lossbench: which loss?</title>
<link rel="icon" href="data:,">
<style>
:root { --ink: #1b1d21; --soft: #5c6370; --line: #dcdfe4; --paper: #fff; --panel: #f6f7f9;
  --better: #00704f; --worse: #b34700; --tie: #0a5c99; --undecided: #5c6370; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #a3aab6;
  --line: #363b44;
  --paper: #15171b; --panel: #1e2126; --better: #4fd1a5; --worse: #ff9a5c; --tie: #7cc4ff;
  --undecided: #a3aab6; } }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1.1rem 3rem;
  overflow-wrap: anywhere;
  background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; margin: 1rem 0 .2rem; letter-spacing: -.02em; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); } ul { padding: 0; list-style: none; }
.verdicts li { padding: .7rem 1rem; border-left: 4px solid var(--undecided); margin: .6rem 0;
  background: var(--panel); }
.better { border-color: var(--better) !important; } .worse { border-color: var(--worse) !important; }
.tie { border-color: var(--tie) !important; }
svg { width: 100%; height: auto; color: var(--ink); } .scroll { overflow-x: auto; }
.narrow { display: none; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
td:nth-child(-n+2) { white-space: normal; min-width: 7rem; }
@media screen and (max-width: 40rem) {
  .wide, thead { display: none; } .narrow, table, tbody { display: block; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { display: grid; grid-template-columns: 7.5rem 1fr; padding: .1rem 0; border: 0; white-space: normal; }
  td::before { content: attr(data-head); color: var(--soft); } }
@page { margin: 14mm 12mm; }
@media print { :root { color-scheme: light; } body { font-size: 14px; max-width: none; padding: 0; }
  .scroll { overflow: visible; } th, td { white-space: normal; overflow-wrap: normal; }
  td:nth-child(-n+2) { min-width: 0; overflow-wrap: anywhere; }
  h2 { break-after: avoid; } svg, tr, li { break-inside: avoid; } }
</style>
</head>
<body>
<h1>Which loss?</h1>
<p class="soft">$title</p>
<ul class="verdicts">$sentences</ul>
$notes
<h2>Paired differences</h2>
<div class="wide">$plot</div>
<div class="narrow">$small</div>
<h2>Numbers</h2>
<div class="scroll" tabindex="0"><table><thead><tr>$head</tr></thead><tbody>$rows</tbody></table></div>
<p class="soft">$statement</p>
</body>
</html>
""")


def page(one: Verdicts) -> str:
    """Render the page; every text is escaped."""
    notes = "".join(f"<li>{escape(ended(note))}</li>" for note in one.notes)
    return PAGE.substitute(
        title=escape(title(one)),
        sentences="".join(_item(found) for found in one.found),
        notes=f"<h2>About the data</h2><ul>{notes}</ul>" if notes else "",
        plot=forest(one),
        small=forest(one, NARROW),
        head="".join(f"<th>{name}</th>" for name in SHOWN),
        rows="".join(_row(cells) for cells in one.rows()),
        statement=escape(one.statement),
    )


def _item(found: Found) -> str:
    return f'<li class="{_class(found.contrast)}">{escape(found.sentence)}</li>'


def _class(contrast: Contrast) -> str:
    return str(contrast.verdict).replace(" ", "-")


def _row(cells: Sequence[str]) -> str:
    headed = zip(SHOWN, cells, strict=True)
    return "<tr>" + "".join(f'<td data-head="{name}">{escape(cell)}</td>' for name, cell in headed) + "</tr>"


def forest(one: Verdicts, layout: Layout = WIDE) -> str:
    """Draw every difference a dot, means with their intervals, the margin as a band."""
    contrasts = [found.contrast for found in one.found]
    low, high = _range(contrasts, one.rules.margin)
    foot = TOP + layout.row * len(contrasts)
    alt = escape("; ".join(found.sentence for found in one.found), quote=True)

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return round(layout.labels + share * (layout.width - layout.labels - RIGHT), 1)

    margin = one.rules.margin
    parts = [
        f'<rect x="{x(-margin)}" y="{TOP}" width="{x(margin) - x(-margin):.1f}" height="{foot - TOP}" '
        'fill="var(--tie, #0a5c99)" opacity=".13"/>',
        f'<line x1="{x(0)}" x2="{x(0)}" y1="{TOP}" y2="{foot}" '
        'stroke="currentColor" stroke-dasharray="4 3" opacity=".6"/>',
    ]
    for row, found in enumerate(one.found):
        parts += _drawn(found, TOP + layout.row * row + layout.row / 2, x, layout)
    parts += [
        f'<text x="{x(tick)}" y="{foot + 16}" text-anchor="middle">{digits(tick, (high - low) / 20)}</text>'
        for tick in _ticks(low, high, layout.ticks)
    ]
    middle, axis = (layout.labels + layout.width) / 2, escape(f"difference in {title(one)}")
    parts.append(f'<text x="{middle:.0f}" y="{foot + 34}" text-anchor="middle">{axis}</text>')
    return (
        f'<svg viewBox="0 0 {layout.width} {foot + BOTTOM}" role="img" aria-label="{alt}" '
        f'font-family="sans-serif" font-size="12" '
        f'fill="currentColor" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _drawn(found: Found, y: float, x: Callable[[float], float], layout: Layout) -> list[str]:
    one = found.contrast
    name = COLOURS[one.verdict]
    colour = f"var({name}, {PRINTED[name]})"
    whole = f"<title>{escape(f'{one.arm} − {one.baseline}')}</title>"
    label = escape(_label(one.arm, one.baseline))
    if layout.labels:
        at = f'x="{layout.labels - 10}" y="{y + 4:.0f}" text-anchor="end"'
    else:
        at = f'x="4" y="{y - 16:.0f}" text-anchor="start"'
    parts = [f"<text {at}>{label}{whole}</text>"]
    parts += [
        f'<circle cx="{x(value)}" cy="{y + 10:.0f}" r="3" fill="{colour}" opacity=".5"/>'
        for value in one.differences[:MOST_DOTS]
    ]
    bounds = one.shown
    if math.isfinite(bounds.low) and math.isfinite(bounds.high):
        parts.append(
            f'<line x1="{x(bounds.low)}" x2="{x(bounds.high)}" y1="{y:.0f}" y2="{y:.0f}" '
            f'stroke="{colour}" stroke-width="3"/>'
        )
    if math.isfinite(one.difference):
        parts.append(
            f'<rect x="{x(one.difference) - 4}" y="{y - 4:.0f}" width="8" height="8" fill="{colour}" '
            f'transform="rotate(45 {x(one.difference)} {y:.0f})"/>'
        )
    return parts


def _label(arm: str, baseline: str) -> str:
    """Both names, cut in their middle where they leave no room for each other."""
    room = LONGEST - len(" − ")
    second = _cut(baseline, max(room // 2, room - len(arm)))
    return f"{_cut(arm, room - len(second))} − {second}"


def _cut(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    end = (most - 1) // 2
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def _range(contrasts: Sequence[Contrast], margin: float) -> tuple[float, float]:
    values = [-margin, margin]
    for one in contrasts:
        values += [*one.differences, one.shown.low, one.shown.high, one.difference]
    finite = [value for value in values if math.isfinite(value)]
    pad = 0.04 * (max(finite) - min(finite))
    return min(finite) - pad, max(finite) + pad


def _ticks(low: float, high: float, most: int) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= most + 1)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
