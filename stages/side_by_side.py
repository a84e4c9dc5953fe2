"""Stages side by side: DVC runs one after another, and processors idle while each of them starts and ends."""

import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lossbench.chain import changed_stages
from lossbench.commands import Commands, step
from lossbench.errors import GateError
from lossbench.params import Params
from lossbench.progress import LINES
from lossbench.training.portions import MiB, memory_budget
from lossbench.training.slots import make_slots
from lossbench.training.workers import worker_count
from stages.common import home

Place = Mapping[str, str]
"""The environment of what runs in it."""


def side_by_side(params: Params, jobs: int | None, nearly_done: Callable[[], None]) -> None:
    """Do all that has changed, but for the report: data, then arms and the experiments that they complete.

    Each dataset, arm and experiment is a `dvc repro` of its own. Workers of all share one set of slots, as
    many as there are processors; on GPUs each has one to itself (``CUDA_VISIBLE_DEVICES``).

    Args:
        params: of the study in the working directory.
        jobs: how many at a time; None for what :func:`room` says.
        nearly_done: called when the last arm has been trained; an evaluation is left.

    Raises:
        GateError: naming what failed.

    """
    chain = _Chain(params, jobs or room(params), nearly_done)
    changed = changed_stages(Path(), ["check", *chain.of_data, *chain.of_arms])
    if changed.intersection(["check", *chain.of_data]):
        step("dvc", "repro", "check")
        chain.prepare(changed)
        if not changed.issuperset(chain.of_arms):  # new data may have changed more
            changed |= changed_stages(Path(), chain.of_arms)
    chain.compare(changed)


def room(params: Params) -> int:
    """Say how many arms keep the machine at work: one a GPU; on processors one more than they need to train.

    While one arm starts or ends, the others have the processors.
    """
    if params.compute.device == "cuda":
        return len(_gpus())
    processors = worker_count(params.compute.threads)
    if params.compute.engine == "population":  # trains all of an arm's replicates in one process
        return processors
    replicates = min(len(params.seeds), params.tuning.trials or len(params.seeds))
    return math.ceil(processors / replicates) + 1


class _Chain:
    """The chain between check and report, several of its stages at a time."""

    def __init__(self, params: Params, jobs: int, nearly_done: Callable[[], None]) -> None:
        self._params = params
        self._jobs = jobs
        self._nearly_done = nearly_done
        self._left: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def of_data(self) -> list[str]:
        return [f"{stage}@{name}" for name in self._params.datasets for stage in ("fetch", "validate")]

    @property
    def of_arms(self) -> list[str]:
        stages = [f"{stage}@{arm}" for arm in self._params.arms for stage in ("tune", "train")]
        return stages + [f"evaluate@{name}" for name in self._params.experiments]

    def prepare(self, changed: set[str]) -> None:
        """Fetch and validate the datasets of which something has changed."""
        stages = {name: (f"fetch@{name}", f"validate@{name}") for name in self._params.datasets}
        waiting = [name for name, both in stages.items() if changed.intersection(both)]
        self._together(waiting, lambda name, dvc: dvc(*stages[name]))

    def compare(self, changed: set[str]) -> None:
        """Tune and train the arms that have changed; evaluate an experiment when its last arm is done."""
        arms = self._params.arms
        waiting = [arm for arm in arms if changed.intersection((f"tune@{arm}", f"train@{arm}"))]
        self._left = {arm: arms[arm].experiment for arm in waiting}
        complete = [name for name in self._params.experiments if name not in self._left.values()]
        to_score = [name for name in complete if f"evaluate@{name}" in changed]
        self._together(to_score, lambda name, dvc: dvc(f"evaluate@{name}"))
        self._together(waiting, self._arm)

    def _arm(self, arm: str, dvc: Callable[..., int]) -> int:
        code = dvc(f"tune@{arm}", f"train@{arm}")
        if not code and self._was_last(arm):
            code = dvc(f"evaluate@{self._params.arms[arm].experiment}")
        return code

    def _was_last(self, arm: str) -> bool:
        """Say whether the arm was the last of its experiment; one that failed is never done."""
        with self._lock:
            experiment = self._left.pop(arm)
            if not self._left:
                self._nearly_done()
            return experiment not in self._left.values()

    def _together(self, names: list[str], work: Callable[[str, Callable[..., int]], int]) -> None:
        if not names:
            return
        commands, places = Commands(), _places(self._params, min(self._jobs, len(names)))

        def one(name: str) -> int:
            place = places.pop()
            command = ["dvc", "--wait-for-lock", "repro", "--single-item"]
            try:
                return work(name, lambda *stages: commands.call([*command, *stages], place))
            finally:
                places.append(place)

        with ThreadPoolExecutor(len(places)) as pool:
            try:
                codes = list(pool.map(one, names))
            except BaseException:  # Ctrl-C or SIGTERM: the pool would wait for hours of training
                commands.end()
                raise
        failed = [name for name, code in zip(names, codes, strict=True) if code]
        if failed:
            raise GateError(f"a stage failed for {', '.join(failed)}; its output stands above")


def _places(params: Params, jobs: int) -> list[Place]:
    lines = {LINES: "yes"}  # bars of several arms would overwrite one another
    if params.compute.device == "cuda":
        gpus = _gpus()
        return [{**lines, "CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} for place in range(jobs)]
    memory = os.environ.get("LOSSBENCH_MEMORY") or str(memory_budget("cpu") // MiB // jobs)
    slots = make_slots(home(), worker_count(params.compute.threads))
    return [{**lines, **slots, "LOSSBENCH_MEMORY": memory} for _ in range(jobs)]


def _gpus() -> list[str]:
    """Name our GPUs as ``CUDA_VISIBLE_DEVICES`` does, which may leave us some of the machine's only."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(number) for number in range(count)]
