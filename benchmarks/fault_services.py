"""Faults of a team's services: PostgreSQL, S3 or MLflow's server is killed while a study runs on them."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fault_study import REPRO, TRACK, Inject, Kind, Study, end
from benchmarks.services import Service, Services, Team, missing, services

ON_SERVICES = "on a team's services"
"""What all these kinds are called by."""
DOWN = (0.5, 3.0)
"""Seconds that a service is gone."""
Which = Callable[[Team], Service]


def join(study: Study, team: Team) -> None:
    """Have a study record to a team's server, and share its store."""
    study.environment |= team.environment
    study.ask = team.ask


@contextmanager
def own_services() -> Iterator[Services]:
    """Run services of a trial's own."""
    with tempfile.TemporaryDirectory() as folder, services(Path(folder)) as found:
        yield found


def strike(service: Service, chance: random.Random) -> None:
    """Kill a service; it comes back after some seconds."""
    service.kill()
    time.sleep(chance.uniform(*DOWN))
    service.start()


def kill_once(study: Study, service: Service, chance: random.Random, seconds: float) -> None:
    """Kill a service at a random moment of `make repro`; it comes back, whether the command goes on or not.

    Args:
        study: that runs.
        service: is killed.
        chance: of the moment.
        seconds: that an undisturbed run takes.

    """
    process = study.start(*REPRO)
    try:
        time.sleep(chance.uniform(0.05, 0.95) * seconds)
        study.late = process.poll() is not None
        strike(service, chance)
        process.wait(timeout=600)
    finally:
        end(process)


def killing(which: Which) -> Inject:
    """Kill a service while a study runs on services of its own."""

    def inject(study: Study, chance: random.Random) -> int:
        found = study.companions.enter_context(own_services())
        team = study.companions.enter_context(found.team("trial"))
        join(study, team)
        kill_once(study, which(team), chance, study.repro_seconds)
        return 0

    return inject


SERVICES: dict[str, tuple[Which, tuple[str, ...]]] = {
    "PostgreSQL": (lambda team: team.services.postgres.service, TRACK),
    "S3": (lambda team: team.services.s3.service, REPRO),
    "MLflow server": (lambda team: team.mlflow, TRACK),
}
"""What is killed, and the command that completes what it took."""


def kinds() -> list[Kind]:
    """List a kind for each service."""
    return [
        Kind(f"{name} killed, {ON_SERVICES}", "ready", killing(which), recovery, missing=missing, alone=True)
        for name, (which, recovery) in SERVICES.items()
    ]
