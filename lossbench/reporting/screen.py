"""The page's first screen as a fragment of HTML that a notebook shows: no script, no request."""

from collections.abc import Sequence

import vl_convert
from markupsafe import Markup

from lossbench.reporting import charts
from lossbench.reporting.in_a_line import NO_VERDICT, in_a_line
from lossbench.reporting.inputs import Study
from lossbench.reporting.page import environment, section_of
from lossbench.reporting.tables import Finding, leaderboard, looks_json
from lossbench.statistics.writing import metric_name

WIDTH = 620
"""Of the chart, in pixels."""


def screen(study: Study, found: Sequence[Finding]) -> str:
    """Render answer, verdicts, leaderboard and differences of a study's first experiment."""
    name, one = next(iter(study.evaluated.items()))
    line = in_a_line(study, found).get(name)
    own = [finding for finding in found if finding.experiment == name]
    chart = vl_convert.vegalite_to_svg({**charts.forest(one, own), "width": WIDTH}) if own else ""
    return (
        environment()
        .get_template("screen.html.j2")
        .render(
            section=section_of(one, study, leaderboard(study), found),
            answer=NO_VERDICT if line is None else line.answer,
            found=own,
            said=looks_json(study).get(name, {}).get("said", ""),
            chart=Markup(chart),  # noqa: S704  # vl-convert's own SVG, its text escaped there
            alt="; ".join(f"{each.contrast.arm}: {each.contrast.verdict}" for each in own),
            timed=False,
            name_of=metric_name,
        )
    )
