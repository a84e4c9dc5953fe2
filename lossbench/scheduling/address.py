"""The tracking server's address belongs to the installed schedule: a tick has no shell that would know it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from lossbench.errors import UserError
from lossbench.tracking.store import expect_remembered

PREFIX = "MLFLOW_TRACKING_"
WRITABLE = re.compile(r"[^'\\\n\r\0]*")
"""What stands between single quotes alike to a shell and to systemd."""


def given(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Pick address and credentials of the tracking server out of an environment."""
    return {key: value for key, value in environment.items() if key.startswith(PREFIX) and value}


def write_address(study: Path, file: Path) -> str:
    """Write them where the installed schedule reads them, for nobody's eyes but its user's; says so.

    Args:
        study: its folder.
        file: becomes ours alone (mode 0600); kept as it is where the shell names no server.

    Raises:
        UserError: the study is recorded on a server, and no address, or another, is given; or a value
            cannot stand in the file.

    """
    settings = given()
    if PREFIX + "URI" not in settings:
        if not file.exists():
            expect_remembered(study)
        return f"; its tracking address stands in {file}" if file.exists() else ""
    expect_remembered(study)
    for key, value in settings.items():
        if not WRITABLE.fullmatch(value):
            raise UserError(
                f"{key}: quotes, backslashes and line ends cannot stand in {file}; write it by hand"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123  # of a descriptor
        stream.writelines(f"{key}='{value}'\n" for key, value in sorted(settings.items()))
    part.replace(file)
    return f"; its tracking address stands in {file}"
