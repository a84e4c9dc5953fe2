"""Any module class or factory as a model: ``segmentation_models_pytorch:Unet`` with its keyword arguments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.errors import UserError
from lossbench.models.weights import head_of, load_weights, put_weights
from lossbench.plugins import call_object, load_object, parameters_of
from lossbench.recipe import Network

WEIGHTS = ("weights_file", "sha256")
"""Our own keys beside the object's: a local file of weights to begin with, and its hash."""
OUTPUT_KEYS = ("out", "logits")
"""Under which networks that give a mapping keep what the loss sees."""


class Foreign(nn.Module):
    """A network that somebody else wrote; of a mapping it gives ``out`` (torchvision) or ``logits``."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network = network
        self.name = name

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, *input_shape) → (N, outputs, *spatial).

        Raises:
            UserError: if the network gives no tensor.

        """
        made = self.network(inputs)
        if isinstance(made, Mapping):
            made = next((made[key] for key in OUTPUT_KEYS if key in made), made)
        if not isinstance(made, torch.Tensor):
            raise UserError(
                f"model '{self.name}' returns {_kind(made)}; allowed: a tensor (N, outputs, *spatial), or a "
                f"mapping with {' or '.join(OUTPUT_KEYS)}"
            )
        return made


def build(network: Network, input_shape: tuple[int, ...], outputs: int, key: str = "model") -> nn.Module:
    """Build a model from ``module:Object``.

    Arguments written ``"{outputs}"``, ``"{channels}"``, ``"{height}"`` or ``"{width}"`` are filled in; an
    object that takes ``input_shape`` and ``outputs``, as our own models do, is given them.

    Raises:
        UserError: no such object, an argument that it does not take, weights that do not fit, no module.

    """
    made = load_object(network.name, key)
    if not callable(made):
        raise UserError(f"'{key}' is '{network.name}', which is {_kind(made)}; allowed: a class or function")
    given = {name: value for name, value in network.options.items() if name not in WEIGHTS}
    given = _filled(given, input_shape, outputs, key)
    if {"input_shape", "outputs"} <= set(parameters_of(made)):
        given = {"input_shape": input_shape, "outputs": outputs, **given}
    built = call_object(made, given, network.name, key)
    if not isinstance(built, nn.Module):
        raise UserError(f"'{key}' is '{network.name}', which makes {_kind(built)}; allowed: a torch module")
    if "weights_file" in network.options:
        file = Path(network.options["weights_file"])
        put_weights(built, load_weights(file, str(network.options.get("sha256"))), head_of(built), file)
    return Foreign(built, network.name)


def check(network: Network, key: str) -> None:
    """Refuse what cannot be imported, and pretrained weights without the hash of their file."""
    load_object(network.name, key)
    if ("weights_file" in network.options) != ("sha256" in network.options):
        raise UserError(f"'{key}' needs both 'weights_file' and 'sha256', the hash of that file, or neither")
    for name in WEIGHTS:
        if not isinstance(found := network.options.get(name, ""), str):
            raise UserError(f"'{key}.{name}' is {found!r}; allowed: text, in quotes where it is all digits")


def without_weights(network: Network) -> Network:
    """Drop the file of weights: a trained state replaces them."""
    kept = {key: value for key, value in network.options.items() if key not in WEIGHTS}
    return Network(name=network.name, **kept)


def _filled(value: Any, input_shape: tuple[int, ...], outputs: int, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(one, input_shape, outputs, f"{key}.{name}") for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, input_shape, outputs, key) for one in value]
    if not (isinstance(value, str) and value[:1] == "{" and value[-1:] == "}"):
        return value
    known = {"outputs": outputs, "channels": input_shape[0]}
    if len(input_shape) == 3:
        known |= {"height": input_shape[1], "width": input_shape[2]}
    if value[1:-1] not in known:
        allowed = ", ".join(f"{{{one}}}" for one in known)
        raise UserError(f"'{key}' is '{value}'; allowed in braces: {allowed}")
    return known[value[1:-1]]


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
