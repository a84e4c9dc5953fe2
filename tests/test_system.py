"""What a process may use of its machine: the tightest of all limits that hold for it."""

from pathlib import Path

import pytest

from lossbench import system
from lossbench.system import available_memory, processors


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
