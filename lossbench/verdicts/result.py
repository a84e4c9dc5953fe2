"""Verdicts on a table of scores, and the forms in which people want them."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lossbench.errors import UserError
from lossbench.statistics.sentences import rounded
from lossbench.statistics.verdict import Contrast, Rules
from lossbench.statistics.writing import metric_name, p_value

COLUMNS = (
    "arm", "baseline", "verdict", "difference", "median", "ci_low", "ci_high", "p", "p_holm", "p_tie",
    "p_tie_holm", "tie_low", "tie_high", "tie_level", "margin", "n", "ahead", "equal", "correlation",
    "seeds_needed", "seeds_needed_low", "seeds_needed_high", "seeds_for_tie", "diverged",
)  # fmt: skip
SHOWN = ("loss", "against", "verdict", "difference", "interval", "p after Holm", "p of a tie", "seeds")
LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"} | {
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "−": "$-$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "]": "{]}",
}  # fmt: skip
"""A row that begins with a bracket would be an argument of the line break before it."""
MARKED = re.compile(r"[\\`*\[\]>|~#&]|<(?=\S)|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown may take for a mark; an underscore within a word is none."""


@dataclass(frozen=True)
class Found:
    """One contrast with its sentence; the last two are its interval for new groups too (NaN without)."""

    experiment: str
    contrast: Contrast
    sentence: str
    groups_low: float = math.nan
    groups_high: float = math.nan

    def record(self) -> dict[str, Any]:
        """Give it as a flat mapping; what is not known is None."""
        one = self.contrast
        values = {column: getattr(one, column) for column in COLUMNS} | {
            "verdict": str(one.verdict),
            "collapsed": one.arm_condition.collapsed,
            "baseline_collapsed": one.baseline_condition.collapsed,
            "paired": one.ahead is not None,
            "groups_low": self.groups_low,
            "groups_high": self.groups_high,
        }
        named = {"experiment": self.experiment or None, "metric": one.metric} | values
        return {key: _known(value) for key, value in named.items()} | {"sentence": self.sentence}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Plot:
    """A forest plot as SVG; notebooks show it."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, file: Path | str) -> None:
        """Write it."""
        Path(file).write_text(self.svg, encoding="utf-8")


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on every contrast of a table of scores.

    Attributes:
        found: contrasts with their sentences.
        notes: sentences on what the data brought along (missing seeds, repeated values, too few seeds).
        metric: its name.
        rules: level, margin, direction.
        statement: what the level is a level of.
        scores: experiment → loss → seed → score, as judged.

    """

    found: tuple[Found, ...]
    notes: tuple[str, ...]
    metric: str
    rules: Rules
    statement: str
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Contrast]:
        return (one.contrast for one in self.found)

    def __getitem__(self, index: int) -> Contrast:
        return self.found[index].contrast

    @property
    def records(self) -> list[dict[str, Any]]:
        """A mapping per contrast."""
        return [one.record() for one in self.found]

    @property
    def frame(self) -> Any:
        """A pandas data frame, a row per contrast.

        Raises:
            UserError: if pandas is not installed.

        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UserError(
                ".frame needs the package pandas: pip install pandas; .records holds the same, a mapping per "
                "contrast"
            ) from None
        return pd.DataFrame(self.records)

    def text(self) -> str:
        """Sentences."""
        lines = [one.sentence for one in self.found]
        notes = [f"note: {ended(note)}" for note in self.notes]
        return "\n".join([*lines, *notes, self.statement]) + "\n"

    def __str__(self) -> str:
        return self.text()

    def json(self) -> str:
        """Give everything, for machines."""
        content = {
            "verdicts": self.records,
            "notes": list(self.notes),
            "statement": self.statement,
            "metric": self.metric,
            "higher_is_better": self.rules.higher_is_better,
            "level": self.rules.level,
            "margin": self.rules.margin,
        }
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """Give a table and its sentences, for a pull request."""
        rows = [f"| {' | '.join(_cell(value) for value in row)} |" for row in self.rows()]
        head = [f"| {' | '.join(SHOWN)} |", "|" + "---|" * len(SHOWN)]
        said = [f"- {_cell(one.sentence)}" for one in self.found] + [
            f"- Note: {_cell(ended(note))}" for note in self.notes
        ]
        return "\n".join([*head, *rows, "", *said, "", self.statement]) + "\n"

    def latex(self) -> str:
        """Give a table for a paper (package booktabs)."""
        rows = [" & ".join(_tex(value) for value in row) + r" \\" for row in self.rows()]
        head = " & ".join(_tex(name) for name in SHOWN) + r" \\"
        lines = [
            r"\begin{tabular}{lllrlrrl}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join([f"% {_tex(self.statement)}", *lines]) + "\n"

    def rows(self) -> list[tuple[str, ...]]:
        """Give the cells of a table, in the order of ``SHOWN``; beside a tie stands what shows it."""
        rows: list[tuple[str, ...]] = []
        for one in self.found:
            found = one.contrast
            value, interval = rounded(found, self.rules.level)
            name = f"{one.experiment}: {found.arm}" if one.experiment else found.arm
            seeds = str(found.n) if found.ahead is None else f"ahead on {found.ahead} of {found.n}"
            p, tie = (
                p_value(one, self.rules.level).removeprefix("p = ").removeprefix("p ")
                for one in (found.p_holm, found.p_tie_holm)
            )
            rows.append((name, found.baseline, str(found.verdict), value, interval, p, tie, seeds))
        return rows

    def plot(self) -> Plot:
        """Draw the forest plot."""
        from lossbench.verdicts.page import forest

        return Plot(forest(self))

    def html(self) -> str:
        """Give one page that stands alone."""
        from lossbench.verdicts.page import page

        return page(self)

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(one.sentence)}</li>" for one in self.found)
        return f"<ul>{lines}</ul>{self.plot().svg}"


def ended(note: str) -> str:
    """End a note as a sentence, a question by its own mark."""
    return note if note.endswith("?") else f"{note}."


def title(one: Verdicts) -> str:
    """What was judged, in a line."""
    way = "higher" if one.rules.higher_is_better else "lower"
    return f"{metric_name(one.metric)} ({way} is better), margin {one.rules.margin:g}"


def _cell(text: str) -> str:
    return MARKED.sub(r"\\\g<0>", text.replace("\n", " "))


def _tex(text: str) -> str:
    return "".join(LATEX.get(one, one) for one in text.replace("\n", " "))
