"""Everything the report reads, gathered once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lossbench.data.dataset import Dataset
from lossbench.errors import GateError
from lossbench.execution.declared import LOOKS, content_of, records_of
from lossbench.execution.identity import use_own_code
from lossbench.params import Experiment, Params, ScriptExperiment
from lossbench.scripts.scoring import Scripted
from lossbench.statistics.record import Record
from lossbench.tasks.base import Task, task_for

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Evaluated:
    """One experiment's outs.

    Attributes:
        name: of the experiment.
        experiment: its params.
        arms: arm → arm.json.
        scores: long table arm, loss, seed, metric, value, diverged.
        tables: per_class, confusion, reliability, calibration, floors, budgets, where the task has them.
        history: long table arm, seed, epoch, split, metric, value.
        statistics: arm → (seeds, examples, K) of the primary metric, where it decomposes.
        gallery: folder with gallery.json and gallery.npz.
        task: the task, on its dataset; of a script what it has of one.

    """

    name: str
    experiment: Experiment
    arms: Mapping[str, Mapping[str, Any]]
    scores: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    history: pd.DataFrame
    statistics: Mapping[str, Array]
    gallery: Path
    task: Task | Scripted

    @property
    def drawn(self) -> Task:
        """The task, which shows samples and names classes; a script's experiment has no such tables."""
        assert isinstance(self.task, Task)  # noqa: S101  # nothing of a script's asks
        return self.task

    @property
    def metric(self) -> str:
        """The primary metric."""
        return self.experiment.metric

    def loss_of(self, arm: str) -> str:
        """Name of the loss an arm was trained with."""
        return str(self.arms[arm]["loss"])

    def by_arm(self, metric: str) -> dict[str, Array]:
        """Arm → scores of one metric over the arm's seeds, ascending; NaN where a replicate has none.

        A replicate whose outputs are not finite has no calibration to score, and so no NLL. Arms have the
        same seeds but where looks are declared, and one was decided before another.
        """
        by_seed = self.by_seed(metric)
        return {
            arm: np.array([by_seed[arm].get(seed, np.nan) for seed in self.seeds_of(arm)])
            for arm in self.arms
        }

    def by_seed(self, metric: str) -> dict[str, dict[int, float]]:
        """Arm → seed → score of one metric, of the replicates that have it."""
        chosen = self.scores[self.scores["metric"] == metric]
        made: dict[str, dict[int, float]] = {arm: {} for arm in self.arms}
        for arm, seed, value in zip(chosen["arm"], chosen["seed"], chosen["value"], strict=True):
            made[str(arm)][int(seed)] = float(value)
        return made

    def seeds_of(self, arm: str) -> list[int]:
        """Seeds of an arm's replicates, ascending."""
        return sorted(int(seed) for seed in self.scores.loc[self.scores["arm"] == arm, "seed"].unique())

    def diverged_seeds(self) -> dict[str, tuple[int, ...]]:
        """Arm → seeds of its diverged replicates."""
        once = self.scores[(self.scores["metric"] == self.metric) & self.scores["diverged"].astype(bool)]
        return {arm: tuple(int(seed) for seed in once.loc[once["arm"] == arm, "seed"]) for arm in self.arms}

    def diverged(self) -> dict[str, int]:
        """Arm → diverged replicates."""
        return {arm: len(seeds) for arm, seeds in self.diverged_seeds().items()}


@dataclass(frozen=True)
class Study:
    """A study's outs, and the looks taken at them where any are declared."""

    params: Params
    evaluated: Mapping[str, Evaluated]
    validation: Mapping[str, Mapping[str, Any]]
    tuning: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Mapping[str, Any]]
    records: Mapping[str, Record] = field(default_factory=dict)


def read_study(params: Params, root: Path) -> Study:
    """Read the outs of all experiments under a study's folder."""
    use_own_code(params, root)  # a task or metric may be of it
    datasets = sorted({arm.dataset for arm in params.arms.values()})
    return Study(
        params=params,
        evaluated={name: _read_experiment(params, name, root) for name in params.experiments},
        validation={name: _json(root / f"reports/validation/{name}.json") for name in datasets},
        tuning={arm: _json(root / f"reports/tuning/{arm}.json") for arm in params.arms},
        provenance={name: _json(root / f"data/{name}/provenance.json") for name in datasets},
        records=_records(params, root),
    )


def _records(params: Params, root: Path) -> dict[str, Record]:
    """Read the looks taken.

    Raises:
        GateError: if one was taken on other data: its verdicts are not those of these.

    """
    records = records_of(params, root)
    for name, record in records.items():
        now = content_of(root, params.experiments[name].dataset)
        if record.taken and record.data not in ("", now):
            raise GateError(
                f"{LOOKS}: {name} was looked at on other data ({record.data}, now {now}); `lossbench run` "
                "begins its looks anew"
            )
        records[name] = replace(record, data=now)
    return records


def _read_experiment(params: Params, name: str, root: Path) -> Evaluated:
    experiment = params.experiments[name]
    folder = root / "reports/evaluation" / name
    arms = {arm: _json(root / "models" / name / arm / "arm.json") for arm in params.arms_of(name)}
    history = [
        pd.read_csv(root / "models" / name / arm / "history.csv").assign(arm=arm, loss=arms[arm]["loss"])
        for arm in arms
    ]
    kinds = ("per_class", "confusion", "reliability", "calibration", "floors", "budgets")
    return Evaluated(
        name=name,
        experiment=experiment,
        arms=arms,
        scores=pd.read_csv(folder / "scores.csv"),
        tables={kind: _table(folder / f"{kind}.csv") for kind in kinds if (folder / f"{kind}.csv").exists()},
        history=pd.concat(history, ignore_index=True),
        statistics={file.stem: np.load(file) for file in sorted(folder.glob("statistics/*.npy"))},
        gallery=folder,
        task=_task(experiment, root),
    )


def _task(experiment: Experiment, root: Path) -> Task | Scripted:
    if isinstance(experiment, ScriptExperiment):
        return Scripted(experiment)
    info = Dataset.open(root / "data" / experiment.dataset).info
    return task_for(experiment.task.name, experiment.metric)(info, experiment.task.options)


def _table(file: Path) -> pd.DataFrame:
    # Class names are text, even where they look like numbers (digit "0") or like NaN.
    text = {"class": str, "true": str, "predicted": str}
    return pd.read_csv(file, dtype=text, keep_default_na=False, na_values={"value": [""]})


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content
