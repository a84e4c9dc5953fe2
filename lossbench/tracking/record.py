"""What one arm should look like in MLflow, from its outs and, where one tells the same history, its journal.

Plain values, before any of them is sent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from lossbench.params import Params
from lossbench.tracking.journal import read_timings
from lossbench.tracking.outs import ArmOuts, home_of
from lossbench.tracking.provenance import (
    RESULTS,
    data_digest,
    digest,
    revision,
    settings_digest,
    study_name,
    study_shown,
    versions,
)
from lossbench.tracking.replay import Replay, find_replay
from lossbench.tuning.search import edges_said

PARAM_LENGTH = 500
LOSS, STATED = "loss_parameters.", "stated_loss_parameters"
"""A child's params of its loss, and the parent's one with all of them; by name the last that differs."""
SETTINGS = "params_hash"
"""The tag with the hash of what an arm was trained with."""


@dataclass(frozen=True)
class Point:
    """One metric value: its time in milliseconds since the epoch."""

    key: str
    value: float
    step: int
    time: int


@dataclass(frozen=True)
class Run:
    """One run: times in milliseconds since the epoch."""

    name: str
    start: int
    end: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: tuple[Point, ...]

    def content(self) -> list[Any]:
        """List what the run says, leaving out when and where it came to be."""
        points = sorted((point.key, point.step, repr(point.value)) for point in self.points)
        said = [point for point in points if not point[0].startswith(("seconds", "system/"))]
        return [self.name, dict(self.params), said]


@dataclass(frozen=True)
class ArmRecord:
    """A parent run, its children (replicates by seed, then trials), and what tells it apart.

    Attributes:
        key: hash of the arm's outs: equal for equal outs, wherever and whenever they were made.
        attempt: the journal that tells the same history, if one is here.

    """

    experiment: str
    arm: str
    key: str
    parent: Run
    seeds: Mapping[int, Run]
    trials: tuple[Run, ...] = ()
    attempt: str | None = None

    def digest(self) -> str:
        """Hash the content of all runs: a run that carries it is whole."""
        replicates = {str(seed): run.content() for seed, run in self.seeds.items()}
        return digest(self.key, self.parent.content(), replicates, [run.content() for run in self.trials])


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn nested settings into MLflow params: dotted keys, short strings."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif value is not None:
            flat[name] = str(value)[:PARAM_LENGTH]
    return flat


TRIAL_RESULTS = ("scores", "losses", "mean", "diverged")
"""Keys of a trial that say what came out; the others are the point searched."""


def arm_record(params: Params, outs: ArmOuts) -> ArmRecord:
    """Build an arm's record.

    Args:
        params: of the study, as they are now.
        outs: the arm's, which must exist.

    """
    replay = find_replay(outs)
    builder = _Builder(params, outs, replay)
    seeds = {seed: builder.replicate(seed) for seed in outs.history}
    return ArmRecord(
        experiment=outs.experiment,
        arm=outs.arm,
        key=outs.key(study_name(params, outs.root)),
        parent=builder.parent(seeds),
        seeds=seeds,
        trials=tuple(builder.trials()),
        attempt=replay.header["attempt"] if replay else None,
    )


@dataclass(frozen=True)
class _Builder:
    params: Params
    outs: ArmOuts
    replay: Replay | None

    def replicate(self, seed: int) -> Run:
        """Build a child: one replicate's history and test scores."""
        start, end = self.replay.spans[seed] if self.replay else (self.written, self.written)
        points = [
            Point(key, value, epoch, _ms(self._time(seed, epoch, key)))
            for (epoch, key), value in self.outs.history[seed].items()
        ]
        scores = self.outs.scores.get(seed, {})
        points += [Point(f"test/{name}", value, 0, _ms(end)) for name, value in scores.items()]
        if seed in self.seconds:
            points.append(Point("seconds", self.seconds[seed], 0, _ms(end)))
        diverged = seed in self.outs.described.get("diverged", ())
        own = {"seed": str(seed), "stage": "train", "diverged": str(diverged).lower()}
        return Run(
            name=f"{self.outs.arm} seed {seed}",
            start=_ms(start),
            end=_ms(end),
            params={**self.settings, "seed": str(seed)},
            tags={**self.tags, **own},
            points=tuple(points),
        )

    def trials(self) -> Iterator[Run]:
        """Build a child per trial of the search."""
        best = self.outs.tuning.get("best", {})
        seeds = self.outs.tuning.get("seeds", [])
        at = _ms(self.written)
        for number, trial in enumerate(self.outs.tuning.get("trials", ())):
            point = {key: value for key, value in trial.items() if key not in TRIAL_RESULTS}
            chosen = bool(best) and all(point.get(key) == value for key, value in best.items())
            own = {"stage": "tune", "trial": str(number), "best": str(chosen).lower()}
            values = {"mean": trial.get("mean"), **point}
            yield Run(
                name=f"{self.outs.arm} trial {number}",
                start=at,
                end=at,
                params=flatten({**point, "tuning_seeds": seeds}),
                tags={**self.tags, **own},
                points=tuple(
                    Point(f"tuning/{key}", float(value), 0, at)
                    for key, value in values.items()
                    if isinstance(value, int | float)
                ),
            )

    def parent(self, seeds: Mapping[int, Run]) -> Run:
        """Build the arm's own run: mean curves, seconds, load of the machine."""
        start, end = min(run.start for run in seeds.values()), max(run.end for run in seeds.values())
        # The deciding score first: the Compare page begins with a run's first metric.
        points = [*self._mean_score(end), *self._mean_curves(end)]
        measured = [self.seconds[seed] for seed in seeds if seed in self.seconds]
        if measured:
            points.append(Point("seconds_per_replicate", fmean(measured), 0, end))
        for number, event in enumerate(self.replay.system if self.replay else ()):
            load = event["values"].items()
            points += [
                Point(f"system/{key}", float(value), number, _ms(event["time"])) for key, value in load
            ]
        own = {
            "stage": "train",
            "replicates": str(len(seeds)),
            "diverged": str(len(self.outs.described.get("diverged", ()))),
            "tuning_edge": ", ".join(edges_said(self.outs.tuning)) or "none",
        }
        return Run(
            name=self.outs.arm,
            start=start,
            end=end,
            params={**self._compared, "seeds": str(list(seeds))[:PARAM_LENGTH]},
            tags={**self.tags, **own},
            points=tuple(points),
        )

    @cached_property
    def written(self) -> float:
        """When the history came to this disk: the only time known of a restored arm."""
        return (self.outs.folder / "history.csv").stat().st_mtime

    @cached_property
    def seconds(self) -> dict[int, float]:
        """Seconds per replicate, by seed, as measured on this machine."""
        return read_timings(home_of(self.outs.root), self.outs.arm)

    @cached_property
    def settings(self) -> dict[str, str]:
        """What the arm was trained with."""
        return flatten(
            {key: value for key, value in self.outs.described.items() if key not in (*RESULTS, "seeds")}
        )

    @property
    def _compared(self) -> dict[str, str]:
        """Settings of a parent: the loss's own parameters in one of them.

        The Compare page draws an axis for each of the first three params that differ, by name; one that a
        single loss has would be an axis without the other arms.
        """
        own = {key: value for key, value in self.settings.items() if key.startswith(LOSS)}
        stated = "; ".join(f"{key.removeprefix(LOSS)}: {value}" for key, value in own.items())
        shared = {key: value for key, value in self.settings.items() if key not in own}
        return {**shared, STATED: stated[:PARAM_LENGTH]} if own else shared

    @cached_property
    def tags(self) -> dict[str, str]:
        """Describe where the arm comes from: the journal's word, else the present checkout's."""
        outs, params = self.outs, self.params
        header = self.replay.header if self.replay else {}
        origin = dict(header["revision"]) if header else revision(outs.root)
        if "git_commit" in origin:
            origin["mlflow.source.git.commit"] = origin["git_commit"]
        found = header.get("versions") or versions()
        device = outs.described.get("compute", {}).get("device", params.compute.device)
        return {
            "arm": outs.arm,
            "experiment": outs.experiment,
            "study": study_shown(params, outs.root),
            "loss": params.arms[outs.arm].loss,
            "dataset": str(outs.described["dataset"]),
            "task": params.experiments[outs.experiment].task.name,
            "metric": params.experiments[outs.experiment].metric,
            "device": str(device),
            "data_hash": data_digest(outs.root / "data" / outs.described["dataset"]),
            SETTINGS: settings_digest(outs.described),
            "origin": "trained here" if self.replay else "restored from outs",
            **origin,
            **{f"version.{package}": str(number) for package, number in found.items()},
        }

    def _time(self, seed: int, epoch: int, key: str) -> float:
        return self.replay.times[seed, epoch, key] if self.replay else self.written

    def _mean_score(self, at: int) -> Iterator[Point]:
        metric = self.params.experiments[self.outs.experiment].metric
        found = [of_seed[metric] for of_seed in self.outs.scores.values() if metric in of_seed]
        if found:
            yield Point(f"test/{metric}", fmean(found), 0, at)

    def _mean_curves(self, at: int) -> Iterator[Point]:
        """Average each curve over the seeds that reached the epoch."""
        values: dict[tuple[int, str], list[float]] = {}
        for of_seed in self.outs.history.values():
            for where, value in of_seed.items():
                values.setdefault(where, []).append(value)
        for (epoch, key), found in values.items():
            yield Point(key, fmean(found), epoch, at)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
