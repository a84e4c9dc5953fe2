"""A checkout of its own for DVC and the entry points, and what they leave."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import ROOT, tiny_params, write_params
from ruamel.yaml import YAML

BIN = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    """The environment of a shell in which the virtual environment is active; the copy's own code is imported."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DO_NOT_TRACK": "true", **more}


def dvc(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "dvc"), *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
    )


def repro(folder: Path, *arguments: str, **more: str) -> list[str]:
    """Run dvc repro; return the stages that ran."""
    run = dvc(folder, "repro", *arguments, **more)
    assert run.returncode == 0, run.stdout + run.stderr
    return [line.split("'")[1] for line in run.stdout.splitlines() if line.startswith("Running stage")]


def checkout(folder: Path, source: Path = ROOT) -> Path:
    """A checkout of the code in ``source`` with the tiny params, as a DVC repository."""
    for name in ("lossbench", "stages", "plugins"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "looks.yaml", "requirements.lock", ".dvcignore"):
        shutil.copy(source / name, folder / name)
    write_params(folder, tiny_params())
    assert dvc(folder, "init", "--no-scm", "-q").returncode == 0
    assert dvc(folder, "config", "core.analytics", "false").returncode == 0
    return folder


def python(folder: Path, module: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m <module>` in a checkout, on the checkout's own code."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder, env=environment(**more), capture_output=True, text=True, check=False,
    )  # fmt: skip


def lossbench(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `lossbench VERB` in a checkout, on the checkout's own code."""
    return python(folder, "lossbench", *arguments, **more)


def lock(folder: Path) -> Any:
    """What dvc.lock says, whatever the order of its entries."""
    return YAML(typ="safe").load((folder / "dvc.lock").read_text())
