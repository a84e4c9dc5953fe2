"""Models by name: a function of (input shape, outputs, options) that returns a module."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lossbench.errors import UserError, nearest
from lossbench.options import Options, keyword_options, parse_options
from lossbench.params import Network

Builder = Callable[..., nn.Module]

MODELS: dict[str, Builder] = {}
OPTIONS: dict[str, type[Options]] = {}


def register(builder: Builder) -> Builder:
    """Make a model known under its function's name; its keyword-only parameters are its options."""
    MODELS[builder.__name__] = builder
    OPTIONS[builder.__name__] = keyword_options(builder)
    return builder


def check(network: Network, key: str) -> None:
    """Refuse an unknown model or option.

    Raises:
        UserError: naming the key's path, what was found and what is allowed.

    """
    if network.name not in MODELS:
        raise UserError(f"'{key}' names no model: '{network.name}'; {nearest(network.name, MODELS)}")
    parse_options(OPTIONS[network.name], network.options, key)


def build(network: Network, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build a model; its weights come from torch's global generator, which the caller seeds.

    Args:
        network: name and options.
        input_shape: of one sample, as the model sees it: (C, H, W) for images.
        outputs: channels of the head.

    """
    check(network, "model")
    options: Mapping[str, Any] = parse_options(OPTIONS[network.name], network.options, "model").model_dump()
    return MODELS[network.name](input_shape, outputs, **options)
