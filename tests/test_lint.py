"""What ruff looks at: the whole package, and nothing that the chain writes at the top."""

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

OURS = {
    "lossbench/data/one.py",
    "lossbench/data/sources/two.py",
    "lossbench/models/three.py",
    "stages/four.py",
}
WRITTEN = {"data/one.py", "data/digits/two.py", "models/three.py", "models/ce/four.py", ".lossbench/five.py"}


def test_ruff_looks_at_the_package_and_not_at_what_the_chain_writes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in OURS | WRITTEN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shown = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files", "."],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    seen = {Path(one).resolve().relative_to(tmp_path.resolve()).as_posix() for one in shown}
    assert {one for one in seen if one.endswith(".py")} == OURS
