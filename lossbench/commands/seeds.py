"""`lossbench seeds`."""

from lossbench.verdicts.seeds import arguments, main

__all__ = ["arguments", "main"]
