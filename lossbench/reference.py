"""Every key of ``params.yaml``, told from the models that read it: what ``lossbench params`` prints.

The words stand in the code, below each field; what is allowed and what is taken otherwise, in the field.
"""

import ast
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import BaseMetadata, Ge, Gt, Interval, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lossbench.params import Experiment, Params, ScriptExperiment
from lossbench.scripts.spec import ScriptTask

USER_NAME = "<name>"
"""Stands in a key where the user's own name stands."""
PLAIN = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    Any: "anything",
}


@dataclass(frozen=True)
class Knob:
    """One key.

    Attributes:
        key: its path in ``params.yaml``; ``<name>`` stands for a name of the user's.
        allowed: what may stand there.
        default: what is taken where it is left out; None where it may not be.
        told: what it does.

    """

    key: str
    allowed: str
    default: str | None
    told: str


def knobs(model: type[BaseModel] = Params, prefix: str = "") -> Iterator[Knob]:
    """List the keys of a model and of the models in it, in their order."""
    for name, field in model.model_fields.items():
        if name == "experiments":  # of two kinds; what both have is told once
            both = chain(
                *(knobs(one, f"{prefix}{name}.{USER_NAME}.") for one in (Experiment, ScriptExperiment))
            )
            kept: dict[str, Knob] = {}
            for knob in both:
                kept.setdefault(knob.key, knob)
            yield from kept.values()
            continue
        found, key = inner(field.annotation), f"{prefix}{name}"
        if found is None:
            yield Knob(key, allowed(field), _default(field), told(model).get(name, ""))
            continue
        named, block = found
        yield from knobs(block, f"{key}.{USER_NAME}." if named else f"{key}.")


def inner(annotation: Any) -> tuple[bool, type[BaseModel]] | None:
    """Find the model that an annotation holds, and whether it is one of many under the user's names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return False, annotation
    arguments = get_args(annotation)
    if get_origin(annotation) in (dict, Mapping):
        found = inner(arguments[1])
        return (True, found[1]) if found else None
    for one in arguments if get_origin(annotation) in (Union, types.UnionType) else ():
        if found := inner(one):
            return found
    return None


@cache
def told(model: type[BaseModel]) -> Mapping[str, str]:
    """Read the strings below a model's fields from its source, those of the models that it extends too."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        try:
            tree = ast.parse(inspect.cleandoc(f"\n{inspect.getsource(one)}"))
        except (OSError, TypeError):  # made while the program runs: nothing is written of it
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, text in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def allowed(field: FieldInfo) -> str:
    """Say in words what a field takes."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Any = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (tuple, list):
        return _listed(annotation, metadata)
    if origin is Annotated:
        return _words(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return ", ".join(f"`{_text(one)}`" for one in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _words(one, metadata) for one in arguments)
    if origin in (dict, Mapping):
        return f"mapping of names to: {_words(arguments[1])}"
    return PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation))) + _bounds(metadata)


def _listed(annotation: Any, metadata: Any) -> str:
    items = [one for one in get_args(annotation) if one is not Ellipsis]
    if get_origin(annotation) is list or len(items) == 1:
        return f"list of: {_words(items[0])}{_bounds(metadata, of='of them')}"
    return f"[{', '.join(_words(one) for one in items)}]"


def _bounds(metadata: Any, of: str = "characters") -> str:
    said: list[str] = []
    for one in _flat(metadata):
        match one:
            case Ge():
                said.append(f"≥ {_text(one.ge)}")
            case Gt():
                said.append(f"> {_text(one.gt)}")
            case Le():
                said.append(f"≤ {_text(one.le)}")
            case Lt():
                said.append(f"< {_text(one.lt)}")
            case MinLen():
                said.append(f"at least {one.min_length} {of}")
    return f" ({', '.join(dict.fromkeys(said))})" if said else ""


def _flat(metadata: Any) -> Iterator[BaseMetadata]:
    for one in metadata:
        if isinstance(one, FieldInfo):
            yield from _flat(one.metadata)
        elif isinstance(one, Interval):
            yield from one
        elif isinstance(one, BaseMetadata):
            yield one


def _default(field: FieldInfo) -> str | None:
    return None if field.is_required() else _text(field.get_default(call_default_factory=True))


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else re.sub(r"^$", '""', str(value))


def schema() -> dict[str, Any]:
    """Return the JSON schema of ``params.yaml`` (draft 2020-12), with what each key does."""
    made = Params.model_json_schema()
    for model in _models(Params):
        block = made["$defs"].get(model.__name__, made if model is Params else {})
        for name, text in told(model).items():
            if text and name in block.get("properties", {}):
                block["properties"][name]["description"] = text
    experiment = made["$defs"]["Experiment"]["properties"]
    for name in ("task", "model"):  # a name alone is short for a block of it
        experiment[name] = {"anyOf": [{"type": "string"}, experiment[name]]}
    _beside(made["$defs"]["ScriptExperiment"], made["$defs"]["ScriptTask"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _beside(experiment: dict[str, Any], task: Mapping[str, Any]) -> None:
    """Let the keys of a script's task stand beside ``task: command``, as params take them."""
    own = {name: one for name, one in task["properties"].items() if name in ScriptTask.model_fields}
    named = {"const": own.pop("name")["const"]}
    flat = {
        **experiment,
        "properties": {**experiment["properties"], **own, "task": named},
        "required": [*experiment["required"], *(one for one in task["required"] if one in own)],
    }
    below = dict(experiment)
    experiment.clear()
    experiment |= {"anyOf": [below, flat]}


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    if model is Params:
        yield from (*_models(Experiment), *_models(ScriptExperiment))
    for field in model.model_fields.values():
        if found := inner(field.annotation):
            yield from _models(found[1])
