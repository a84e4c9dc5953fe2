"""Starts the live shipper beside training: another process, which the training thread never waits for."""

import subprocess
import sys
from pathlib import Path


def spawn_shipper(home: Path) -> None:
    """Start ``lossbench track --live`` in a session of its own (it lowers its own priority).

    Called from the study's folder. It shows running arms in MLflow until no training of this study is
    alive, then exits. A second one finds the first one's lock and exits at once. It outlives a Ctrl-C of
    `dvc repro` for a moment, to close the runs that the Ctrl-C killed.
    """
    log = home / "shipper.log"
    try:
        with log.open("ab") as output:
            subprocess.Popen(
                [sys.executable, "-m", "lossbench", "track", "--live"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        print(f"warning: no live shipper ({error}); `make track` will record the run", file=sys.stderr)
