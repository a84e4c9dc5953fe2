"""What the chain's stages depend on beside their data: code, arms and seeds, a file for each stage.

DVC watches these files instead of whole folders of code. So a new loss reruns no arm, and an arm of one
experiment no evaluation of another.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossbench.closure import Closure, closure, versions_of
from lossbench.data import sources
from lossbench.data.sources import names as source_names
from lossbench.execution.declared import seeds_of, seeds_told
from lossbench.execution.identity import module_of, user_code, versions
from lossbench.execution.scripted import identity_of
from lossbench.outs import Outs
from lossbench.params import Params
from lossbench.written import CHECKED, make_room

FETCH = "lossbench.data.fetching"
VALIDATE = "lossbench.data.expectations.run"
REPORT = "lossbench.reporting.write"


def write_lineage(params: Params, outs: Outs) -> None:
    """Write ``reports/checked``."""
    make_room(outs.checked, CHECKED)
    for file, content in lineage(params, outs.study).items():
        path = outs.checked / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def differing(params: Params, outs: Outs) -> list[str]:
    """Name the files of ``reports/checked`` in which other code or packages stand than those of now."""
    return [name for name, now in lineage(params, outs.study).items() if written_in(outs, name) != now]


def written_in(outs: Outs, name: str) -> object:
    """Read what stands in a file of ``reports/checked``."""
    try:
        return json.loads((outs.checked / name).read_bytes())
    except (FileNotFoundError, ValueError):  # not checked yet, or half written by who was killed
        return None


def lineage(params: Params, study: Path) -> dict[str, dict[str, Any]]:
    """Say, for each file of ``reports/checked``, what is to stand in it."""
    user = user_code(params, study)
    made: dict[str, dict[str, Any]] = {}
    for name, dataset in params.datasets.items():
        module = module_of(dataset.source, sources, source_names.MODULES)
        made[f"datasets/{name}.json"] = _code(closure([FETCH, module], user), packages=True)
    made["validation.json"] = _code(closure([VALIDATE], user), packages=True)
    seeds = seeds_of(params, study)
    identities = {name: identity_of(params, name, study) for name in params.arms}
    for name, one in identities.items():
        made[f"arms/{name}.json"] = {**_code(one.code), "versions": versions(one.code)}
        if params.comparison.looks:  # without, DVC watches `seeds` itself
            made[f"arms/{name}.json"]["seeds"] = list(seeds[name])
    for name in params.experiments:
        arms = {arm: params.arms[arm].loss for arm in params.arms_of(name)}
        code = identities[next(iter(arms))].scoring
        made[f"experiments/{name}.json"] = {
            **_code(code),
            "versions": versions(code),
            "arms": arms,
            "seeds": seeds_told(params, study, name),
        }
    made["report.json"] = _code(closure([REPORT], user), packages=True)
    return made


def _code(code: Closure, packages: bool = False) -> dict[str, Any]:
    content: dict[str, Mapping[str, str]] = {"code": dict(code.files)}
    if packages:
        content["versions"] = versions_of(code.foreign)
    return content
