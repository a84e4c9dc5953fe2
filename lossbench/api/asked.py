"""From the arguments of ``lossbench.compare`` to the content of a params.yaml."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pydantic import BaseModel

from lossbench.api.code import Code, plain, unwrapped
from lossbench.errors import UserError, nearest
from lossbench.losses.names import MODULES as LOSSES
from lossbench.models.names import MODULES as MODELS
from lossbench.params import NETWORK, Params, Tuning, parse_params
from lossbench.recipe import Compute, Recipe

WHO = "lossbench.compare"
"""How a message begins that speaks of its arguments."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
TUNING_SEED = 1000
SPREAD = 10**0.5
"""Factor around the recipe's learning rate of a search that says no range."""


@dataclass(frozen=True)
class Asked:
    """The arguments that are no data, as given; see :func:`lossbench.compare`."""

    model: Any
    losses: Any
    task: Any
    metric: Any
    margin: Any
    seeds: Any
    recipe: Any
    tuning: Any
    budgets: Any
    looks: Any
    baseline: Any
    level: Any
    device: Any
    expectations: Any
    name: Any

    def expect_all(self, known: Mapping[str, str]) -> None:
        """Refuse a call that lacks what has no default.

        Args:
            known: argument → what is expected.

        Raises:
            UserError: naming the first.

        """
        for one in fields(self):
            if getattr(self, one.name) is None and one.name in known:
                raise UserError(f"{one.name} is missing; expected {known[one.name]}")


def params_of(asked: Asked, code: Code, training: int, quiet: Sequence[str]) -> Params:
    """Make params of the call.

    Args:
        asked: the arguments.
        code: takes the objects that it names.
        training: samples to train on, for the batch size where no recipe is given.
        quiet: expectations that are told, and stop nothing.

    Raises:
        UserError: naming the argument, what was found and what is allowed.

    """
    if not NAME.fullmatch(str(asked.name)):
        raise UserError(f"name is {asked.name!r}; allowed: letters, digits, '_' and '-'")
    losses = losses_of(asked.losses, code)
    name, baseline = str(asked.name), asked.baseline or next(iter(losses))
    if baseline not in losses:
        raise UserError(
            f"baseline is {baseline!r}, which is none of losses; {nearest(str(baseline), losses)}"
        )
    recipe, seeds = _recipe(asked, training), _seeds(asked.seeds)
    content: dict[str, Any] = {
        "root": ".",
        "code": code.folder.name,
        "datasets": {name: {"source": "python", "path": "data", "expectations": _expectations(asked, quiet)}},
        "experiments": {
            name: {
                "task": plain(_block(asked.task), "task"),
                "dataset": name,
                "model": _model(asked.model, code),
                "recipe": recipe,
                "metric": asked.metric,
                "margin": plain(asked.margin, "margin"),
            }
        },
        "losses": losses,
        "arms": {f"{name}-{loss}": {"experiment": name, "dataset": name, "loss": loss} for loss in losses},
        "seeds": seeds,
        "compute": {"device": asked.device}
        if isinstance(asked.device, str)
        else plain(_block(asked.device), "device"),
        "tuning": _tuning(asked.tuning, recipe, seeds),
        "comparison": {"baseline": baseline, "level": asked.level, "looks": list(asked.looks or ())},
    }
    return parse_params(content, WHO)


def told(error: UserError, name: str) -> UserError:
    """Say a sentence about params in terms of the call's arguments."""
    text = str(error)
    for before, after in (
        (f"experiments.{name}.{NETWORK}.", ""),
        (f"experiments.{name}.", ""),
        (f"datasets.{name}.splits: ", ""),
        ("add data or raise its share", "add data, or hand that split over"),
        (f"datasets.{name}.", ""),
        (f"experiment '{name}': ", ""),
        ("comparison.looks", "looks"),
        ("comparison.baseline", "baseline"),
        ("comparison.level", "level"),
        ("recipe.budgets", "budgets"),
        ("compute.device", "device"),
        ("params.yaml", WHO),
    ):
        text = text.replace(before, after)
    return UserError(text if text.startswith(f"{WHO}: ") else f"{WHO}: {text}")


