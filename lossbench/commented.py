"""``params.yaml`` with every knob explained where it stands: what is set, and in comments what might be.

The words are those of ``lossbench params``: they stand in the code, below each field. A comment that begins
with a key says what is taken as long as it is one; without its ``#`` it means the same.
"""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import getdoc
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from lossbench.losses.names import MODULES
from lossbench.params import Experiment, Params, ScriptExperiment
from lossbench.recipe import Open
from lossbench.reference import allowed, inner, told
from lossbench.scripts.spec import COMMAND, ScriptRecipe, ScriptTask

WIDTH = 110
"""Characters of a line; a comment that does not fit beside its key stands above it."""
COLUMN = 32
"""Where comments beside a key begin, if the line is shorter."""


@dataclass(frozen=True)
class At:
    """Where is written: how deep, and whether in a comment."""

    depth: int = 0
    off: bool = False

    @property
    def below(self) -> "At":
        """One deeper."""
        return replace(self, depth=self.depth + 1)

    def line(self, text: str, about: str) -> Iterator[str]:
        """Write a line with what it is about: beside it, or above."""
        line = "  " * self.depth + ("# " if self.off else "") + text
        whole = f"{line:<{COLUMN}}  # {about}"
        if about and len(whole) > WIDTH:
            yield from self.words(about)
        yield whole if about and len(whole) <= WIDTH else line

    def words(self, about: str) -> Iterator[str]:
        """Write comments of their own, wrapped; none begins like a key."""
        start = "  " * self.depth + "#"
        line = start
        for word in re.findall(r"(?:\S+\s+)?\S+:(?=\s)|\S+", about):
            if len(line) + len(word) >= WIDTH:
                yield line
                line = start
            line += f" {word}"
        yield line


def commented(content: Mapping[str, Any], examples: Mapping[str, Any]) -> str:
    """Write params.

    Args:
        content: what is set; :func:`lossbench.params.parse_params` takes it.
        examples: top-level key → what is shown in comments where it is not set.

    """
    taken = Params.model_validate(content)
    blocks = [
        "\n".join(_field(Params, name, one, content, getattr(taken, name), At(), examples.get(name)))
        for name, one in Params.model_fields.items()
    ]
    return "\n\n".join(blocks) + "\n"


def _field(
    model: type[BaseModel],
    name: str,
    field: FieldInfo,
    content: Mapping[str, Any],
    taken: Any,
    at: At,
    example: Any = None,
) -> Iterator[str]:
    """Write one key: its block, its value, or in a comment what is taken without it, or an example."""
    if name not in content:
        at = replace(at, off=True)
    value = content.get(name, example or _unset(taken))
    found = (True, Experiment) if name == "experiments" else inner(field.annotation)
    about = _about(model, name, field, value, found)
    if not isinstance(value, Mapping) or (name == "optimizer" and model is ScriptRecipe):
        yield from at.line(f"{name}: {_flow(value)}", about)
    elif name == "losses":
        yield from at.line(f"{name}:", about)
        for each, loss in value.items():
            yield from at.below.line(f"{each}: {_flow(loss)}", _loss_told(loss))
        yield from at.below.words(f"By name there are {', '.join(MODULES)}.")
    elif found is None or (found[0] and not value):
        yield from at.line(f"{name}: {_flow(value)}", about)
    else:
        named, below = found
        yield from at.line(f"{name}:", about)
        for each, inside in value.items() if named else ():
            yield from _entry(below, each, inside, at.below)
        if not named:
            yield from _block(below, value, at.below)


def _entry(model: type[BaseModel], name: str, content: Mapping[str, Any], at: At) -> Iterator[str]:
    """Write one of several of a kind: an arm on a line, a dataset or an experiment as a block."""
    if all(key in content for key in model.model_fields):  # nothing more could be said
        yield from at.line(f"{name}: {_flow(content)}", "")
        return
    scripted = model is Experiment and content.get("task") == COMMAND
    yield from at.line(f"{name}:", "")
    yield from _block(ScriptExperiment if scripted else model, content, at.below)


def _block(model: type[BaseModel], content: Mapping[str, Any], at: At) -> Iterator[str]:
    """Write the keys of a model; of an open one what is set, its options among it, comes first."""
    fields = _fields(model)
    owners = {name: ScriptTask if name in ScriptTask.model_fields else model for name in fields}
    if model is not ScriptExperiment:
        owners = dict.fromkeys(fields, model)
    whole: Any = model.model_validate(content)
    taken = {name: getattr(whole.task if one is ScriptTask else whole, name) for name, one in owners.items()}
    first = [name for name in fields if name in content] if issubclass(model, Open) else list(fields)
    for name in first:
        yield from _field(owners[name], name, fields[name], content, taken[name], at)
    for name, value in content.items():
        if name not in fields:
            yield from at.line(f"{name}: {_flow(value)}", "")
    for name, one in fields.items():
        if name not in first:
            yield from _field(owners[name], name, one, content, taken[name], at)


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """List a model's keys as they are written: a script's task stands beside ``task: command``."""
    known = dict(model.model_fields)
    if model is ScriptRecipe:
        return {name: known[name] for name in ("epochs", "optimizer")}
    if model is not ScriptExperiment:
        return known
    below = {name: one for name, one in ScriptTask.model_fields.items() if name != "name"}
    return {"task": known.pop("task"), **below} | {
        name: one for name, one in known.items() if name != "model"
    }


def _unset(taken: Any) -> Any:
    """What is taken without a key; of a block of knobs an empty one, for each has its own."""
    return {} if isinstance(taken, BaseModel) else taken


def _about(
    model: type[BaseModel],
    name: str,
    field: FieldInfo,
    value: Any,
    found: tuple[bool, type[BaseModel]] | None,
) -> str:
    """Say what a key does, by its own words or those of the block that stands there, and what is allowed."""
    said = [told(model).get(name, "")]
    if found is not None and not said[0]:
        said = [" ".join((getdoc(found[1]) or "").partition("\n\n")[0].split())]
    if found is not None and value is None:
        said.append(f"Its keys: {', '.join(found[1].model_fields)}.")
    words = allowed(field) if "Literal" in str(field.annotation) else ""
    if words.startswith("`"):
        said.append(f"Allowed: {words.replace('`', '')}.")
    return " ".join(one for one in said if one)


def _loss_told(block: Mapping[str, Any]) -> str:
    """Say what a loss is, by its docstring's first line."""
    from lossbench.losses.registry import REGISTRY

    name = str(block.get("name"))
    return (getdoc(REGISTRY[name]) or "").partition("\n")[0] if name in REGISTRY else ""


def _flow(value: Any) -> str:
    """Write a value on one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = True, 10**6
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares None alone
    stream = io.StringIO()
    yaml.dump({"": _plain(value)}, stream)
    return stream.getvalue().strip().removeprefix("{'': ").removesuffix("}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
