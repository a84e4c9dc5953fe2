"""Models by name: a function of (input shape, outputs, options) that returns a module."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import create_model
from torch import nn

from lossbench.errors import UserError, nearest
from lossbench.lookup import Lookup
from lossbench.models import foreign
from lossbench.models.names import MODULES
from lossbench.models.weights import head_of, load_weights, put_weights
from lossbench.options import Options, keyword_options, parse_options
from lossbench.plugins import is_path
from lossbench.recipe import Network

Builder = Callable[..., nn.Module]
PRETRAINED: dict[str, Any] = {"weights": (str | None, None), "sha256": (str | None, None)}
"""Options of every model: a local file of weights to begin with, and its hash."""

MODELS: Lookup[Builder] = Lookup("lossbench.models", MODULES)
"""Every model by its name in params.yaml, imported when it is asked for."""
OPTIONS: dict[str, type[Options]] = {}
OWN: dict[str, tuple[str, ...]] = {}
"""Options that a builder itself declares."""


def register(builder: Builder) -> Builder:
    """Make a model known under its function's name; its keyword-only parameters are its options."""
    if not MODELS.enter(builder.__name__, builder, builder.__module__):
        return builder
    own = keyword_options(builder)
    added = {name: field for name, field in PRETRAINED.items() if name not in own.model_fields}
    OWN[builder.__name__] = tuple(own.model_fields)
    OPTIONS[builder.__name__] = create_model(f"{builder.__name__}_options", __base__=own, **added)
    return builder


def check(network: Network, key: str) -> None:
    """Refuse an unknown model or option, and pretrained weights without the hash of their file.

    Raises:
        UserError: naming the key's path, what was found and what is allowed.

    """
    if is_path(network.name):
        foreign.check(network, key)
        return
    if network.name not in MODELS:
        raise UserError(f"'{key}' names no model: '{network.name}'; {nearest(network.name, MODELS)}")
    options = _options(network, key)
    if options["weights"] is not None and options["sha256"] is None:
        raise UserError(f"'{key}.weights' is given without '{key}.sha256', the hash of that file")


def _options(network: Network, key: str) -> dict[str, Any]:
    builder = MODELS[network.name]  # its import enters its options
    return parse_options(OPTIONS[builder.__name__], network.options, key).model_dump()


def build(network: Network, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build a model; its weights come from torch's global generator, which the caller seeds.

    Where ``weights`` names a file (another replicate's, say), they come from there; a head for another number
    of outputs stays as initialised.

    Args:
        network: name and options.
        input_shape: of one sample, as the model sees it: (C, H, W) for images.
        outputs: channels of the head.

    Raises:
        UserError: unknown options, or a file of weights that does not fit.

    """
    check(network, "model")
    if is_path(network.name):
        return foreign.build(network, input_shape, outputs)
    builder, options = MODELS[network.name], _options(network, "model")
    own = OWN[network.name]
    model = builder(input_shape, outputs, **{name: options[name] for name in own})
    if options["weights"] is not None and "weights" not in own:
        file = Path(options["weights"])
        put_weights(model, load_weights(file, options["sha256"]), head_of(model), file)
    return model
