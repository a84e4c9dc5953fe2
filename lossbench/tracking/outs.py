"""Reads one arm's outs, and says where tracking keeps files of its own: never inside an out."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lossbench.tracking.provenance import data_digest, digest
from lossbench.written import home

History = dict[int, dict[tuple[int, str], float]]
"""seed → (epoch, split/metric) → value."""


@dataclass(frozen=True)
class ArmOuts:
    """One arm's outs on disk."""

    root: Path
    experiment: str
    arm: str

    @property
    def folder(self) -> Path:
        """``models/<experiment>/<arm>``."""
        return self.root / "models" / self.experiment / self.arm

    @property
    def evaluation(self) -> Path:
        """``reports/evaluation/<experiment>``."""
        return self.root / "reports" / "evaluation" / self.experiment

    @property
    def _tuning(self) -> Path:
        return self.root / "reports" / "tuning" / f"{self.arm}.json"

    def exist(self) -> bool:
        """Say whether the arm has been trained."""
        return (self.folder / "arm.json").exists() and (self.folder / "history.csv").exists()

    def stamp(self) -> list[tuple[str, int, int]]:
        """Name, time and size of each file that a record is made of: they differ once it is written anew."""
        files = [*self.folder.glob("*"), self._tuning, self.evaluation / "scores.csv"]
        return sorted((str(one), one.stat().st_mtime_ns, one.stat().st_size) for one in files if one.exists())

    @cached_property
    def described(self) -> dict[str, Any]:
        """``arm.json``."""
        content: dict[str, Any] = json.loads((self.folder / "arm.json").read_bytes())
        return content

    @cached_property
    def history(self) -> History:
        """``history.csv`` as seed → (epoch, split/metric) → value."""
        from pandas import read_csv

        table = read_csv(self.folder / "history.csv")
        history: History = {int(seed): {} for seed in self.described["seeds"]}
        rows = zip(
            table["seed"], table["epoch"], table["split"], table["metric"], table["value"], strict=True
        )
        for seed, epoch, split, metric, value in rows:
            history[int(seed)][int(epoch), f"{split}/{metric}"] = float(value)
        return history

    @cached_property
    def scores(self) -> dict[int, dict[str, float]]:
        """Test scores: seed → metric → value; empty before the evaluation."""
        path = self.evaluation / "scores.csv"
        scores: dict[int, dict[str, float]] = {}
        if path.exists():
            from pandas import read_csv

            table = read_csv(path)
            table = table[table["arm"] == self.arm]
            for seed, metric, value in zip(table["seed"], table["metric"], table["value"], strict=True):
                scores.setdefault(int(seed), {})[str(metric)] = float(value)
        return scores

    @cached_property
    def tuning(self) -> dict[str, Any]:
        """The arm's search; empty where there was none."""
        content: dict[str, Any] = json.loads(self._tuning.read_bytes()) if self._tuning.exists() else {}
        return content

    def key(self, study: str) -> str:
        """Hash what training left: the identity of the arm's runs."""
        data = data_digest(self.root / "data" / self.described["dataset"])
        files = [(self.folder / name).read_bytes() for name in ("arm.json", "history.csv")]
        return digest(study, self.experiment, self.arm, data, *files)


def home_of(root: Path) -> Path:
    """Find the study's private folder: ``LOSSBENCH_HOME``, or ``.lossbench`` under the study's ``root``."""
    return home(root)


def journals_of(home: Path) -> Path:
    """Find the folder that holds ``<experiment>/<arm>/<attempt>.jsonl``."""
    return home / "journal"


def timings_of(home: Path, arm: str) -> Path:
    """Find the file with an arm's seconds per replicate: ``{seed: seconds}``."""
    return home / "timings" / f"{arm}.json"
