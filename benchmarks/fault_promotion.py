"""Faults during promotion, for benchmarks.faults: whoever is killed, the right model serves afterwards."""

import random
import time

from ruamel.yaml import YAML

from benchmarks.fault_study import RETRAIN, Kind, Study, end, family, left_running, reading

ALIASES = "SELECT alias, version FROM registered_model_aliases"
VERSIONS = "SELECT version FROM model_versions WHERE status = 'READY' AND current_stage != 'Deleted_Internal'"
FIRST = "1"


def killed(study: Study, chance: random.Random, most: float) -> int:
    """Kill `stages.retrain` and all that it started at a random moment."""
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
    yaml = YAML()
    file = study.folder / "params.yaml"
    content = yaml.load(file.read_text(encoding="utf-8"))
    content["experiments"]["digits"]["recipe"]["epochs"] = 1
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    return killed(study, chance, study.retrain_seconds + study.repro_seconds)


def wrong_promotions(study: Study) -> int:
    """Count what is wrong in the registry: the first version alone is to be there, and champion."""
    with reading(study.folder) as store:
        aliases = [(alias, str(version)) for alias, version in store.execute(ALIASES)]
        versions = [str(version) for (version,) in store.execute(VERSIONS)]
    return (aliases != [("champion", FIRST)]) + (versions != [FIRST])


def kinds() -> list[Kind]:
    """List the kinds of fault during promotion."""
    return [
        Kind("retrain killed, first promotion", "done", at_the_first, RETRAIN, wrong_promotions),
        Kind(
            "retrain killed, worse challenger", "served", with_a_worse_challenger, RETRAIN, wrong_promotions
        ),
    ]
