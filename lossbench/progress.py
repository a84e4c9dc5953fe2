"""Progress bars that also behave in a log file."""

import os
import sys
from typing import Any

from tqdm import tqdm

LINES = "LOSSBENCH_PROGRESS_LINES"
"""Set where several processes show their progress on one terminal: each then writes lines."""


def bar(total: int, label: str, delay: float = 0) -> "tqdm[Any]":
    """Make a bar; on a terminal it moves, in a log file it writes a line every 10 seconds at most.

    With :data:`LINES` in the environment a terminal is treated as a log file.

    What ends within ``delay`` seconds shows none.
    """
    notebook = "ipykernel" in sys.modules  # whose output a carriage return overwrites, too
    moving = (sys.stderr.isatty() or notebook) and LINES not in os.environ
    return tqdm(
        total=total,
        desc=label,
        delay=delay,
        mininterval=0.2 if moving else 10,
        ascii=not moving,
        ncols=None if moving and not notebook else 90,
        dynamic_ncols=moving and not notebook,
        bar_format=None if moving else "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}\n",
    )