def losses_of(given: Any, code: Code) -> dict[str, Any]:
    """Turn ``losses=`` into blocks: names, mappings, classes, functions, or objects that can be made again.

    Raises:
        UserError: naming the loss.

    """
    if isinstance(given, list | tuple | set) and all(isinstance(one, str) for one in given):
        given = {one: one for one in given}
    if not isinstance(given, Mapping) or not given:
        raise UserError(
            'losses is missing; expected a mapping such as {"ce": "cross_entropy", "mine": my_loss}'
        )
    return {str(name): _loss(one, str(name), f"losses.{name}", code) for name, one in given.items()}


def _loss(given: Any, name: str, key: str, code: Code) -> dict[str, Any]:
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping):
        named = {"name", "sum"} & given.keys() or name not in LOSSES
        return _resolved(given if named else {"name": name, **given}, key, code)
    function, keywords = unwrapped(given, key)
    return {**_object(function, key, code), **plain(keywords, key)}


def _resolved(block: Mapping[str, Any], key: str, code: Code) -> dict[str, Any]:
    """Name objects within a block, the parts of a sum included."""
    made: dict[str, Any] = {}
    for name, value in block.items():
        where = f"{key}.{name}"
        if name == "name" and not isinstance(value, str):
            function, keywords = unwrapped(value, where)
            made |= {**_object(function, where, code), **plain(keywords, where)}
        elif isinstance(value, Mapping):
            made[name] = _resolved(value, where, code)
        else:
            made[name] = plain(value, where)
    return made


def _object(made: Any, key: str, code: Code) -> dict[str, Any]:
    """Turn a class, function or object into a block."""
    if isinstance(made, type) or inspect.isroutine(made):
        return {"name": _ours(made, LOSSES, "lossbench.losses") or code.name_of(made, key)}
    kind = type(made)
    own = _ours(kind, LOSSES, "lossbench.losses")
    given = _stated(made) if own else rebuilt(made, key)
    return {"name": own or code.name_of(kind, key), **given}


def _ours(made: Any, table: Mapping[str, str], package: str) -> str | None:
    """Name a loss or model of ours as params.yaml does."""
    module, _, last = str(getattr(made, "__module__", "")).rpartition(".")
    name = made.__dict__.get("name") if isinstance(made, type) else getattr(made, "__name__", None)
    return str(name) if module == package and table.get(str(name)) == last else None


def _stated(loss: Any) -> dict[str, Any]:
    """Parameters of a loss of ours that are not as they are by default."""
    found = {name: getattr(loss, name) for name in type(loss).declared}
    return {
        name: plain(value, name)
        for name, value in found.items()
        if plain(value, name) != plain(type(loss).declared[name].default, name)
    }


def rebuilt(made: Any, key: str) -> dict[str, Any]:
    """Find the arguments that an object was made with, from its attributes; proven by making it again.

    Raises:
        UserError: if that does not give the same object.

    """
    kind = type(made)
    hint = (
        f"{key}: a {kind.__name__} object, whose arguments cannot be read off it; pass the class with its "
        f"arguments, {{'name': {kind.__name__}, …}}"
    )
    if not callable(made):
        raise UserError(f"{key}: a {kind.__name__}; expected a loss's name, a mapping, a class or a function")
    given = {}
    try:
        for one in inspect.signature(kind).parameters.values():
            if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and hasattr(made, one.name):
                value = getattr(made, one.name)
                if value is not one.default and value != one.default:
                    given[one.name] = plain(value, key)
        again = kind(**given)
    except Exception:  # of whatever kind: it cannot be made again from what it shows
        raise UserError(hint) from None
    if not _alike(made, again):
        raise UserError(hint)
    return given


