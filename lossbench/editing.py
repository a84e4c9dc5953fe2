"""Changing params.yaml as a person would: one value, its comments and order kept."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from lossbench.data.sources.listing import user_path
from lossbench.params import Params

Say = Callable[[str], None]


def write_values(file: Path, values: Mapping[tuple[str, ...], Any]) -> None:
    """Write values, each under its path of keys, where they differ from what stands there.

    Args:
        file: params.yaml.
        values: path of keys → value; all but the last key are there.

    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(file.read_text(encoding="utf-8"))
    changed = False
    for (*above, last), value in values.items():
        block = content
        for key in above:
            block = block[key]
        if block.get(last) != value:
            block[last] = value
            changed = True
    if changed:
        _replace(file.resolve(), lambda stream: yaml.dump(content, stream))


def _replace(file: Path, write: Callable[[TextIO], None]) -> None:
    """Write a file anew; the former one is there until the new one is whole."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(file, part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write_out_homes(params: Params, study: Path, say: Say = print) -> Params:
    """Write ``~`` out in the paths that DVC watches, for DVC knows no home folder.

    Args:
        params: of the study.
        study: its folder.
        say: hears a line for each path.

    Returns:
        The params as they are now.

    Raises:
        UserError: where it names nobody's home.

    """
    found = {
        name: str(user_path(one.path, f"datasets.{name}"))
        for name, one in params.datasets.items()
        if one.path.startswith("~")
    }
    if not found:
        return params
    write_values(study / "params.yaml", {("datasets", name, "path"): path for name, path in found.items()})
    for name, path in found.items():
        say(f"params.yaml: 'datasets.{name}.path' written out for DVC, which knows no ~: {path}")
    datasets = {
        name: one.model_copy(update={"path": found.get(name, one.path)})
        for name, one in params.datasets.items()
    }
    return params.model_copy(update={"datasets": datasets})
