"""Faults during promotion, for benchmarks.faults: whoever is killed, the right model serves afterwards."""

import random
import time

from benchmarks.fault_study import (
    EPOCHS,
    RETRAIN,
    Kind,
    Study,
    end,
    family,
    left_running,
    reading,
    set_epochs,
)

ALIASES = "SELECT alias, version FROM registered_model_aliases"
VERSIONS = "SELECT version FROM model_versions WHERE status = 'READY' AND current_stage != 'Deleted_Internal'"
FIRST, SECOND = "1", "2"


def killed(study: Study, chance: random.Random, most: float) -> int:
    """Kill `lossbench retrain` and all that it started at a random moment."""
    process = study.start(*RETRAIN)
    time.sleep(chance.uniform(1.0, most))
    children = family(process)
    end(process)
    return left_running(children)


def at_the_first(study: Study, chance: random.Random) -> int:
    """Kill the first retraining: there is no champion yet, and the challenger passes the floor."""
    return killed(study, chance, study.retrain_seconds)


def with_a_worse_challenger(study: Study, chance: random.Random) -> int:
    """Kill the retraining of a model that is trained for one epoch only and must not take the place."""
    set_epochs(study, 1)
    return killed(study, chance, study.retrain_seconds + study.repro_seconds)


def with_a_better_challenger(study: Study, chance: random.Random) -> int:
    """Kill the retraining of a model that is trained in full and must take a weak champion's place."""
    set_epochs(study, EPOCHS)
    return killed(study, chance, study.retrain_seconds + study.repro_seconds)


def registry(study: Study) -> tuple[list[tuple[str, str]], list[str]]:
    """Read the aliases and the versions that stand in the registry."""
    with reading(study.folder) as store:
        aliases = sorted((alias, str(version)) for alias, version in store.execute(ALIASES))
        versions = sorted(str(version) for (version,) in store.execute(VERSIONS))
    return aliases, versions


def first_stays(study: Study) -> int:
    """Count what is wrong in the registry: the first version alone is to be there, and champion."""
    aliases, versions = registry(study)
    return (aliases != [("champion", FIRST)]) + (versions != [FIRST])


def second_takes_over(study: Study) -> int:
    """Count what is wrong in the registry: the second version is to be champion, the first the former."""
    aliases, versions = registry(study)
    return (aliases != [("champion", SECOND), ("previous_champion", FIRST)]) + (versions != [FIRST, SECOND])


def kinds() -> list[Kind]:
    """List the kinds of fault during promotion."""
    return [
        Kind("retrain killed, first promotion", "done", at_the_first, RETRAIN, first_stays),
        Kind("retrain killed, worse challenger", "served", with_a_worse_challenger, RETRAIN, first_stays),
        Kind(
            "retrain killed, better challenger", "weak", with_a_better_challenger, RETRAIN, second_takes_over
        ),
    ]
