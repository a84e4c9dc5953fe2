"""The GPU benchmark runs where torch is and little else: a machine that is lent has no more, and no repository."""

import ast
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import common, gpu
from lossbench.closure import closure

ROOT = Path(__file__).parent.parent
NEEDED = {"numpy", "pydantic", "pydantic_core", "safetensors", "scipy", "torch"}
"""All that it needs; and for its rows of detection, which say so where it lacks, pycocotools."""
UNUSED = {"PIL", "torchvision"}
"""What functions import that it never calls: of the gallery's pictures, and of torchvision's networks."""


def imported(*files: str) -> Iterator[str]:
    """The modules that files of benchmarks/ import at their top."""
    for name in files:
        for one in ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")).body:
            if isinstance(one, ast.ImportFrom):
                yield str(one.module)
            elif isinstance(one, ast.Import):
                yield from (alias.name for alias in one.names)


def test_it_needs_neither_dvc_nor_mlflow_nor_great_expectations() -> None:
    modules = set(imported("gpu", "common", "synthetic"))
    assert {one for one in modules if one.startswith("benchmarks")} == {
        "benchmarks.common",
        "benchmarks.synthetic",
    }
    named = {  # which a table of names leads to, not an import
        f"lossbench.{part}.{file.stem}"
        for part in ("losses", "models", "tasks", "training")
        for file in (ROOT / "lossbench" / part).glob("[!_]*.py")
    }
    found = closure(
        {one for one in modules if not one.startswith("benchmarks")}
        | named
        | {"lossbench.statistics.equivalence"}
    )
    assert "lossbench.training.population" in found.files
    assert found.foreign - NEEDED - UNUSED == {"pycocotools"}


def test_a_copy_that_is_no_repository_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert common.commit().removesuffix("+").isalnum()
    shutil.copy(ROOT / "benchmarks/common.py", tmp_path)
    monkeypatch.setattr(common, "__file__", str(tmp_path / "common.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert common.commit() == "unknown: no git repository"
    monkeypatch.setenv("PATH", str(tmp_path))  # a machine without git
    assert common.commit() == "unknown: no git repository"


def test_a_row_that_fails_or_has_no_time_left_is_written_and_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "write", lambda _, content: written.append([*content["rows"]]) or tmp_path)
    written: list[list[gpu.Row]] = []
    sheet = gpu.Sheet("gpu", {})

    def endless() -> gpu.Row:
        while True:
            time.sleep(0.01)

    def failing() -> gpu.Row:
        raise RuntimeError("CUDA error: device-side assert triggered\nmore")

    assert (
        sheet.add({"part": "one"}, failing)["error"]
        == "RuntimeError: CUDA error: device-side assert triggered"
    )
    assert sheet.add({"part": "two"}, lambda: {"seconds": 1}) == {"part": "two", "seconds": 1}
    monkeypatch.setattr(gpu, "LAST", sheet.minutes + 0.2 / 60)
    ended = sheet.add({"part": "three"}, endless, gpu.MINUTES)
    assert ended["error"].startswith("TimeoutError: not measured to its end")
    assert sheet.add({"part": "four"}, failing, 0.0)["error"] == "not measured: 0 minutes were over"
    assert [len(rows) for rows in written] == [1, 2, 3, 4]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
