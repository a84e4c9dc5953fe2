"""Params that were checked and found fine: to check the same again would take torch, and find the same.

What was found fine is noted in the private folder, by the hash of all that a check reads: params, data, our
code and the user's, packages, processor. Where it reads more than that, it is not noted.
"""

import json
import os
import site
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from lossbench.closure import PACKAGE
from lossbench.data.current import up_to_date
from lossbench.execution.declared import records_of
from lossbench.execution.identity import described_hash, machine, user_code
from lossbench.execution.scripted import identity_of
from lossbench.originals import protect
from lossbench.outs import Outs
from lossbench.params import Params, ScriptExperiment
from lossbench.store import FRESH, hashed
from lossbench.system import write_atomically
from lossbench.tracking.store import check_driver, store_of

FILE = "checked.json"


def checked_once(params: Params, outs: Outs, check: Callable[[], None]) -> None:
    """Check params, unless the same were found fine before; what is quickly seen is looked at each time.

    Args:
        params: of the study, in the working directory.
        outs: of the study.
        check: raises what it finds.

    """
    if found_fine(params, outs):
        protect(params, Path())
        records_of(params, Path())
        check_driver(store_of(Path()))
        return
    check()
    key = _key(params, outs)  # after it: it may be the check that is edited meanwhile
    if key is not None:
        write_atomically(_file(outs), json.dumps({"fine": key}))


def found_fine(params: Params, outs: Outs) -> bool:
    """Whether the same params were checked before, by the same code, beside the same data."""
    try:
        noted = json.loads(_file(outs).read_bytes())["fine"]
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or none that can be read: checked anew
        return False
    return bool(noted == _key(params, outs))


def _file(outs: Outs) -> Path:
    return outs.home / FILE


def _key(params: Params, outs: Outs) -> str | None:
    """Hash all that a check reads; None where it depends on more."""
    if os.environ.get(FRESH) == "1" or _looks_further(params, outs):
        return None
    data = [described_hash(outs.data(name).resolve()) for name in params.datasets]
    code = {str(file): sha256(file.read_bytes()).hexdigest() for file in _code(params, outs.study)}
    runs = [
        identity_of(params, arm, outs.study).code.digest for arm in params.arms
    ]  # what lies elsewhere, too
    place = [str(outs.study.resolve()), machine("cpu"), sys.version, _packages(), runs]
    return hashed([params.model_dump(mode="json"), data, code, place])


def _looks_further(params: Params, outs: Outs) -> bool:
    """Whether a check would look at GPUs, at scripts, at files of the user's, or has no data to try on."""
    compute = params.compute
    if compute.device != "cpu" or compute.processes != 1:
        return True
    if any(isinstance(one, ScriptExperiment) for one in params.experiments.values()):
        return True
    return not all(
        one.expectations.extra is None
        and not one.path.startswith("~")
        and (outs.study / one.path).exists()
        and up_to_date(outs.study, name, one)
        for name, one in params.datasets.items()
    )


def _code(params: Params, study: Path) -> Iterator[Path]:
    own = user_code(params, study)
    for folder in (PACKAGE, *([] if own is None else [own])):
        yield from sorted(folder.rglob("*.py"))


def _packages() -> list[str]:
    """Name what is installed, with its version."""
    folders = {Path(one) for one in (*site.getsitepackages(), *sys.path) if one.endswith("-packages")}
    return sorted(one.name for folder in folders if folder.is_dir() for one in folder.glob("*.dist-info"))
