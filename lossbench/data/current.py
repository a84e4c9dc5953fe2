"""Whether a fetched dataset is the one that params.yaml and the user's files would give now."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossbench.documents import read_document
from lossbench.errors import UserError
from lossbench.params import Dataset


def up_to_date(study: Path, name: str, dataset: Dataset) -> bool:
    """Say whether ``data/<name>`` is there and made from these params and these files, as far as looks tell.

    DVC noted in dvc.lock what it was made from: params, and how many files of how many bytes. Where it was
    made by hand, it has to be younger than params.yaml and than all it was made from. In doubt it is not.
    """
    made = study / "data" / name / "dataset.json"
    if not made.is_file():
        return False
    source = study / Path(dataset.path).expanduser()
    noted = _noted(study, name)
    if noted is None:
        return younger(study, name, dataset)
    files = [one.stat() for one in _files(source)]
    place = os.path.realpath(source)
    deps = [one for one in noted.get("deps", ()) if os.path.realpath(study / one.get("path", "")) == place]
    found = (len(files), sum(one.st_size for one in files))
    if [(one.get("nfiles", 1), one.get("size")) for one in deps] != [found]:
        return False
    return bool(_block(noted, name) == dataset.model_dump(mode="json", exclude_unset=True))


def younger(study: Path, name: str, dataset: Dataset) -> bool:
    """Say whether ``data/<name>`` is younger than params.yaml and than all that it was made from."""
    files = _files(study / Path(dataset.path).expanduser())
    youngest = max(one.stat().st_mtime for one in (*files, study / "params.yaml"))
    return (study / "data" / name / "dataset.json").stat().st_mtime > youngest


def _noted(study: Path, name: str) -> dict[str, Any] | None:
    """Read what dvc.lock says of the stage that made it."""
    try:
        found = read_document(study / "dvc.lock", "")["stages"][f"fetch@{name}"]
    except (UserError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _block(noted: dict[str, Any], name: str) -> Any:
    """Return the params that it was made with, as the models read them."""
    try:
        block = noted["params"]["params.yaml"][f"datasets.{name}"]
        return Dataset.model_validate(block).model_dump(mode="json", exclude_unset=True)
    except (KeyError, TypeError, ValueError):
        return None


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    seen = set()
    for where, folders, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(where)) in seen:  # links may lead in a circle
            folders.clear()
            continue
        seen.add(real)
        yield from (one for name in names if (one := Path(where, name)).is_file())
