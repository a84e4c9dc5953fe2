"""What a comparison found, as Python has it: an answer, tables, a page, models."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lossbench.errors import UserError, nearest
from lossbench.params import Params

if TYPE_CHECKING:
    from torch import nn

    from lossbench.reporting.inputs import Study
    from lossbench.reporting.tables import Finding


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        params: what was compared, as a params.yaml has it.
        folder: its ``params.yaml``, data, models and reports.

    """

    params: Params
    folder: Path

    @property
    def answer(self) -> str:
        """What to train with, and why: the page's first line."""
        from lossbench.reporting.in_a_line import NO_VERDICT, in_a_line

        line = in_a_line(self._study, self._found).get(self.name)
        return NO_VERDICT if line is None else line.answer

    @property
    def name(self) -> str:
        """Of the comparison."""
        return next(iter(self.params.experiments))

    @property
    def verdicts(self) -> pd.DataFrame:
        """A row for each contrast: loss, against, verdict, difference, its interval, p, …, sentence."""
        from lossbench.reporting.tables import verdict_table

        table = verdict_table(self._found)
        losses = {arm: one.loss for arm, one in self.params.arms.items()}
        table.insert(0, "loss", table["arm"].map(losses))
        table.insert(1, "against", table["baseline"].map(losses))
        table.insert(2, "verdict", table.pop("verdict"))
        table["sentence"] = [one.sentence for one in self._found]
        return table.drop(columns=["experiment", "arm", "baseline"])

    @property
    def scores(self) -> pd.DataFrame:
        """A row for each replicate and metric: loss, seed, metric, value, diverged."""
        table = self._study.evaluated[self.name].scores
        return table.drop(columns=["arm"])

    @property
    def leaderboard(self) -> pd.DataFrame:
        """A row for each loss and metric: mean, sd, interval over seeds, rank."""
        from lossbench.reporting.tables import leaderboard

        return leaderboard(self._study).drop(columns=["experiment", "arm"])

    def report(self, path: str | Path) -> Path:
        """Write the page: one file that needs no network.

        Args:
            path: a file that ends in .html, or a folder, which gets an ``index.html``.

        """
        from lossbench.reporting.page import draw, page
        from lossbench.reporting.tables import curves, leaderboard
        from lossbench.system import write_atomically

        file = Path(path).expanduser()
        if file.suffix not in (".html", ".htm"):
            file = file / "index.html"
        board = leaderboard(self._study)
        drawn = draw(self._study, board, self._found, curves(self._study))
        write_atomically(file, page(self._study, board, self._found, [], drawn), durable=True)
        return file

    def models(self, loss: str) -> dict[int, "nn.Module"]:
        """Load the networks that were trained with a loss, in evaluation mode on the CPU.

        Args:
            loss: one of the losses compared.

        Returns:
            seed → module: inputs (N, C, H, W) as they were handed over → logits (N, outputs, *spatial).

        Raises:
            UserError: for a loss that was not compared.

        """
        from lossbench.api.code import fresh
        from lossbench.api.trained import load_trained

        arms = {one.loss: arm for arm, one in self.params.arms.items()}
        if loss not in arms:
            raise UserError(f"no loss '{loss}' was compared; {nearest(loss, arms)}")
        made: dict[int, nn.Module] = fresh(
            self.folder / "code", lambda: load_trained(self.params, self.folder, arms[loss])
        )
        return made

    def __repr__(self) -> str:
        """Return the answer and the verdicts' sentences."""
        return "\n".join([f"{self.name}: {self.answer}.", *(one.sentence for one in self._found)])

    def _repr_html_(self) -> str:
        """Return the page's first screen."""
        from lossbench.reporting.screen import screen

        return screen(self._study, self._found)

    @cached_property
    def _study(self) -> "Study":
        from lossbench.reporting.inputs import read_study

        return read_study(self.params, self.folder)

    @cached_property
    def _found(self) -> "list[Finding]":
        from lossbench.reporting.tables import findings

        return findings(self._study)
