"""`lossbench verdict`: which loss is better, from a table of scores or from MLflow's runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossbench.errors import GateError, UserError
from lossbench.telling import MACHINE

if TYPE_CHECKING:
    from lossbench.verdicts.result import Verdicts

FORMATS = ("text", "md", "json", "latex")
VERDICTS = ("better", "worse", "tie", "undecided", "not trained")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = (
        "Say which loss is better, from a table of scores (loss,seed,score[,metric,experiment,group], or "
        "seed and a column per loss) or from MLflow's runs. Exit codes: 0; 1 with --fail-on; 2 for bad "
        "input."
    )
    parser.add_argument("scores", nargs="?", type=Path, help="CSV file, long or wide; - for standard input")
    parser.add_argument("--mlflow", metavar="URI", help="read runs from this tracking server instead")
    parser.add_argument("--experiment", help="only this experiment of the table; with --mlflow: its name")
    parser.add_argument(
        "--loss",
        help="column with the loss's name (loss); with --mlflow: tags.NAME or params.NAME (tags.loss)",
    )
    parser.add_argument(
        "--seed", help="column with the seed (seed); with --mlflow: where it is (params.seed)"
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--baseline", help="the loss the others are compared with")
    who.add_argument("--all-pairs", action="store_true", help="compare each with each")
    parser.add_argument(
        "--margin", type=float, required=True, help="largest difference that does not matter to you"
    )
    parser.add_argument("--metric", help="the metric that decides")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--higher-is-better", dest="higher", action="store_const", const=True)
    way.add_argument("--lower-is-better", dest="higher", action="store_const", const=False)
    parser.add_argument(
        "--level", type=float, default=0.05, help="of each experiment's verdicts together (0.05)"
    )
    parser.add_argument("--power", type=float, default=0.8, help="wanted of the seeds recommended (0.8)")
    parser.add_argument("--floor", type=float, help="score of a predictor that needs no training")
    parser.add_argument(
        "--bounds", type=float, nargs=2, metavar=("LOW", "HIGH"), help="least and largest score"
    )
    parser.add_argument(
        "--step", type=float, default=0.0, help="what one test sample weighs, such as 1/360 = 0.00278"
    )
    parser.add_argument(
        "--unpaired", action="store_true", help="equal seeds have nothing to do with each other"
    )
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--html", type=Path, help="write a page too")
    parser.add_argument(
        "--fail-on", choices=VERDICTS, action="append", default=[], help="exit with 1 on this verdict"
    )


def main(chosen: argparse.Namespace) -> None:
    """Read, judge, print; the gate comes last.

    Raises:
        UserError: for input that cannot be judged.
        GateError: where a verdict is one that the caller wants to fail on.

    """
    if chosen.html and chosen.scores and _same(chosen.html, chosen.scores):
        raise UserError(f"--html {chosen.html}: these are the scores; a page in their place would lose them")
    found = _judged(chosen)
    form = {"text": found.text, "md": found.markdown, "json": found.json, "latex": found.latex}[chosen.format]
    sys.stdout.write(form())
    if chosen.html:
        _write(chosen.html, found.html())
    failing = [one.sentence for one in found.found if str(one.contrast.verdict) in chosen.fail_on]
    if failing:
        raise GateError("\n".join(failing))


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:  # one is not there, or standard input
        return False


def _judged(chosen: argparse.Namespace) -> "Verdicts":
    from lossbench.verdicts.files import named, read_csv
    from lossbench.verdicts.judging import Question, judge_rows
    from lossbench.verdicts.table import renamed, tidy

    if (chosen.scores is None) == (chosen.mlflow is None):
        raise UserError("name a CSV file of scores, or a tracking server with --mlflow; one of the two")
    question = Question(
        baseline=chosen.baseline,
        margin=chosen.margin,
        metric=chosen.metric,
        higher_is_better=chosen.higher,
        level=chosen.level,
        power=chosen.power,
        floor=chosen.floor,
        bounds=tuple(chosen.bounds) if chosen.bounds else None,
        step=chosen.step,
        unpaired=chosen.unpaired,
    )
    if chosen.mlflow is not None:
        from lossbench.verdicts.mlflow_runs import read_runs

        places = chosen.loss or "tags.loss", chosen.seed or "params.seed"
        rows, said = read_runs(chosen.mlflow, chosen.experiment, *places, chosen.metric)
        return judge_rows(rows, f"MLflow experiment '{chosen.experiment}'", question, said)
    what = named(chosen.scores)
    located = renamed(read_csv(chosen.scores), {"loss": chosen.loss, "seed": chosen.seed}, what)
    rows = tidy(located, what, chosen.metric)
    return judge_rows(_of_experiment(rows, chosen.experiment, what), what, question)


def _of_experiment(rows: list[Any], wanted: str | None, what: str) -> list[Any]:
    if wanted is None:
        return rows
    from lossbench.errors import nearest

    there = dict.fromkeys(row.experiment for row in rows)
    if not any(there):
        raise UserError(f"{what}: no experiment '{wanted}', for there is no column 'experiment'")
    if wanted not in there:
        raise UserError(f"{what}: no experiment '{wanted}'; {nearest(wanted, there)}")
    return [row for row in rows if row.experiment == wanted]


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        if error.errno in MACHINE:
            raise
        raise UserError(f"--html {file}: cannot be written: {error.strerror}") from None
