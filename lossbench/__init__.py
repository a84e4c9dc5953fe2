"""Lossbench answers: which loss should I train with, on my data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossbench.api.compare import compare
    from lossbench.api.comparison import Comparison
    from lossbench.errors import GateError, UserError
    from lossbench.params import Tuning
    from lossbench.recipe import Recipe
    from lossbench.verdicts.judging import verdict

    __version__: str

__all__ = ["Comparison", "GateError", "Recipe", "Tuning", "UserError", "__version__", "compare", "verdict"]

WHERE = {
    "Comparison": "lossbench.api.comparison",
    "GateError": "lossbench.errors",
    "Recipe": "lossbench.recipe",
    "Tuning": "lossbench.params",
    "UserError": "lossbench.errors",
    "compare": "lossbench.api.compare",
    "verdict": "lossbench.verdicts.judging",
}
"""Name → module that it is imported from, on its first use: `import lossbench` alone costs nothing."""


def __getattr__(name: str) -> Any:
    """Import what stands here on its first use."""
    if name in WHERE:  # by its name: as an import it would stand in every replicate's key
        return getattr(import_module(WHERE[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("lossbench")
    raise AttributeError(f"module 'lossbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
