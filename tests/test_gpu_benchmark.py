"""The GPU benchmark runs where torch is and little else: a machine that is lent has no more, and no repository."""

import ast
import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

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


def test_a_row_that_fails_or_has_no_time_left_is_told_and_the_next_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, str]] = []
    sheet = gpu.Sheet(time.perf_counter(), lambda kind, row: told.append((kind, row["part"])))

    def endless() -> gpu.Row:
        while True:
            time.sleep(0.01)

    assert sheet.add({"part": "one"}, failing)["error"] == "ValueError: of this row alone"
    assert sheet.add({"part": "two"}, lambda: {"seconds": 1}) == {"part": "two", "seconds": 1}
    monkeypatch.setattr(gpu, "LAST", sheet.minutes + 0.2 / 60)
    ended = sheet.add({"part": "three"}, endless, gpu.MINUTES)
    assert ended["error"].startswith("TimeoutError: not measured to its end")
    assert sheet.add({"part": "four"}, failing, 0.0)["error"] == "not measured: 0 minutes were over"
    assert told == [(kind, part) for part in ("one", "two", "three", "four") for kind in ("begun", "there")]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("answers", [True, False])
def test_a_context_is_spoiled_where_cuda_says_so_of_the_next_call_whatever_the_row_said(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of Python's may hide the kernel's; want of memory spoils nothing."""
    said = None if answers else RuntimeError("CUDA error: unspecified launch failure")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", Mock(side_effect=said))
    for error in (ValueError("of this row alone"), torch.OutOfMemoryError("CUDA out of memory.")):
        assert gpu.spoiled(error) is not answers
    assert gpu.spoiled(RuntimeError("CUDA error: device-side assert triggered"))
    with nullcontext() if answers else pytest.raises(SystemExit):
        gpu.Sheet(time.perf_counter(), lambda *_: None).add({"part": "one"}, dict)


SPOILT: list[Exception] = []
"""What a process's GPU says to all that it is asked, once a kernel of its has failed."""
SMALL = dataclasses.replace(gpu.TWIN, device="none")


def failing() -> gpu.Row:
    raise ValueError("of this row alone\nmore")


def spoiling(said: str) -> gpu.Row:
    SPOILT.append(RuntimeError(f"CUDA error: {said}\nSearch for `cuda"))
    return computing()


def computing() -> gpu.Row:
    if SPOILT:
        raise SPOILT[0]
    return {"process": os.getpid()}


def dying() -> gpu.Row:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def deaf() -> gpu.Row:
    """Hang as a call of torch's does, which no signal interrupts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(600)
    return {}


def planted(_: gpu.Size, folder: Path, sheet: gpu.Sheet) -> None:
    assert not folder.exists()
    works = {
        "first": computing,
        "assert": partial(spoiling, "device-side assert triggered"),
        "after assert": computing,
        "address": partial(spoiling, "an illegal memory access was encountered"),
        "after address": computing,
        "own error": failing,
        "after own error": computing,
        "segmentation fault": dying,
        "after segmentation fault": computing,
    }
    for name, work in works.items():
        sheet.add({"part": name}, work)


def hanging(_: gpu.Size, __: Path, sheet: gpu.Sheet) -> None:
    for name, work in {"first": computing, "hangs": deaf, "last": computing}.items():
        sheet.add({"part": name}, work)


def broken(_: gpu.Size, __: Path, sheet: gpu.Sheet) -> None:
    sheet.add({"part": "first"}, computing)
    raise OSError("between two rows")


def recorded(monkeypatch: pytest.MonkeyPatch, folder: Path, **given: float) -> tuple[gpu.Record, list[int]]:
    """A record of its own, and how many rows stood in its file whenever it was written."""
    counts: list[int] = []
    monkeypatch.setattr(gpu, "write", lambda _, content: counts.append(len(content["rows"])) or folder)
    return gpu.Record("gpu", {}, **given), counts


@pytest.mark.slow
def test_what_takes_the_gpu_from_a_process_costs_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA answers every call of a process with the error that spoiled its context: the next row has a new one."""
    record, counts = recorded(monkeypatch, tmp_path)
    record.measure([planted], SMALL, tmp_path)
    rows = {row["part"]: row for row in record.rows}
    errors = {name: row["error"] for name, row in rows.items() if "error" in row}
    assert errors == {
        "assert": "RuntimeError: CUDA error: device-side assert triggered",
        "address": "RuntimeError: CUDA error: an illegal memory access was encountered",
        "own error": "ValueError: of this row alone",
        "segmentation fault": "its process ended with exit code -11",
    }
    processes = [row["process"] for row in record.rows if "process" in row]
    assert rows["after address"]["process"] == rows["after own error"]["process"]
    assert len(processes) == 5
    assert len(set(processes)) == 4
    assert counts == [number for number in range(1, 10) for _ in range(2)]  # begun, and there


@pytest.mark.slow
def test_a_row_that_cannot_be_interrupted_is_ended_with_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "STARTING", 8.0)
    record, _ = recorded(monkeypatch, tmp_path, began=time.perf_counter() - 60 * gpu.LAST + 8)
    record.measure([hanging], SMALL, tmp_path)
    assert [row.get("error") for row in record.rows] == [
        None,
        "not measured to its end: 7.8 minutes were over",
        "not measured: 7.8 minutes were over",
    ]


@pytest.mark.slow
def test_what_ends_between_two_rows_ends_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = recorded(monkeypatch, tmp_path)
    with pytest.raises(RuntimeError, match="exit code 1 between two rows"):
        record.measure([broken], SMALL, tmp_path)
    assert [row["part"] for row in record.rows] == ["first"]
