"""Filling the store: what is missing is submitted, wave after wave, until the outs can be written from it.

An arm's search comes first, then its replicates with what the search found, then what is shown of its
experiment. All arms of all experiments share one executor, so that no processor waits for the last replicate
of one while another has not begun.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lossbench.closure import Closure
from lossbench.errors import GateError, UserError
from lossbench.execution.declared import plan_of, seeds_of
from lossbench.execution.identity import Identity
from lossbench.execution.jobs import (
    FLOORS,
    GALLERY,
    SCORES,
    SHOWN,
    TRAIN,
    Event,
    Executor,
    Floors,
    Gallery,
    Job,
    Score,
    Train,
    Where,
)
from lossbench.execution.scripted import identity_of, kept_file, monitor_of
from lossbench.execution.scripted import outcome as script_outcome
from lossbench.folds import fold_of, folds_of
from lossbench.params import Params, ScriptExperiment
from lossbench.recipe import Recipe
from lossbench.store import Entry, Store, hashed
from lossbench.training.member import Member, at_most, populations
from lossbench.tuning.search import Outcome, chosen, outcome, point_of, tuning_members


@dataclass(frozen=True)
class Wanted:
    """Members of an arm that are to be trained alike, and the keys under which they are kept."""

    recipe: Recipe
    members: tuple[Member, ...]
    keys: tuple[str, ...]
    together: tuple[tuple[int, ...], ...]
    """Numbers of the members that are trained in one job."""
    folds: tuple[int, ...]
    """Which fold each is trained on; those of one job on the same."""


class Arm:
    """What an arm needs of the store."""

    def __init__(self, params: Params, name: str, study: Path) -> None:
        self.params, self.name, self.study = params, name, study
        self.experiment = params.arms[name].experiment
        folds = range(folds_of(params, self.experiment))
        self.folds = [identity_of(params, name, study, fold) for fold in folds]
        self.identity = self.folds[0]
        self.scripted = isinstance(params.experiments[self.experiment], ScriptExperiment)
        self.kept = kept_file(params, self.experiment)
        """Name of the file that a replicate's training leaves."""
        self.loss = params.losses[params.arms[name].loss]
        self.tuning = params.tuning_of(self.experiment)
        self.recipe = params.experiments[self.experiment].recipe.at(1)
        self.seeds = seeds_of(params, study)[name]

    @cached_property
    def trials(self) -> Wanted:
        """The search."""
        recipe = self.recipe
        if self.tuning.epochs is not None:
            recipe = recipe.model_copy(update={"epochs": self.tuning.epochs})
        members = tuning_members(self.tuning, self.loss, self.seeds)
        searches = len(self.seeds) if self.tuning.scope == "replicate" else 1
        parts = searches * self.tuning.trials if self.tuning.is_grid else searches  # else a grid trains anew
        apart = [at * parts // len(members) for at in range(len(members))]
        whose = [at * searches // len(members) for at in range(len(members))]
        return self._wanted(recipe, members, apart, [self.fold(self.seeds[at]) for at in whose])

    def replicates(self, found: Mapping[str, Any]) -> Wanted:
        """The replicates, trained with what the search found (its report)."""
        return self._wanted(self.recipe, self._members(found), self._looks(), self._folds())

    def budgets(self, found: Mapping[str, Any]) -> dict[float, Wanted]:
        """The same replicates at each smaller budget."""
        declared = self.params.experiments[self.experiment].recipe
        members = self._members(found)
        apart, folds = self._looks(), self._folds()
        return {
            share: self._wanted(declared.at(share), members, apart, folds)
            for share in declared.budgets
            if share != 1
        }

    def fold(self, seed: int) -> int:
        """Which fold a replicate is trained and tested on."""
        return fold_of(self.params, self.experiment, seed)

    def identity_of(self, seed: int) -> Identity:
        """What a replicate's keys are made of: on its own fold."""
        return self.folds[self.fold(seed)]

    def _members(self, found: Mapping[str, Any]) -> list[Member]:
        return [Member(seed, **point_of(found, seed)) for seed in self.seeds]

    def found(self, store: Store) -> tuple[dict[str, Any] | None, list[Entry | None]]:
        """Return what the search found, if all its trials are in the store; and the trials."""
        entries = [store.get(TRAIN, key) for key in self.trials.keys]
        there = [entry.content for entry in entries if entry is not None]
        if len(there) < len(entries):
            return None, entries
        monitor, outcomes = self._judged(there)
        return chosen(self.tuning, self.loss, monitor, outcomes, self.seeds), entries

    def _judged(self, trials: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[Outcome]]:
        """Name what the search goes by, and say what each trial reached, the higher the better."""
        experiment = self.params.experiments[self.experiment]
        if not trials:
            return None, []
        if isinstance(experiment, ScriptExperiment):
            return monitor_of(experiment), [script_outcome(one, experiment) for one in trials]
        return trials[0]["described"]["monitor"], [outcome(one) for one in trials]

    def _wanted(
        self, recipe: Recipe, members: Sequence[Member], apart: Sequence[int], folds: Sequence[int]
    ) -> Wanted:
        """Say who is trained; members with different numbers in ``apart``, or ``folds``, share no population.

        A replicate's bits depend on its population, and so a further look, another's search or a grid's
        further points may not join it.
        """
        stacked = self.params.compute.engine == "population" and not self.scripted
        together = [[one] for one in range(len(members))]
        if stacked:
            divided: dict[tuple[int, int, int], list[int]] = {}
            for part, numbers in enumerate(populations(self.loss, members)):
                for number in numbers:
                    divided.setdefault((part, apart[number], folds[number]), []).append(number)
            most = self.params.compute.members
            together = [part for numbers in divided.values() for part in at_most(numbers, most)]
        keys: dict[int, str] = {}
        for numbers in together:
            company = [members[number] for number in numbers] if stacked else ()
            for number in numbers:
                keys[number] = self.folds[folds[number]].training(members[number], recipe, company)
        in_order = tuple(keys[number] for number in range(len(members)))
        trained = tuple(tuple(numbers) for numbers in together)
        return Wanted(recipe, tuple(members), in_order, trained, tuple(folds))

    def _folds(self) -> list[int]:
        return [self.fold(seed) for seed in self.seeds]

    def _looks(self) -> list[int]:
        """Number, for each replicate, the look that wants it first."""
        plan = plan_of(self.params)
        return [
            0 if plan is None else sum(count <= at for count in plan.looks) for at in range(len(self.seeds))
        ]

    def jobs(
        self, wanted: Wanted, missing: Iterable[str], where: Where, trial: bool, budget: bool = False
    ) -> list[Job]:
        """Make the jobs that compute missing members; a population that lacks one is trained whole."""
        lacking = set(missing)
        shown = frozenset(() if trial else self.params.seeds[:1])
        return [
            Train(
                where,
                self.params,
                self.name,
                wanted.recipe,
                tuple(wanted.members[number] for number in numbers),
                tuple(wanted.keys[number] for number in numbers),
                self.folds[wanted.folds[numbers[0]]].scores(""),
                trial or budget,
                shown,
                budget,
                wanted.folds[numbers[0]],
            )
            for numbers in wanted.together
            if any(wanted.keys[number] in lacking for number in numbers)
        ]


Flow = Generator[list[Job], None, None]
"""Yields waves of jobs; it goes on when all of a wave are done."""


def arm_flow(arm: Arm, store: Store, where: Where, scores: bool) -> Flow:
    """Search, then train what is missing; and score what was trained before.

    Args:
        arm: which.
        store: what is there.
        where: for the jobs.
        scores: whether scores are wanted as well.

    """
    yield arm.jobs(arm.trials, _missing(store, arm.trials.keys), where, trial=True)
    found, _ = arm.found(store)
    if found is None:
        raise GateError(f"the search of '{arm.name}' is no longer in the store; run the same again")
    wanted = arm.replicates(found)
    there = {key: entry for key in wanted.keys if (entry := store.get(TRAIN, key)) is not None}
    jobs = arm.jobs(wanted, [key for key in wanted.keys if key not in there], where, trial=False)
    if scores:
        computed = {key for job in jobs if isinstance(job, Train) for key in job.keys}
        for member, key in zip(wanted.members, wanted.keys, strict=True):
            if key not in computed:
                jobs += score_jobs(arm, store, where, member.seed, there[key].files[arm.kept], key)
    smaller = arm.budgets(found)
    for part in smaller.values():
        jobs += arm.jobs(part, _missing(store, part.keys), where, trial=False, budget=True)
    yield jobs
    if scores and smaller:
        yield [
            job
            for (_, seed), (digest, key) in budgets_in_store(arm, store).items()
            for job in score_jobs(arm, store, where, seed, digest, key, shown=False)
        ]


def score_jobs(
    arm: Arm,
    store: Store,
    where: Where,
    seed: int,
    weights: str,
    source: str | Path,
    shown: bool | None = None,
) -> list[Job]:
    """Make the job that scores a replicate, if its scores are missing.

    Args:
        arm: whose replicate it is.
        store: what is there.
        where: for the job.
        seed: of the replicate.
        weights: their SHA-256.
        source: key of its entry in the store, or a file.
        shown: whether it is shown; of itself the first replicate is.

    """
    if shown is None:
        shown = seed == arm.params.seeds[0] and not arm.scripted  # who keeps to itself what it decides
    identity = arm.identity_of(seed)
    key = identity.scores(weights)
    lacking = store.get(SCORES, key) is None
    if shown:
        lacking = lacking or store.get(SHOWN, identity.shown(weights)) is None
    if not lacking:
        return []
    return [Score(where, arm.params, arm.name, seed, source, key, shown, fold=arm.fold(seed))]


Weights = tuple[str, str | Path]
"""SHA-256 of a replicate's weights, and where they are: a key of the store, or a file."""


class Experiment:
    """What is shown of an experiment beside its scores."""

    def __init__(self, params: Params, name: str, study: Path) -> None:
        self.params, self.name = params, name
        self.arms = {arm: Arm(params, arm, study) for arm in params.arms_of(name)}

    @property
    def folds(self) -> range:
        """Numbers of the folds; of 0 alone where the data are divided once."""
        return range(folds_of(self.params, self.name))

    @property
    def scoring(self) -> Closure:
        """The code that scores its replicates."""
        return next(iter(self.arms.values())).identity.scoring

    def floors(self, fold: int) -> str:
        """Key of the scores of predictors that need no training, on a fold."""
        first = next(iter(self.arms.values())).folds[fold]
        return hashed([first.task, "floors"])

    def gallery(self, shown: Sequence[tuple[str, str]]) -> str:
        """Key of the gallery of replicates of which this is shown."""
        first = next(iter(self.arms.values())).identity
        return hashed([first.task, "gallery", self.params.seeds[0], [list(one) for one in shown]])

    def flow(
        self,
        store: Store,
        where: Where,
        weights: dict[str, dict[int, Weights]],
        budgets: Mapping[str, Mapping[tuple[float, int], Weights]],
    ) -> Flow:
        """Score what is not scored, then choose what is shown.

        Args:
            store: what is there.
            where: for the jobs.
            weights: arm → seed → the weights' SHA-256, and where they are.
            budgets: arm → (share, seed) → the same, of the smaller budgets.

        """
        wave: list[Job] = []
        scripted = isinstance(self.params.experiments[self.name], ScriptExperiment)
        wave += [
            Floors(where, self.params, self.name, self.floors(fold), fold=fold)
            for fold in self.folds
            if not scripted and store.get(FLOORS, self.floors(fold)) is None
        ]
        for name, arm in self.arms.items():
            for seed, (digest, source) in weights[name].items():
                wave += score_jobs(arm, store, where, seed, digest, source)
            for (_, seed), (digest, source) in budgets[name].items():
                wave += score_jobs(arm, store, where, seed, digest, source, shown=False)
        yield wave
        if scripted:  # it keeps to itself what it decides
            return
        first = self.params.seeds[0]
        shown = tuple((name, arm.identity.shown(weights[name][first][0])) for name, arm in self.arms.items())
        key = self.gallery(shown)
        if store.get(GALLERY, key) is None:
            yield [Gallery(where, self.params, self.name, first, shown, key)]


def weights_in_store(arm: Arm, store: Store) -> dict[int, Weights]:
    """Find an arm's weights: seed → SHA-256 and key, of replicates that are all there."""
    found, _ = arm.found(store)
    if found is None:
        raise GateError(f"the search of '{arm.name}' is no longer in the store; run the same again")
    return _weights(arm, arm.replicates(found), store)


def budgets_in_store(arm: Arm, store: Store) -> dict[tuple[float, int], Weights]:
    """Find an arm's weights at its smaller budgets: (share, seed) → SHA-256 and key."""
    found, _ = arm.found(store)
    if found is None:
        raise GateError(f"the search of '{arm.name}' is no longer in the store; run the same again")
    return {
        (share, seed): one
        for share, wanted in arm.budgets(found).items()
        for seed, one in _weights(arm, wanted, store).items()
    }


def _weights(arm: Arm, wanted: Wanted, store: Store) -> dict[int, Weights]:
    made: dict[int, Weights] = {}
    for member, key in zip(wanted.members, wanted.keys, strict=True):
        entry = store.get(TRAIN, key)
        if entry is None:
            raise GateError(f"a replicate of '{arm.name}' is no longer in the store; run the same again")
        made[member.seed] = (entry.files[arm.kept], key)
    return made


def _missing(store: Store, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if store.get(TRAIN, key) is None]


class Watch:
    """Hears what is submitted and how it goes; this one tells nobody."""

    def submitted(self, jobs: Sequence[Job]) -> None:
        """Jobs were submitted."""

    def event(self, event: Event) -> None:
        """A job has news."""

    def close(self, failed: bool) -> None:
        """Nothing more will come."""


@dataclass
class _Started:
    flow: Flow
    left: int = 0


@dataclass
class Filling:
    """Runs flows until all have ended.

    Attributes:
        executor: makes one when the first job is to be submitted.
        watch: hears of everything.

    """

    executor: Callable[[], Executor]
    watch: Watch = field(default_factory=Watch)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    _flows: dict[str, _Started] = field(default_factory=dict)
    _later: list[tuple[set[str], str, Callable[[], Flow]]] = field(default_factory=list)
    _owner: dict[int, tuple[Job, str]] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _running: Executor | None = None

    def add(self, name: str, flow: Callable[[], Flow], after: Iterable[str] = ()) -> None:
        """Have a flow run, once others have ended well."""
        self._later.append((set(after), name, flow))

    def run(self) -> None:
        """Run all flows.

        Raises:
            UserError: a job's, if there is but one.
            GateError: naming all jobs that failed; what did not need them has been computed.

        """
        try:
            self._start_ready()
            while self._running is not None and (event := self._running.next()) is not None:
                self.watch.event(event)
                if event.kind != "progress":
                    self._over(event)
        except BaseException:
            self._cancel(failed=True)
            raise
        self._cancel(failed=bool(self.failures))
        self._raise()

    def _cancel(self, failed: bool) -> None:
        if self._running is not None:
            self._running.cancel()
        self.watch.close(failed)

    def _start_ready(self) -> None:
        """Start flows whose predecessors have ended, until no more can be."""
        while True:
            ready = [one for one in self._later if one[0] <= self._ended]
            if not ready:
                return
            for one in ready:
                self._later.remove(one)
                _, name, make = one
                self._flows[name] = _Started(make())
                self._advance(name)

    def _advance(self, name: str) -> None:
        started = self._flows[name]
        for jobs in started.flow:
            if jobs:
                self._submit(name, jobs)
                return
        self._ended.add(name)

    def _submit(self, name: str, jobs: list[Job]) -> None:
        if self._running is None:
            self._running = self.executor()
        self._flows[name].left = len(jobs)
        self._owner |= {
            id(job): (job, name) for job in jobs
        }  # kept: an object's id is its own while it lives
        self.watch.submitted(jobs)
        self._running.submit(jobs)

    def _over(self, event: Event) -> None:
        _, name = self._owner.pop(id(event.job))
        if event.kind == "failed":
            self.failures.setdefault(name, []).append(event.content)
        started = self._flows[name]
        started.left -= 1
        if started.left == 0 and name not in self.failures:
            self._advance(name)
            self._start_ready()

    def _raise(self) -> None:
        if not self.failures:
            return
        errors = [error for failed in self.failures.values() for error in failed]
        unknown = [one for one in errors if not isinstance(one, UserError | GateError)]
        told = "\n".join(
            f"{name}: {said}"
            for name, failed in self.failures.items()
            for said in dict.fromkeys(str(error) or type(error).__name__ for error in failed)
        )
        failed = f"{len(self.failures)} of {len(self._flows)} parts failed, the others were finished:\n{told}"
        if unknown:  # which of them ended first is chance, and so all are named
            unknown[0].add_note(failed)
            raise unknown[0]
        raise errors[0] if len(errors) == 1 else GateError(failed)
