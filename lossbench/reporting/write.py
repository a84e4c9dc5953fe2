"""Writing every report file; none holds anything that differs between two runs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.params import Params
from lossbench.reporting.bundle import kept_bundle, vega_bundle
from lossbench.reporting.claims import claims_page
from lossbench.reporting.drawn import keep as drawn_for_mlflow
from lossbench.reporting.in_a_line import in_a_line
from lossbench.reporting.inputs import read_study
from lossbench.reporting.markdown import markdown
from lossbench.reporting.page import draw, page
from lossbench.reporting.tables import (
    answers,
    curves,
    findings,
    leaderboard,
    metrics,
    verdict_table,
    verdicts_json,
)
from lossbench.store import Store
from lossbench.tracking.cost import read_seconds

FILES = (
    "leaderboard.csv", "curves.csv", "verdicts.csv", "metrics.json", "verdicts.json", "report.md",
    "claims.html", "index.html",
)  # fmt: skip
"""What is written into ``reports/``."""


def write_report(params: Params, root: Path, home: Path, kept: Store | None = None) -> None:
    """Write ``reports/`` from the outs of evaluation, validation, tuning and training.

    Args:
        params: of the study.
        root: its folder.
        home: the folder for what is no out; the page's untracked twin, with seconds, goes there.
        kept: where the charts' script is looked up before it is made; given, MLflow's charts are drawn, too.

    """
    study = read_study(params, root)
    board, found, answered, learned = leaderboard(study), findings(study), answers(study), curves(study)
    out = root / "reports"
    for file in (out / name for name in FILES):
        file.unlink(missing_ok=True)  # which may be linked to DVC's cache, or to a file of somebody's
    _csv(board, out / "leaderboard.csv")
    _csv(learned, out / "curves.csv")
    _csv(verdict_table(found), out / "verdicts.csv")
    _json(metrics(board, study), out / "metrics.json")
    lines = {
        name: {"answer": one.answer, "next": one.then, "arms": list(one.arms), "baseline": one.baseline}
        for name, one in in_a_line(study, found).items()
    }
    _json({"answers": lines, **verdicts_json(found, answered, study)}, out / "verdicts.json")
    (out / "report.md").write_text(markdown(study, board, found, answered), encoding="utf-8")
    (out / "claims.html").write_text(claims_page(study, answered), encoding="utf-8")
    drawn = draw(study, board, found, learned)
    vega = vega_bundle() if kept is None else kept_bundle(kept)
    (out / "index.html").write_text(page(study, board, found, answered, drawn, vega=vega), encoding="utf-8")
    twin = home / "report"
    twin.mkdir(parents=True, exist_ok=True)
    seconds = read_seconds(list(params.arms), home)
    timed = page(study, board, found, answered, drawn, seconds, vega)
    (twin / "claims.html").write_text(claims_page(study, answered), encoding="utf-8")
    (twin / "index.html").write_text(timed, encoding="utf-8")
    if kept is not None:
        drawn_for_mlflow(study, board, learned, found, root, home)


def _csv(table: pd.DataFrame, file: Path) -> None:
    table.to_csv(file, index=False, lineterminator="\n", float_format="%.10g")


def _json(content: Any, file: Path) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
