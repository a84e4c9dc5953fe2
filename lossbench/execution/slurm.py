"""Jobs by Slurm, through submitit: a wave is an array, options stand in a small YAML of the site's.

Needs a folder that all nodes see: for the study, and for what submitit writes of its jobs. News come through
files in it, results through the store.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import submitit
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lossbench.backing import absolute
from lossbench.errors import GateError, UserError
from lossbench.execution.jobs import Event, Job, Where
from lossbench.execution.remote import MEMORY, Account, Facts, Outcome, Reporter, Task, arm_of, compute, facts
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.store import Store

OPTIONS = "LOSSBENCH_SLURM"
FILE = "slurm.yaml"
ARRAY = 500
"""Jobs of an array at most: sites limit them, to 1001 mostly."""
POLL = 1.0
"""Seconds between two looks at the jobs' files."""
GRACE = 10.0
"""Seconds that jobs have to write their checkpoints when training is ended."""


class SlurmOptions(BaseModel):
    """What a site wants to know of a job; see docs/cluster.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes: int = Field(default=60, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    at_a_time: int = Field(default=32, ge=1)
    gpus: int = Field(default=1, ge=1)
    setup: tuple[str, ...] = ()
    additional: dict[str, str | int | bool] = Field(default_factory=dict)

    @classmethod
    def read(cls, study: Path) -> "SlurmOptions":
        """Read ``slurm.yaml`` of the study, or the file that ``LOSSBENCH_SLURM`` names.

        Raises:
            UserError: naming file and key.

        """
        named = os.environ.get(OPTIONS)
        file = Path(named) if named else study / FILE
        if named is None and not file.is_file():
            return cls()
        try:
            return cls.model_validate(YAML(typ="safe").load(file.read_text(encoding="utf-8")) or {})
        except (OSError, UnicodeError, YAMLError) as error:
            raise UserError(f"{file}: {str(error).partition(chr(10))[0]}") from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(one) for one in first["loc"]) or "the file"
            known = ", ".join(cls.model_fields)
            raise UserError(f"{file}: '{key}': {first['msg']}; known are {known}") from None

    def parameters(self, params: Params) -> dict[str, Any]:
        """Put them into submitit's words."""
        compute = params.compute
        common: dict[str, Any] = {
            "timeout_min": self.minutes,
            "cpus_per_task": compute.threads * compute.processes,
            "name": "lossbench",
        }
        if self.memory_gb is not None:
            common["mem_gb"] = self.memory_gb
        if compute.device == "cuda":
            common["gpus_per_node"] = max(self.gpus, compute.processes)
        named = {"partition": self.partition, "account": self.account, "qos": self.qos}
        additional = {**self.additional, **{key: one for key, one in named.items() if one is not None}}
        return {
            **common,
            "slurm_array_parallelism": self.at_a_time,
            "slurm_setup": list(self.setup),
            "slurm_additional_parameters": additional,
        }


@dataclass
class SlurmSite:
    """A site's Slurm; nothing is submitted before it is needed."""

    params: Params
    outs: Outs
    store: Store

    def __post_init__(self) -> None:
        self._options = SlurmOptions.read(self.outs.study)

    @property
    def workers(self) -> int:
        """Jobs at a time, as the options say."""
        return 1 if self._options.cluster == "debug" else self._options.at_a_time

    def where(self) -> Where:
        """Where the study lies; nodes see the same folder."""
        return Where(self.outs.study.resolve(), self.outs.home.resolve(), absolute(self.store.address))

    def executor(self) -> "SlurmExecutor":
        """Make an executor."""
        return SlurmExecutor(self.params, self.where(), self._options, self.store.identify())


