"""Telling somebody: a command of the user's gets the attempt as JSON."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict

from lossbench.retraining.records import Attempt

PATIENCE = 30.0
"""Seconds that the command may take."""


def notify(command: Sequence[str], attempt: Attempt) -> str | None:
    """Run ``retraining.notify`` with the attempt as JSON on its standard input.

    ``LOSSBENCH_OUTCOME`` and ``LOSSBENCH_REASON`` stand in its environment.

    Returns:
        None, or one sentence on why it failed: that must not fail the retraining.

    """
    if not command:
        return None
    environment = {**os.environ, "LOSSBENCH_OUTCOME": attempt.outcome, "LOSSBENCH_REASON": attempt.reason}
    content = json.dumps(asdict(attempt))
    try:
        ended = subprocess.run(
            list(command), input=content, text=True, env=environment, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"retraining.notify: '{command[0]}' failed: {error}"
    if ended.returncode:
        return f"retraining.notify: '{command[0]}' exited with {ended.returncode}"
    return None
