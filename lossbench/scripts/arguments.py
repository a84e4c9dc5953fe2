"""Placeholders of a command: ``{seed}`` and its kin become one run's values.

An argument that is nothing but ``{key}``, whose value in the loss's block is a list, becomes as many
arguments as the list has. ``{{`` and ``}}`` stand for braces.
"""

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from lossbench.errors import UserError, brief, nearest

OURS = (
    "loss", "seed", "learning_rate", "weight_decay", "epochs", "budget", "data", "out", "threads", "device",
)  # fmt: skip
"""Placeholders that every run has a value for; further ones are keys of the loss's block."""


def placeholders(command: Sequence[str], key: str) -> list[str]:
    """Name the placeholders of a command, in order, each once.

    Args:
        command: as in params.yaml.
        key: its path there, for messages.

    Raises:
        UserError: for a brace that opens or closes nothing, and for ``{a.b}``, ``{a!r}`` or ``{a:5}``.

    """
    return list(dict.fromkeys(name for one in command for name in _names(one, key)))


def _names(argument: str, key: str) -> list[str]:
    try:
        parts = list(Formatter().parse(argument))
    except ValueError as error:
        raise UserError(
            f"'{key}' has '{argument}': {error}; allowed: placeholders as {{seed}}, and {{{{ or "
            "}}}} for a brace"
        ) from None
    names = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if spec or conversion or not name.isidentifier():
            raise UserError(
                f"'{key}' has '{argument}'; allowed: placeholders that are bare names, as {{seed}}, and "
                "{{ or }} for a brace"
            )
        names.append(name)
    return names


def filled(command: Sequence[str], values: Mapping[str, Any], key: str) -> list[str]:
    """Fill in the placeholders.

    Args:
        command: as in params.yaml.
        values: by name: text, numbers, truth values, or lists of these.
        key: the command's path in params.yaml, for messages.

    Raises:
        UserError: for a name without a value, or a value that cannot stand in an argument.

    """
    made: list[str] = []
    for argument in command:
        names = _names(argument, key)
        if (
            len(names) == 1
            and argument == f"{{{names[0]}}}"
            and isinstance(values.get(names[0]), list | tuple)
        ):
            made += [text(one, names[0], key) for one in values[names[0]]]
            continue
        given = {name: text(_value(values, name, key), name, key) for name in names}
        made.append(argument.format_map(given))
    return made


def _value(values: Mapping[str, Any], name: str, key: str) -> Any:
    if name not in values:
        raise UserError(f"'{key}' has {{{name}}}, for which there is no value; {nearest(name, values)}")
    return values[name]


def text(value: Any, name: str, key: str) -> str:
    """Write a value as an argument: numbers as Python does, truth values as ``true`` and ``false``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    raise UserError(
        f"'{key}' has {{{name}}}, whose value is {brief(value)}; allowed: text, a number, true or false, or "
        "a list of these where the argument is the placeholder alone"
    )


def values_of(
    loss: str,
    block: Mapping[str, Any],
    seed: int,
    optimizer: Mapping[str, float],
    epochs: int,
    whole: int,
) -> dict[str, Any]:
    """What of a run decides its result: loss, seed, rates, epochs.

    Args:
        loss: name under ``losses``.
        block: of the loss.
        seed: of the run.
        optimizer: learning_rate and weight_decay.
        epochs: of this run.
        whole: of a replicate; ``{budget}`` is the share of them that this run has.

    """
    return {
        **block,
        "loss": loss,
        "seed": seed,
        **optimizer,
        "epochs": epochs,
        "budget": float(f"{epochs / whole:.6g}"),
    }
