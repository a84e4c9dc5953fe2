"""Where jobs are computed: on this machine, on a Ray cluster, or by Slurm; ``LOSSBENCH_EXECUTOR`` says.

Where is no part of what: nothing of it stands in params.yaml or in a key.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from lossbench.errors import UserError, nearest
from lossbench.execution.jobs import Executor, Where
from lossbench.execution.local import LocalExecutor, where, worker_count
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.store import Store

EXECUTOR = "LOSSBENCH_EXECUTOR"
LOCAL = "local"


class Site(Protocol):
    """A place for jobs; nothing is started before it is needed."""

    @property
    def workers(self) -> int:
        """How many jobs run at a time."""

    def where(self) -> Where:
        """Say to its workers where the study lies."""

    def executor(self) -> Executor:
        """Make what runs jobs there."""


@dataclass(frozen=True)
class LocalSite:
    """The machine at hand."""

    params: Params
    outs: Outs
    store: Store

    @property
    def workers(self) -> int:
        """As many as there are processors and memory for."""
        return worker_count(self.params.compute)

    def where(self) -> Where:
        """Where the study lies."""
        return where(self.params, self.outs, self.store)

    def executor(self) -> LocalExecutor:
        """A pool of processes."""
        return LocalExecutor(self.params.compute, self.workers)


def is_local() -> bool:
    """Whether jobs are computed on the machine at hand."""
    return (os.environ.get(EXECUTOR) or LOCAL) == LOCAL


def _ray(params: Params, outs: Outs, store: Store) -> Site:
    _installed("ray", "ray")
    from lossbench.execution.ray_site import RaySite

    return RaySite(params, outs, store)


def _slurm(params: Params, outs: Outs, store: Store) -> Site:
    _installed("submitit", "slurm")
    from lossbench.execution.slurm import SlurmSite

    return SlurmSite(params, outs, store)


SITES: dict[str, Callable[[Params, Outs, Store], Site]] = {LOCAL: LocalSite, "ray": _ray, "slurm": _slurm}


def site(params: Params, outs: Outs, store: Store) -> Site:
    """Choose where jobs are computed, by ``LOSSBENCH_EXECUTOR``; without it, here.

    Raises:
        UserError: if it names no such place, or what that needs is not installed or not set.

    """
    name = os.environ.get(EXECUTOR) or LOCAL
    if name not in SITES:
        raise UserError(f"{EXECUTOR} is '{name}'; {nearest(name, SITES)}")
    return SITES[name](params, outs, store)


def _installed(package: str, name: str) -> None:
    if find_spec(package) is None:
        raise UserError(
            f"{EXECUTOR} is '{name}', which needs the package {package}; install it by `uv pip install "
            f"--require-hashes -r requirements-{name}.lock`, on every node"
        )
