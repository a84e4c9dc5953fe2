"""Options of whatever ``params.yaml`` names (a source, a model, a task): checked against what it takes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from lossbench.errors import UserError, brief, nearest


class Options(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OptionsT = TypeVar("OptionsT", bound=Options)


def parse_options(model: type[OptionsT], options: Mapping[str, Any], key: str) -> OptionsT:
    """Check options against their model.

    Args:
        model: what is allowed.
        options: as found in params.yaml.
        key: their path there, for the message.

    Raises:
        UserError: naming the key's path, what was found and what is allowed.

    """
    try:
        return model.model_validate(options)
    except ValidationError as error:
        raise UserError(_sentence(error, model, key)) from None


def telling(error: ValidationError) -> ErrorDetails:
    """Choose the error that says most: a required key that was mistyped is both missing and unknown."""
    found = error.errors(include_url=False)
    return next((one for one in found if one["type"] != "missing"), found[0])


def keyword_options(function: Callable[..., Any]) -> type[Options]:
    """Build the options model of a function from its keyword-only parameters."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return create_model(f"{function.__name__}_options", __base__=Options, **fields)


def _sentence(error: ValidationError, model: type[BaseModel], key: str) -> str:
    first = telling(error)
    where = ".".join([key, *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        allowed = nearest(str(first["loc"][0]), model.model_fields) if model.model_fields else "it takes none"
        return f"unknown key '{where}'; {allowed}"
    if first["type"] == "missing":
        return f"key '{where}' is missing"
    if first["type"] == "value_error":
        return f"'{where}': {first['ctx']['error']}"
    return f"'{where}' is {brief(first['input'])}; {first['msg'][0].lower()}{first['msg'][1:]}"