def _alike(one: Any, other: Any) -> bool:
    """Whether two objects hold the same."""
    import torch

    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(_alike(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(_alike, one, other))
    if hasattr(one, "__dict__") and not isinstance(one, type) and not inspect.isroutine(one):
        return type(one) is type(other) and _alike(vars(one), vars(other))
    return bool(one is other or one == other)


def _model(given: Any, code: Code) -> dict[str, Any]:
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping):
        if isinstance(given.get("name"), str):
            return dict(plain(given, "model"))
        block = dict(given)
        made, keywords = unwrapped(block.pop("name", None), "model.name")
        return {"name": _network(made, code), **plain({**keywords, **block}, "model")}
    made, keywords = unwrapped(given, "model")
    return {"name": _network(made, code), **plain(keywords, "model")}


def _network(made: Any, code: Code) -> str:
    if hasattr(made, "state_dict") and not isinstance(made, type):
        kind = type(made).__name__
        raise UserError(
            f"model: a {kind} that is built already, but each replicate begins with weights of its own; "
            f"pass the class, model={kind}, or a function that builds it"
        )
    if not callable(made):
        raise UserError(f"model: a {type(made).__name__}; expected a class, a function, or a name")
    return _ours(made, MODELS, "lossbench.models") or code.name_of(made, "model")


def _block(given: Any) -> Any:
    if isinstance(given, BaseModel):
        return given.model_dump(mode="json")
    return {"name": given} if isinstance(given, str) else given


def _recipe(asked: Asked, training: int) -> dict[str, Any]:
    given = asked.recipe
    if given is None:
        given = {
            "epochs": 20,
            "batch_size": max(2, min(32, training // 4)),
            "optimizer": {"name": "adam", "learning_rate": 0.003},
            "schedule": {"name": "cosine"},
            "drop_last": False,
        }
    elif isinstance(given, Recipe):
        given = given.model_dump(mode="json")
    elif not isinstance(given, Mapping):
        raise UserError(
            f"recipe is a {type(given).__name__}; expected lossbench.Recipe(epochs=…, batch_size=…), "
            f"or a dict"
        )
    return {**given, **({"budgets": list(asked.budgets)} if asked.budgets else {})}


def _seeds(given: Any) -> list[int]:
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1:
            raise UserError(f"seeds is {given}; expected how many, or a list of them")
        return list(range(given))
    if isinstance(given, Sequence) and not isinstance(given, str):
        return list(given)
    if isinstance(given, range):
        return list(given)
    raise UserError(f"seeds is {given!r}; expected how many, or a list of them")


def _tuning(given: Any, recipe: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """A number of points is short for a search of the learning rate around the recipe's."""
    if given is None:
        return {"trials": 0}
    if isinstance(given, Tuning):
        return given.model_dump(mode="json", exclude_unset=True)
    if isinstance(given, int) and not isinstance(given, bool):
        rate = Recipe.model_validate(recipe).optimizer.learning_rate
        around = {"low": float(f"{rate / SPREAD:.3g}"), "high": float(f"{rate * SPREAD:.3g}")}
        seed = next(one for one in _numbers(TUNING_SEED) if one not in seeds)
        return {"trials": given, "seeds": [seed], "learning_rate": around} if given else {"trials": 0}
    if isinstance(given, Mapping):
        return dict(plain(given, "tuning"))
    raise UserError(
        f"tuning is a {type(given).__name__}; expected a number of points, lossbench.Tuning(…), or a dict"
    )


def _numbers(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def _expectations(asked: Asked, quiet: Sequence[str]) -> dict[str, Any]:
    given = dict(plain(asked.expectations or {}, "expectations"))
    return {**given, "severities": {**dict.fromkeys(quiet, "info"), **given.get("severities", {})}}


__all__ = ["WHO", "Asked", "Compute", "losses_of", "params_of", "told"]
