"""Where everything of a study lies."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lossbench.written import home

if TYPE_CHECKING:
    from lossbench.params import Params


@dataclass(frozen=True)
class Outs:
    """The outs of a study, and its private folder.

    Attributes:
        study: its folder.

    """

    study: Path = Path()

    @property
    def home(self) -> Path:
        """What is no out: the store, checkpoints, journals; ``LOSSBENCH_HOME``, or ``.lossbench``."""
        return home(self.study)

    @property
    def checked(self) -> Path:
        """What the chain's stages depend on of code and arms, as ``check`` wrote it."""
        return self.study / "reports" / "checked"

    def data(self, dataset: str) -> Path:
        """Arrays and manifest."""
        return self.study / "data" / dataset

    def arm(self, experiment: str, arm: str) -> Path:
        """Weights, history and description of an arm."""
        return self.study / "models" / experiment / arm

    def tuning(self, arm: str) -> Path:
        """What the search of an arm found."""
        return self.study / "reports" / "tuning" / f"{arm}.json"

    def validation(self, dataset: str) -> Path:
        """What the expectations say of a dataset."""
        return self.study / "reports" / "validation" / f"{dataset}.json"

    def passed(self, dataset: str) -> Path:
        """What says that a dataset may be trained on."""
        return self.validation(dataset).with_suffix(".passed")

    def evaluation(self, experiment: str) -> Path:
        """Scores of an experiment's replicates."""
        return self.study / "reports" / "evaluation" / experiment


def seen_from_top(folder: Path, params: "Params") -> str:
    """Give a study's folder, absolute, as ``--study`` takes it in the checkout; "" for the checkout's own."""
    top = (folder / params.root).resolve()
    return shlex.quote(str(folder.relative_to(top))) if folder != top and folder.is_relative_to(top) else ""
