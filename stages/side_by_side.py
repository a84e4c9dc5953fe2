"""Arms side by side: DVC runs one stage after another, and processors idle while each starts and ends."""

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lossbench.chain import changed_stages
from lossbench.commands import Commands
from lossbench.errors import GateError
from lossbench.params import Params
from lossbench.progress import LINES
from lossbench.training.portions import MiB, memory_budget
from lossbench.training.slots import make_slots
from lossbench.training.workers import worker_count
from stages.common import home


def upstream(params: Params) -> list[str]:
    """Name what has to be done before the first arm, if anything: dvc's targets."""
    stages = ["check", *(f"{stage}@{name}" for name in params.datasets for stage in ("fetch", "validate"))]
    return [f"validate@{name}" for name in params.datasets] if changed_stages(Path(), stages) else []


def side_by_side(params: Params, jobs: int | None) -> None:
    """Tune, train and evaluate what has changed, several arms at a time; the rest is left to `dvc repro`.

    Each arm is a `dvc repro` of its own. Workers of all arms share one set of slots, as many as there are
    processors; on GPUs each arm has one to itself (``CUDA_VISIBLE_DEVICES``).

    Args:
        params: of the study in the working directory, its data fetched and validated.
        jobs: arms at a time; None for what :func:`room` says.

    Raises:
        GateError: naming the arms of which a stage failed.

    """
    stages = {arm: {f"tune@{arm}", f"train@{arm}"} for arm in params.arms}
    changed = changed_stages(Path(), sorted(set().union(*stages.values())))
    waiting = [arm for arm in params.arms if stages[arm] & changed]
    jobs = min(jobs or room(params), len(waiting))
    if jobs > 1:
        _Arms(params, waiting, jobs).run()


def room(params: Params) -> int:
    """Say how many arms keep the machine at work: one a GPU; on processors one more than they need to train.

    While one arm starts or ends, the others have the processors.
    """
    if params.compute.device == "cuda":
        import torch

        return torch.cuda.device_count()
    processors = worker_count(params.compute.threads)
    if params.compute.engine == "population":  # trains all of an arm's replicates in one process
        return processors
    replicates = min(len(params.seeds), params.tuning.trials or len(params.seeds))
    return math.ceil(processors / replicates) + 1


class _Arms:
    """Arms that wait for a place, and experiments that wait for their last arm."""

    def __init__(self, params: Params, waiting: list[str], jobs: int) -> None:
        self._experiment = {arm: params.arms[arm].experiment for arm in waiting}
        self._left = dict(self._experiment)
        self._places = _places(params, jobs)
        self._commands = Commands()
        self._lock = threading.Lock()

    def run(self) -> None:
        with ThreadPoolExecutor(len(self._places)) as pool:
            try:
                codes = list(pool.map(self._one, self._experiment))
            except BaseException:  # Ctrl-C or SIGTERM: the pool would wait for hours of training
                self._commands.end()
                raise
        failed = [arm for arm, code in zip(self._experiment, codes, strict=True) if code]
        if failed:
            raise GateError(f"a stage failed for {', '.join(failed)}; its output stands above")

    def _one(self, arm: str) -> int:
        place = self._places.pop()
        try:
            code = self._dvc(place, f"tune@{arm}", f"train@{arm}")
            if not code and self._was_last(arm):
                code = self._dvc(place, f"evaluate@{self._experiment[arm]}")
            return code
        finally:
            self._places.append(place)

    def _dvc(self, place: dict[str, str], *stages: str) -> int:
        return self._commands.call(["dvc", "--wait-for-lock", "repro", "--single-item", *stages], place)

    def _was_last(self, arm: str) -> bool:
        """Say whether the arm was the last of its experiment; one that failed is never done."""
        with self._lock:
            experiment = self._left.pop(arm)
            return experiment not in self._left.values()


def _places(params: Params, jobs: int) -> list[dict[str, str]]:
    """Return the environment of each place for an arm."""
    lines = {LINES: "yes"}  # bars of several arms would overwrite one another
    if params.compute.device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        return [{**lines, "CUDA_VISIBLE_DEVICES": str(place % gpus)} for place in range(jobs)]
    memory = os.environ.get("LOSSBENCH_MEMORY") or str(memory_budget("cpu") // MiB // jobs)
    slots = make_slots(home(), worker_count(params.compute.threads))
    return [{**lines, **slots, "LOSSBENCH_MEMORY": memory} for _ in range(jobs)]
