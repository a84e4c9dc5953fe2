"""Scores as people have them, rows of a file or a data frame, long or wide, into one per loss and seed."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category, normalize

import numpy as np

from lossbench.errors import UserError, brief, nearest

LONG = "loss,seed,score[,metric,experiment,group]"
WIDE = "seed,LOSS,LOSS,…"
SCORE_COLUMNS = ("score", "value")
"""``value`` is what our own scores.csv calls it."""
OPTIONAL = ("metric", "experiment", "group")
OURS = ("loss", "seed", *SCORE_COLUMNS, *OPTIONAL)
INDEX = re.compile(r"Unnamed: \d+")
"""What pandas calls a column without a name."""
NO_LOSSES = {
    "batch_size", "date", "delta", "diff", "difference", "duration", "epoch", "epochs", "fold", "id", "index",
    "iteration", "learning_rate", "level_0", "lr", "n", "rank", "run", "run_id", "runtime", "split", "step",
    "time", "timestamp", "trial", "weight_decay",
}  # fmt: skip
"""Columns that tables of scores have beside losses; judged as one, such a column costs the others level."""
SUMMARIES = {
    "average", "avg", "mean", "median", "sd", "sem", "std", "std dev", "std. dev", "stddev", "stdev",
    "stderr", "var", "variance",
}  # fmt: skip
"""Rows and columns that sum up the others: no loss, and no seed."""
TOTALS = {"all", "count", "max", "maximum", "min", "minimum", "sum", "total", "25%", "50%", "75%"}
"""Rows that do (pandas' ``describe`` and ``margins`` write them); a loss may be a sum."""
STEERING = ("Cc", "Cs")
"""Unicode's control characters, and halves of a pair that no file can hold."""
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""What turns the direction of the text that follows."""
MISSING = {"", "na", "n/a", "nan", "null", "none", "nil", "#n/a"}
"""What R, SQL, pandas and spreadsheets write where there is no number."""

Located = tuple[str, Mapping[str, Any]]
"""Where a row stands ("line 7"), and column → cell."""


@dataclass(frozen=True)
class Scores:
    """The scores of one experiment on one metric.

    Attributes:
        scores: loss → seed → score, every one finite.
        replaced: loss → seeds without a score, which have the floor's.
        groups: loss → seed → group → score, where scores are of groups of test examples; else empty.

    """

    scores: dict[str, dict[str, float]]
    replaced: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One score, and where it stands."""

    where: str
    loss: str
    seed: str
    score: float
    metric: str
    experiment: str
    group: str


def rows_of(frame: Any) -> list[Located]:
    """Bring a data frame, a mapping of columns, or a list of rows into one mapping a row, with its number.

    Raises:
        UserError: if it is none of these, or columns differ in length.

    """
    return [(f"row {number}", row) for number, row in enumerate(_rows_of(frame))]


def _rows_of(frame: Any) -> list[dict[str, Any]]:
    if hasattr(frame, "to_dict") and hasattr(frame, "columns"):  # pandas, without importing it
        names = [str(name) for name in frame.columns]
        check_header(names, "the frame")
        indexed = [str(name) for name in frame.index.names]
        if any(name.lower() in OURS for name in indexed) and not set(indexed) & set(names):
            return _rows_of(frame.reset_index())  # seeds (or losses) that stand in the index
        values = [frame.iloc[:, index].tolist() for index in range(len(names))]
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    if hasattr(frame, "to_dicts"):  # polars
        return [dict(row) for row in frame.to_dicts()]
    if isinstance(frame, Mapping):
        columns = {str(name): _column(str(name), values) for name, values in frame.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"columns must be of one length, found {brief(lengths)}")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(frame, Iterable) and not isinstance(frame, (str, bytes)):
        rows = list(frame)
        if all(isinstance(row, Mapping) for row in rows):
            return [{str(name): value for name, value in row.items()} for row in rows]
    raise UserError(
        f"scores must be a data frame, a mapping of columns, or a list of rows ({LONG} or {WIDE}), "
        f"found {type(frame).__name__}"
    )


def _column(name: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise UserError(f"column '{name}' is {brief(values)}; expected its values, one a row")
    return list(values)


def check_header(names: Sequence[str], what: str) -> None:
    """Refuse a column that stands twice.

    Raises:
        UserError: naming it.

    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{what}: column '{twice[0]}' stands twice in the header")


def renamed(located: Sequence[Located], columns: Mapping[str, str | None], what: str) -> Sequence[Located]:
    """Call columns what they hold; one that was called so (a training loss's last value) is left out.

    Args:
        located: a row each.
        columns: our name → the table's, None where it is ours.
        what: the table's name in messages.

    Raises:
        UserError: if there is no such column.

    """
    ours = {theirs: name for name, theirs in columns.items() if theirs}
    for theirs, name in ours.items():
        if located and theirs not in located[0][1]:
            raise UserError(f"{what}: no column '{theirs}' (--{name}); {nearest(theirs, located[0][1])}")
    left_out = set(ours.values()) - set(ours)
    return [
        (where, {ours.get(name, name): cell for name, cell in row.items() if name not in left_out})
        for where, row in located
    ]


def tidy(located: Sequence[Located], what: str, metric: str | None) -> list[Row]:
    """Bring long or wide rows into one form.

    Args:
        located: a row each: where it stands ("line 7"), and column → cell.
        what: their name in messages, a file or "the frame".
        metric: what a table that names no metric holds.

    Raises:
        UserError: if columns are missing or unknown, or a cell is no score.

    """
    if not located:
        raise UserError(f"{what}: no scores; expected {LONG} or {WIDE}")
    named = _reserved(list(dict.fromkeys(name for _, row in located for name in row)), what)
    names = list(named.values())
    numbered = [
        (f"{what}: {where}", {named[name]: value for name, value in row.items() if name in named})
        for where, row in located
    ]
    found = _long(numbered, names, what, metric) if "loss" in names else _wide(numbered, names, what)
    _check_labels(found)
    _check_seeds(found)
    return found


def _check_seeds(rows: Sequence[Row]) -> None:
    """Refuse a row that sums up the seeds: it would count as one more of them."""
    odd = next((row for row in rows if row.seed.casefold().rstrip(".:") in SUMMARIES | TOTALS), None)
    if odd is not None:
        raise UserError(
            f"{odd.where}: seed '{odd.seed}' would be one more seed, and by its name sums up the others; "
            "take the row out"
        )


def _check_labels(rows: Sequence[Row]) -> None:
    """Refuse rows that name no metric, experiment or group where others do (cells that were merged, say)."""
    for label in OPTIONAL:
        lacking = next((row for row in rows if not getattr(row, label)), None)
        named = next((row for row in rows if getattr(row, label)), None)
        if lacking is not None and named is not None:
            raise UserError(
                f"{lacking.where}: no {label}, where {named.where.rsplit(': ', 1)[-1]} has "
                f"'{getattr(named, label)}'; give every row its {label}, or none"
            )


def _reserved(names: Sequence[str], what: str) -> dict[str, str]:
    """Our own columns whatever their case; without the nameless ones that a saved index leaves."""
    kept = {
        name: one_line(name, f"{what}: a column")
        for name in names
        if name.strip() and not INDEX.fullmatch(name.strip())
    }
    there = set(kept.values())
    return {
        name: read.lower() if read.lower() in OURS and read.lower() not in there else read
        for name, read in kept.items()
    }


def _long(
    rows: Sequence[tuple[str, Mapping[str, Any]]], names: Sequence[str], what: str, metric: str | None
) -> list[Row]:
    score = _score_column(names, what, metric)
    if "seed" not in names:
        raise UserError(
            f"{what}: no column 'seed'; found {', '.join(names)}; expected {LONG} (seeds are what scores "
            "pair by: number the runs of each loss if they have none, and say --unpaired)"
        )
    return [
        Row(
            where,
            name_of(row.get("loss"), f"{where}, 'loss'"),
            name_of(row.get("seed"), f"{where}, 'seed'"),
            _score(row.get(score), f"{where}, '{score}'"),
            *(_label(row.get(name), f"{where}, '{name}'") for name in OPTIONAL),
        )
        for where, row in rows
    ]


def _score_column(names: Sequence[str], what: str, metric: str | None) -> str:
    """Find where a long table's scores stand: a column of the metric's name says it best."""
    if metric is not None and metric in names and metric not in OURS and "metric" not in names:
        return metric
    score = next((name for name in SCORE_COLUMNS if name in names), None)
    if score is None:
        raise UserError(
            f"{what}: no column 'score'; found {', '.join(names)}; expected {LONG}, or a column of the "
            "metric's exact name (--metric NAME; in Python: metric='NAME')"
        )
    return score


def _wide(rows: Sequence[tuple[str, Mapping[str, Any]]], names: Sequence[str], what: str) -> list[Row]:
    if "seed" not in names:
        raise UserError(
            f"{what}: neither a column 'loss' nor a column 'seed'; found {', '.join(names)}; expected "
            f"{LONG} or {WIDE} (where rows are runs without a number, number them; runs of different losses "
            "that have nothing in common: --unpaired)"
        )
    losses = [name for name in names if name not in ("seed", *OPTIONAL)]
    odd = next((name for name in losses if name.lower() in NO_LOSSES | SUMMARIES), None)
    if odd is not None:
        raise UserError(
            f"{what}: column '{odd}' would be a loss, as every column beside 'seed' is; take it out, or "
            f"call it 'group' if it divides the test data and 'experiment' if the comparison; or write {LONG}"
        )
    found = []
    for where, row in rows:
        seed = name_of(row.get("seed"), f"{where}, 'seed'")
        labels = [_label(row.get(name), f"{where}, '{name}'") for name in OPTIONAL]
        for loss in losses:
            value = row.get(loss)
            if value is None or (isinstance(value, str) and not value.strip()):
                continue  # not trained on this seed
            found.append(Row(where, loss, seed, _score(value, f"{where}, '{loss}'"), *labels))
    return found


def name_of(value: Any, where: str) -> str:
    """Give a loss or a seed as text; 3, 3.0 and "3" are one seed.

    Raises:
        UserError: if it is empty, or holds what no page and no terminal can show.

    """
    if empty(value) or not str(value).strip():
        raise UserError(f"{where} is empty; every score needs its loss and its seed")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = one_line(value, where)
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdigit() else text


def one_line(value: Any, where: str) -> str:
    """Write a name as a sentence can hold it: cells and headers of spreadsheets may have several lines.

    Raises:
        UserError: for a control character: it would steer a terminal, turn a line about, or end an SVG.

    """
    text = " ".join(str(value).split())
    odd = next((one for one in text if category(one) in STEERING or one in TURNING), None)
    if odd is not None:
        shown = brief("".join("\N{REPLACEMENT CHARACTER}" if one == odd else one for one in text))
        raise UserError(
            f"{where} is {shown}, where the marked place holds a control character (U+{ord(odd):04X}); take "
            "it out"
        )
    return text


def empty(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or what pandas calls NA and NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas, without importing it
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def _label(value: Any, where: str) -> str:
    return "" if empty(value) else one_line(value, where)


def _score(value: Any, where: str) -> float:
    """A score; NaN where there is none, which is for the caller to judge."""
    if empty(value) or (isinstance(value, str) and value.strip().lower() in MISSING):
        return math.nan
    if isinstance(value, (bool, np.bool_)):
        raise UserError(f"{where} is {value}; a score is a number")
    try:
        if isinstance(value, np.complexfloating) or "_" in str(value):
            raise ValueError  # numpy drops the imaginary part, and Python reads 0_75 as 75
        return float(value)
    except OverflowError:
        raise UserError(
            f"{where} is a whole number too large to compute with; give all in another unit"
        ) from None
    except (TypeError, ValueError):
        raise UserError(f"{where} is {brief(value)}; a score is a number{_hint(value)}") from None


def _hint(value: Any) -> str:
    """Say what is likely meant by a cell that is no number."""
    text = str(value)
    if text.rstrip().endswith("%"):
        return "; write 71.3 without the sign, and the margin in per cent too"
    if "," in text:
        return "; write 0.5, not 0,5, and 1234 without separators"
    if any(letter.isalpha() for letter in text):
        return f" (in the long form, {LONG}, the losses' names stand in a column 'loss')"
    return ""


def gather(
    rows: Sequence[Row], metric: str | None, floor: float | None, what: str
) -> tuple[str, dict[str, Scores]]:
    """Choose the metric, and order its scores by experiment, loss and seed.

    Args:
        rows: of the whole table.
        metric: the one to judge by; may be None where the table holds one alone.
        floor: score of a predictor that needs no training, given to replicates that have none.
        what: the table's name in messages.

    Returns:
        The metric's name ("" where nobody named it), and experiment → scores.

    Raises:
        UserError: if the metric is not there, a loss has two scores on a seed, or one is no finite number.

    """
    if not rows:
        raise UserError(f"{what}: no scores; expected {LONG} or {WIDE}")
    chosen, rows = _of_metric(rows, metric, what)
    _check_names(rows)
    gathered: dict[str, dict[tuple[str, str, str], Row]] = {}
    for row in rows:
        of_experiment = gathered.setdefault(row.experiment, {})
        twin = of_experiment.setdefault((row.loss, row.seed, row.group), row)
        if twin is not row:
            group = f" in group '{row.group}'" if row.group else ""
            raise UserError(
                f"{row.where}: loss '{row.loss}' has a second score on seed {row.seed}{group}, the first is "
                f"in {twin.where.rsplit(': ', 1)[-1]}; give one score per loss and seed (of several groups "
                "of test examples, or folds: a column 'group'; of several experiments: a column "
                "'experiment')"
            )
    return chosen, {name: _scores(list(found.values()), floor, what) for name, found in gathered.items()}


def _check_names(rows: Sequence[Row]) -> None:
    """Refuse losses whose names differ by case or blanks alone: half of one's seeds would be another's."""
    written: dict[str, Row] = {}
    # A row for each way of writing a loss: a million rows have a handful.
    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(row.loss, row)
    for row in firsts.values():
        seen = "".join(one for one in normalize("NFKC", row.loss) if category(one) != "Cf")
        name = " ".join(seen.casefold().replace("_", " ").split())
        first = written.setdefault(name, row)
        if first.loss != row.loss:
            raise UserError(
                f"{row.where}: loss '{row.loss}', but '{first.loss}' in {first.where.rsplit(': ', 1)[-1]}: "
                "names that differ by case, blanks, underscores or what cannot be seen; write one loss in "
                "one way, and give two losses names that differ by more"
            )


def _of_metric(rows: Sequence[Row], metric: str | None, what: str) -> tuple[str, list[Row]]:
    there = list(dict.fromkeys(row.metric for row in rows))
    if there == [""]:
        return metric or "", list(rows)
    if metric is None:
        if len(there) > 1:
            raise UserError(f"{what}: several metrics; say which one decides (--metric): {', '.join(there)}")
        return there[0], list(rows)
    if metric not in there:
        raise UserError(f"{what}: no scores of metric '{metric}'; {nearest(metric, there)}")
    return metric, [row for row in rows if row.metric == metric]


def _scores(rows: Sequence[Row], floor: float | None, what: str) -> Scores:
    grouped: dict[str, dict[str, dict[str, float]]] = {}
    replaced: dict[str, list[str]] = {}
    for row in rows:
        score = row.score
        if not math.isfinite(score) and floor is not None:
            replaced.setdefault(row.loss, []).append(row.seed)
            score = floor
        if not math.isfinite(score):
            found = "no number (NaN)" if math.isnan(score) else "infinite"
            raise UserError(
                f"{row.where}: the score of loss '{row.loss}' on seed {row.seed} is {found}. A replicate "
                "that diverged counts, with the score of a constant prediction: say it with --floor; one "
                "that was never trained has no row, or in a CSV file with a column per loss an empty cell "
                "(in pandas: melt, then dropna). Leaving out what diverged would reward diverging"
            )
        grouped.setdefault(row.loss, {}).setdefault(row.seed, {})[row.group] = score
    _check_groups(grouped, what)
    means = {
        loss: {seed: math.fsum(of_seed.values()) / len(of_seed) for seed, of_seed in of_loss.items()}
        for loss, of_loss in grouped.items()
    }
    several = any(len(of_seed) > 1 for of_loss in grouped.values() for of_seed in of_loss.values())
    return Scores(means, replaced, grouped if several else {})


def _check_groups(grouped: Mapping[str, Mapping[str, Mapping[str, float]]], what: str) -> None:
    """Means over different groups do not compare."""
    groups = {group for of_loss in grouped.values() for of_seed in of_loss.values() for group in of_seed}
    for loss, of_loss in grouped.items():
        for seed, of_seed in of_loss.items():
            lacking = sorted(groups - set(of_seed))
            if lacking:
                raise UserError(
                    f"{what}: loss '{loss}' has no score on seed {seed} in group '{lacking[0]}', others "
                    "have; every loss and seed needs a score in every group, or their means do not compare"
                )
