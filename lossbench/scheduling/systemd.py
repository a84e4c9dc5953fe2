"""A systemd service and its timer, for the whole machine."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lossbench.errors import UserError
from lossbench.scheduling.job import Job, called, filled

UNITS = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")
NEEDS = "use cron instead"


def units(job: Job, when: str) -> Mapping[str, str]:
    """Write service and timer: file name → content.

    Raises:
        UserError: if ``when`` is no calendar expression of systemd's.

    """
    if "\n" in when or not when.strip():
        raise UserError(
            f"--when is {when!r}; systemd takes an expression such as '*-*-* 03:17:00' or 'daily'"
        )
    words = {key: value.replace("%", "%%") for key, value in job.words(when).items()}
    return {
        f"{job.name}{kind}": filled(f"systemd/lossbench-retrain{kind}", words)
        for kind in (".service", ".timer")
    }


def install(job: Job, when: str) -> str:
    """Write the units, and start the timer now and at every boot.

    Raises:
        UserError: without systemd, without root's rights, or for an expression that systemd refuses.

    """
    content = units(job, when)
    _expect_systemd()
    if shutil.which("systemd-analyze"):
        called(["systemd-analyze", "calendar", when], NEEDS)
    for name, text in content.items():
        part = UNITS / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.chmod(0o644)
        part.replace(UNITS / name)
    called(["systemctl", "daemon-reload"], NEEDS)
    called(["systemctl", "enable", "--now", f"{job.name}.timer"], NEEDS)
    return f"systemd: '{job.name}' runs at '{when}' as {job.user}; `journalctl -u {job.name}` is its log"


def remove(job: Job) -> str:
    """Stop the timer and delete the units; a retraining at work goes on to its end."""
    _expect_systemd()
    found = [UNITS / f"{job.name}{kind}" for kind in (".timer", ".service")]
    if not any(one.exists() for one in found):
        return f"systemd: no '{job.name}' is scheduled; nothing to do"
    called(["systemctl", "disable", "--now", f"{job.name}.timer"], NEEDS)
    for one in found:
        one.unlink(missing_ok=True)
    called(["systemctl", "daemon-reload"], NEEDS)
    return f"systemd: '{job.name}' is no longer scheduled"


def _expect_systemd() -> None:
    if not RUNNING.is_dir():
        raise UserError("systemd does not run on this machine (a container?); use cron instead")
    if os.geteuid() != 0:
        raise UserError("units for the whole machine are root's: run this with sudo, or use cron instead")
