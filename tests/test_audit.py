"""The audit of the pinned packages: an advisory always fails, silence of the database only where it is asked to."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
HOLED = {"name": "holed", "version": "2.0", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}
FAKE = """#!{python}
import pathlib, sys
content = {content!r}
if content is None:
    sys.exit("cannot reach the service")
pathlib.Path(sys.argv[sys.argv.index("--output") + 1]).write_text(content)
sys.exit({code})
"""


def audit(tmp_path: Path, answer: list[dict[str, Any]] | None, *arguments: str) -> Any:
    """Run the audit with a stand-in for pip-audit that answers as given."""
    content = None if answer is None else json.dumps({"dependencies": answer})
    stand_in = tmp_path / "pip-audit"
    stand_in.write_text(
        FAKE.format(python=sys.executable, content=content, code=int(HOLED in (answer or [])))
    )
    stand_in.chmod(0o755)
    return subprocess.run(
        [sys.executable, ROOT / ".ci/audit", *arguments, ROOT / "requirements.lock"],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "lenient", "strict", "told"),
    [
        ([SOUND], 0, 0, "1 packages looked up, 0 advisories"),
        ([SOUND, HOLED], 1, 1, "holed 2.0: CVE-2026-1, mended in 2.1"),
        ([SOUND, UNKNOWN], 0, 1, "1 could not be looked up: unknown"),
        (None, 0, 1, "cannot reach the service"),
    ],
)
def test_what_the_audit_finds_decides(
    tmp_path: Path, answer: list[dict[str, Any]] | None, lenient: int, strict: int, told: str
) -> None:
    for arguments, code in (((), lenient), (("--strict",), strict)):
        ended = audit(tmp_path, answer, *arguments)
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert told in ended.stdout
