"""A systemd service and its timer, for the whole machine."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from lossbench.errors import UserError
from lossbench.scheduling.address import write_address
from lossbench.scheduling.job import Job, called, expect_own, filled

UNITS = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")
ADDRESSES = Path("/etc/lossbench")
NEEDS = "use cron instead"
KINDS = (".service", ".timer", "-failed.service")
"""What a schedule is made of: the retraining, when it runs, and what tells that it failed."""


def units(job: Job, when: str) -> Mapping[str, str]:
    """Write service, timer and what tells of a failure: file name → content.

    Raises:
        UserError: if ``when`` is no calendar expression of systemd's.

    """
    if "\n" in when or not when.strip():
        raise UserError(
            f"--when is {when!r}; systemd takes an expression such as '*-*-* 03:17:00' or 'daily'"
        )
    words = {key: value.replace("%", "%%") for key, value in job.words(when).items()}
    return {f"{job.name}{kind}": filled(f"systemd/lossbench-retrain{kind}", words) for kind in KINDS}


def service(job: Job, model: str) -> Mapping[str, str]:
    """Write the unit that serves the study's champion: file name → content."""
    name = job.name.replace("lossbench-retrain", "lossbench-serve", 1)
    words = {**job.words(""), "MODEL": model}
    escaped = {key: value.replace("%", "%%") for key, value in words.items()}
    return {f"{name}.service": filled("systemd/lossbench-serve.service", escaped)}


def install_service(job: Job, model: str) -> str:
    """Write the serving unit, and start it now and at every boot.

    Raises:
        UserError: without systemd, or without root's rights.

    """
    content = service(job, model)
    _expect_systemd()
    _expect_own(job, *content)
    address = write_address(job.study, ADDRESSES / f"{job.name}.env")
    _write(content)
    (name,) = content
    called(["systemctl", "enable", "--now", name], NEEDS)
    return f"systemd: {name} serves 'models:/{model}@champion' on 127.0.0.1:5001" + address


def remove_service(job: Job, model: str) -> str:
    """Stop the serving unit and delete it."""
    _expect_systemd()
    (name,) = service(job, model)
    _expect_own(job, name)
    if not (UNITS / name).exists():
        return f"systemd: there is no {name}; nothing to do"
    called(["systemctl", "disable", "--now", name], NEEDS)
    (UNITS / name).unlink(missing_ok=True)
    called(["systemctl", "daemon-reload"], NEEDS)
    return f"systemd: {name} serves no longer"


def _write(content: Mapping[str, str]) -> None:
    for name, text in content.items():
        part = UNITS / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.chmod(0o644)
        part.replace(UNITS / name)
    called(["systemctl", "daemon-reload"], NEEDS)


def install(job: Job, when: str) -> str:
    """Write the units, and start the timer now and at every boot.

    Raises:
        UserError: without systemd, without root's rights, or for an expression that systemd refuses.

    """
    content = units(job, when)
    _expect_systemd()
    if shutil.which("systemd-analyze"):
        called(["systemd-analyze", "calendar", when], NEEDS)
    _expect_own(job, *content)
    address = write_address(job.study, ADDRESSES / f"{job.name}.env")
    _write(content)
    called(["systemctl", "enable", "--now", f"{job.name}.timer"], NEEDS)
    return (
        f"systemd: '{job.name}' runs at '{when}' as {job.user}; `journalctl -u {job.name}` is its log"
        + address
    )


def remove(job: Job) -> str:
    """Stop the timer and delete the units; a retraining at work goes on to its end."""
    _expect_systemd()
    found = [UNITS / f"{job.name}{kind}" for kind in KINDS]
    _expect_own(job, *(one.name for one in found))
    if not any(one.exists() for one in found):
        return f"systemd: no '{job.name}' is scheduled; nothing to do"
    called(["systemctl", "disable", "--now", f"{job.name}.timer"], NEEDS)
    for one in found:
        one.unlink(missing_ok=True)
    called(["systemctl", "daemon-reload"], NEEDS)
    return f"systemd: '{job.name}' is no longer scheduled"


def _expect_own(job: Job, *names: str) -> None:
    for unit in (UNITS / name for name in names):
        content = unit.read_text(encoding="utf-8") if unit.is_file() else ""
        place = re.search(r"^WorkingDirectory=(.*)$", content, re.MULTILINE)
        expect_own(job, Path(place[1].replace("%%", "%")) if place else None)


def _expect_systemd() -> None:
    if not RUNNING.is_dir():
        raise UserError("systemd does not run on this machine (a container?); use cron instead")
    if os.geteuid() != 0:
        raise UserError("units for the whole machine are root's: run this with sudo, or use cron instead")
