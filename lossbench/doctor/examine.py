"""The whole examination, in the order in which one crash's leftovers stand in the way of another's repair."""

from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from lossbench.doctor.finding import Finding
from lossbench.doctor.journals import examine_journals
from lossbench.doctor.leftovers import examine_leftovers
from lossbench.doctor.living import at_work
from lossbench.doctor.lockfile import examine_lockfile
from lossbench.doctor.repository import examine_locks, find_repository
from lossbench.doctor.runs import examine_database, examine_runs
from lossbench.errors import UserError
from lossbench.lock import REPRO_LOCK, held_elsewhere
from lossbench.params import load_params
from lossbench.tracking.outs import home_of
from lossbench.tracking.server import RefusedError, ServerGoneError

LOCKS = (REPRO_LOCK, "retraining.lock")
"""Of commands that run stages; on a shared folder another machine may be at one."""


@dataclass
class Examination:
    """What was found.

    Attributes:
        findings: to be repaired.
        busy: living processes; what they may hold was not looked at.
        unseen: sentences on what could not be looked at.

    """

    findings: list[Finding] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


def examine(root: Path, undisturbed: bool = True, waiting: Container[str] = ()) -> Examination:
    """Examine a study; nothing is changed.

    Files of DVC and of stages are left alone while one of their processes lives. Journals and MLflow runs
    name their owners and are judged one by one.

    Args:
        root: the study's folder.
        undisturbed: DVC's locks are ours (:func:`lossbench.doctor.repository.guarded`).
        waiting: modules whose processes do nothing before ours has ended.

    """
    made = examine_files(root, undisturbed, waiting)
    made.findings += examine_journals(home_of(root))
    made.findings += examine_database(root)
    _examine_runs(root, made)
    return made


def examine_files(root: Path, undisturbed: bool = True, waiting: Container[str] = ()) -> Examination:
    """Examine what stands in the way of the chain alone: DVC's locks and lock file, half-written files."""
    made = Examination()
    repository = find_repository(root)
    home = home_of(root)
    elsewhere = (held_elsewhere(home / name) for name in LOCKS)
    made.busy = [*at_work(root, repository or root, waiting), *filter(None, elsewhere)]
    if not made.busy and not undisturbed:
        made.busy = ["a process that holds DVC's lock"]
    if not made.busy:
        if repository is not None:
            made.findings += examine_locks(repository)
        made.findings += examine_lockfile(root, home / "doctor")
        made.findings += examine_leftovers(root, home)
    return made


def _examine_runs(root: Path, made: Examination) -> None:
    if any("no readable database" in one.what for one in made.findings):
        return
    try:
        made.findings += examine_runs(load_params(root / "params.yaml"), root)
    except UserError as error:
        made.unseen.append(f"MLflow's runs: {error}")
    except (ServerGoneError, RefusedError) as error:
        made.unseen.append(f"MLflow's runs: {error}")
