"""What a process may use of its machine: the tightest of all limits that hold for it."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tiny_params

from lossbench import system
from lossbench.data.dataset import DatasetInfo
from lossbench.execution.jobs import Train, Where
from lossbench.execution.local import _large
from lossbench.params import parse_params
from lossbench.system import available_memory, processors
from lossbench.training.member import Member


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups without limits; the process lies in /outer/inner."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.setattr(system, "CGROUPS", tmp_path)
    real = Path.read_text

    def read_text(self: Path, *arguments: object, **more: object) -> str:
        if self == Path("/proc/self/cgroup"):
            return "0::/outer/inner\n"
        return real(self, *arguments, **more)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(system.os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


@pytest.mark.parametrize("where", ["", "outer", "outer/inner"])
@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("300000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_a_quota_holds_wherever_it_stands_above_the_process(groups, where, quota, expected):
    (groups / where / "cpu.max").write_text(quota + "\n")
    assert processors() == expected


@pytest.mark.parametrize("where", ["", "outer", "outer/inner"])
def test_memory_is_what_the_limit_leaves_and_the_cache_counts_as_free(groups, where):
    for name, content in {"max": "1000", "current": "700", "stat": "anon 400\ninactive_file 250\n"}.items():
        (groups / where / f"memory.{name}").write_text(content)
    assert available_memory() == 550
    (groups / where / "memory.current").write_text("5000")
    assert available_memory() == 0


def test_without_limits_it_is_the_machine(groups):
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    (groups / "memory.max").write_text("max\n")
    (groups / "memory.current").write_text("5\n")
    assert 0 < available_memory() <= total


GIVEN_BACK = """
import ctypes
from pathlib import Path
from lossbench.system import keep_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) // 1024

for lean in ({order}):
    keep_memory(lean)
    before = resident()
    blocks = [ctypes.create_string_buffer(b"x" * (64 * 2**20)) for _ in range(2)]
    del blocks
    print(int(resident() - before > 50), end=" ")
"""


@pytest.mark.parametrize(("order", "kept"), [("True, False", "0 1 "), ("False, True", "1 0 ")])
def test_what_is_freed_is_kept_or_given_back_as_the_last_call_says(order: str, kept: str) -> None:
    code = GIVEN_BACK.format(order=order)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == kept


@pytest.mark.parametrize(
    ("side", "batch", "members", "large"),
    [(512, 8, 1, True), (512, 2, 1, False), (256, 8, 1, False), (256, 8, 2, True), (32, 32, 8, False)],
)
def test_tensors_of_large_batches_are_given_back(
    side: int, batch: int, members: int, large: bool, tmp_path: Path
) -> None:
    params = parse_params(tiny_params())
    name = next(one for one, arm in params.arms.items() if arm.experiment == "scenes")
    recipe = params.experiments["scenes"].recipe.model_copy(update={"batch_size": batch})
    data = tmp_path / "data/scenes"
    data.mkdir(parents=True)
    info = DatasetInfo(
        "mask", ("a", "b"), (3, side, side), (side, side), (0.5,) * 3, (0.3,) * 3, (1, 1), {"train": 9}
    )
    info.write(data)
    where = Where(tmp_path, tmp_path / ".lossbench", "")
    some = tuple(Member(seed) for seed in range(members))
    assert _large(Train(where, params, name, recipe, some, ("",) * members)) is large