@dataclass(frozen=True)
class Carried:
    """A task as submitit carries it: it can be asked to go on later, from its checkpoint."""

    task: Task
    news: Path

    def __call__(self) -> Outcome:
        """Compute it."""
        reporter = Reporter(self._write)
        outcome = compute(self.task, reporter, lambda: None)
        reporter.flush()
        return outcome

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Be submitted again where time or priority ended it: training wrote its own checkpoint."""
        return submitit.helpers.DelayedSubmission(self)

    def _write(self, gathered: list[Any]) -> None:
        with self.news.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(one) + "\n" for one in gathered))


@dataclass
class _Submitted:
    job: Job
    handle: Any
    news: Path
    read: int = 0


@dataclass
class SlurmExecutor:
    """Runs jobs as arrays.

    Attributes:
        params: of the study.
        place: where it lies.
        options: of the site.
        store: its id.

    """

    params: Params
    place: Where
    options: SlurmOptions
    store: str
    _account: Account = field(
        default_factory=lambda: Account(say=lambda sentence: print(f"warning: {sentence}", file=sys.stderr))
    )
    _running: list[_Submitted] = field(default_factory=list)
    _facts: dict[str, Facts] = field(default_factory=dict)
    _count: int = 0

    @cached_property
    def _folder(self) -> Path:
        folder = self.place.home / "slurm" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        folder.mkdir(parents=True)
        return folder

    @cached_property
    def _site(self) -> submitit.AutoExecutor:
        try:
            made = submitit.AutoExecutor(folder=self._folder, cluster=self.options.cluster)
        except RuntimeError as error:  # there is no sbatch here
            raise UserError(f"LOSSBENCH_EXECUTOR is 'slurm': {error}") from None
        made.update_parameters(**self.options.parameters(self.params))
        return made

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take jobs."""
        self._account.waiting.extend(jobs)

    def next(self) -> Event | None:
        """Submit what there is, and wait for news."""
        while not self._account.news:
            self._begin()
            if not self._running:
                return None
            for one in list(self._running):
                over = one.handle.done()
                self._hear(one)
                if over:
                    self._running.remove(one)
                    self._end(one)
            if not self._account.news:
                time.sleep(POLL)
        return self._account.news.popleft()

    def cancel(self) -> None:
        """End what runs; those that train have time to write their checkpoints."""
        self._account.waiting.clear()
        for one in self._running:
            one.handle.cancel()
        deadline = time.monotonic() + GRACE
        while any(not one.handle.done() for one in self._running) and time.monotonic() < deadline:
            time.sleep(POLL)
        self._running.clear()

    def _begin(self) -> None:
        while self._account.waiting:
            wave = [self._account.waiting.popleft() for _ in range(min(ARRAY, len(self._account.waiting)))]
            carried = [self._carried(job) for job in wave]
            try:
                with self._site.batch():
                    handles = [self._site.submit(one) for one in carried]
            except submitit.core.utils.FailedJobError as error:
                told = str(error).strip().splitlines()
                raise GateError(
                    f"Slurm does not take the jobs: {told[-1] if told else 'no reason given'}"
                ) from None
            self._running += [
                _Submitted(job, handle, one.news)
                for job, handle, one in zip(wave, handles, carried, strict=True)
            ]

    def _carried(self, job: Job) -> Carried:
        arm = arm_of(job)
        if arm not in self._facts:
            self._facts[arm] = facts(self.params, arm, self.place.study)
        self._count += 1
        return Carried(Task(job, arm, self._facts[arm], self.store), self._folder / f"{self._count}.news")

    def _hear(self, one: _Submitted) -> None:
        """Read what a job has told since; half a line is left for the next time."""
        try:
            with one.news.open("rb") as stream:
                stream.seek(one.read)
                told = stream.read()
        except FileNotFoundError:
            return
        whole = told[: told.rfind(b"\n") + 1]
        one.read += len(whole)
        self._account.progress(one.job, [json.loads(line) for line in whole.splitlines()])

    def _end(self, one: _Submitted) -> None:
        try:
            outcome: Outcome = one.handle.result()
        except (
            submitit.core.utils.FailedJobError
        ) as error:  # of its carrying; `compute` returns what a job raises
            told = str(error).strip().splitlines()
            self._account.ended(one.job, Outcome("", GateError(f"the {one.job.label}: {told[-1]}")))
        except submitit.core.utils.UncompletedJobError:
            self._account.lost(one.job, f"ended without a result ({one.handle.state})", MEMORY)
        else:
            self._account.ended(one.job, outcome)
