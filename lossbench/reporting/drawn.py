"""The charts of MLflow's runs, which its artifact viewer shows as SVG; their colours become the runs'.

They are drawn with the report, which has read the study, and kept for the record, which need not read it.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.params import Params
from lossbench.system import write_atomically
from lossbench.tracking.summary import Reports

if TYPE_CHECKING:
    import pandas as pd

    from lossbench.reporting.inputs import Study
    from lossbench.reporting.tables import Finding

WIDTH = 640
"""Of a chart, in pixels."""
FILE = "report/charts.json"
"""In the study's private folder."""
Drawing = dict[str, Any]
"""``charts``: file name → SVG; ``colours``: arm → its colour."""


def draw(
    study: "Study",
    board: "pd.DataFrame",
    learned: "pd.DataFrame",
    findings: Sequence["Finding"],
    experiment: str,
) -> Drawing:
    """Draw an experiment."""
    import vl_convert

    from lossbench.reporting import charts

    one = study.evaluated[experiment]
    found = [finding for finding in findings if finding.experiment == experiment]
    specs = {"scores.svg": charts.scores(one, board), "curves.svg": charts.learning(one, learned)}
    if found:
        specs["differences.svg"] = charts.forest(one, found)
    drawn = {name: vl_convert.vegalite_to_svg({**spec, "width": WIDTH}) for name, spec in specs.items()}
    colours = {arm: charts.PALETTE[at % len(charts.PALETTE)] for at, arm in enumerate(one.arms)}
    return {"charts": drawn, "colours": colours}


def keep(
    study: "Study",
    board: "pd.DataFrame",
    learned: "pd.DataFrame",
    findings: Sequence["Finding"],
    root: Path,
    home: Path,
) -> None:
    """Draw all experiments of a report that has just been written, and keep that."""
    reports = Reports(root)
    made = {
        experiment: {"of": reports.digest(experiment), **draw(study, board, learned, findings, experiment)}
        for experiment in study.evaluated
    }
    write_atomically(home / FILE, json.dumps(made))


def kept(experiment: str, root: Path, home: Path) -> Drawing | None:
    """Take what is kept of an experiment, if its report is still the one that was drawn."""
    try:
        drawing: Drawing = json.loads((home / FILE).read_bytes())[experiment]
        return drawing if drawing["of"] == Reports(root).digest(experiment) else None
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or none that can be read: drawn anew
        return None


def anew(params: Params, root: Path) -> Callable[[str], Drawing]:
    """Read the study, and give what draws its experiments."""
    from lossbench.reporting.inputs import read_study
    from lossbench.reporting.tables import curves, findings, leaderboard

    study = read_study(params, root)
    return partial(draw, study, leaderboard(study), curves(study), findings(study))
