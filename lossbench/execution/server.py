"""What the workers' server does first, before it imports torch: it ends with who started it, and only then.

It would otherwise go on importing for seconds after its driver was killed; and a SIGTERM to the whole group,
as systemd sends it, would end it at once and its workers with it, before they have written their checkpoints.
"""

import os
import signal
import sys

from lossbench.lifetime import die_with_parent

WORK = "lossbench.execution.work"
"""What is imported next, and takes seconds."""
DRIVER = "LOSSBENCH_DRIVER"
"""Variable that holds the process number of who starts the server."""


def stay_until_the_driver_ends() -> None:
    """Leave SIGTERM and Ctrl-C to the driver and the workers, and end when the driver is gone."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, _driver_gone)
    die_with_parent(signal.SIGUSR1)
    if os.getppid() != int(os.environ[DRIVER]):  # it ended before we could ask
        sys.exit(0)


def _driver_gone(*_: object) -> None:
    """End at once while importing; a server that serves is told by its pipe, and ends in order."""
    if not hasattr(sys.modules.get(WORK), "work"):
        os._exit(0)


if any("multiprocessing.forkserver" in one for one in sys.orig_argv):  # imported by it, and by nobody else
    stay_until_the_driver_ends()
