"""What every measurement states beside its numbers: the machine, the code, and where the JSON lies."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("LOSSBENCH_RESULTS", Path(__file__).parent / "results"))


def machine(*packages: str) -> str:
    """CPU, its family and model, Python and the versions of ``packages``."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    what = f"{cpu['model name']} (family {cpu['cpu family']}, model {cpu['model']})"
    return f"{what}; Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages)


def commit() -> str:
    """Commit of the code that ran; `+` where files differed from it.

    A copy of the files, as another machine is handed, may be no repository: then that is what it says.
    """
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git repository"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def stored(name: str) -> dict[str, Any]:
    """Read results/<name>.json; empty where there is none yet."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_bytes()) if file.exists() else {}


def write(name: str, result: dict[str, Any]) -> Path:
    """Write results/<name>.json and return its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    out = RESULTS / f"{name}.json"
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return out
