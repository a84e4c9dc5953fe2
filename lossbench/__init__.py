"""Lossbench answers: which loss should I train with, on my data."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossbench.verdicts.judging import verdict

    __version__: str

__all__ = ["__version__", "verdict"]


def __getattr__(name: str) -> Any:
    """Import what stands here on its first use: `import lossbench` alone costs nothing."""
    if name == "verdict":
        from lossbench.verdicts.judging import verdict

        return verdict
    if name == "__version__":
        from importlib.metadata import version

        return version("lossbench")
    raise AttributeError(f"module 'lossbench' has no attribute '{name}'")
