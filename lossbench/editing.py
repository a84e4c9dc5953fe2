"""Changing params.yaml as a person would: one value, its comments and order kept."""

from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from lossbench.data.sources.listing import user_path
from lossbench.params import Params
from lossbench.system import write_atomically

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
        text, mode = StringIO(), file.stat().st_mode
        yaml.dump(content, text)
        write_atomically(file.resolve(), text.getvalue(), durable=True)
        file.chmod(mode)


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
