"""`lossbench verdict`."""

from lossbench.verdicts.command import arguments, main

__all__ = ["arguments", "main"]
