"""Slots: never more workers than there are slots, over all processes, and none lost with a killed holder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lossbench.errors import UserError
from lossbench.training.slots import VARIABLE, Slots, make_slots
from lossbench.training.workers import Pool

HOLDER = """
import sys, time
from lossbench.training.slots import Slots
print(Slots().take() is not None, flush=True)
time.sleep(60)
"""
POOL = """
import sys, time
from pathlib import Path
from lossbench.training.workers import Pool

def job(number):
    def run(emit):
        began = time.monotonic()
        time.sleep(0.1)
        return number, began, time.monotonic()
    return run

for number, began, ended in Pool([job(number) for number in range(6)], workers=6).run():
    print(number, began, ended)
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two slots, named by the environment."""
    monkeypatch.setenv(VARIABLE, make_slots(tmp_path, 2)[VARIABLE])
    return tmp_path


def test_without_the_variable_there_is_always_one_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    slots = Slots()
    assert all(slots.take() is not None for _ in range(100))


def test_what_one_has_taken_another_gets_when_it_is_given_back(shared: Path) -> None:
    one, other = Slots(), Slots()
    first, second = one.take(), other.take()
    assert first is not None
    assert second is not None
    assert (one.take(), other.take()) == (None, None)
    one.give(first)
    assert other.take() is not None
    assert one.take() is None


def test_a_worker_forked_meanwhile_does_not_keep_a_slot(shared: Path) -> None:
    mine = Slots()
    taken = [mine.take(), mine.take()]
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        for slot in taken:
            assert slot is not None
            mine.give(slot)
        others = Slots()
        assert None not in (others.take(), others.take())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_killed_holders_slots_are_free(shared: Path) -> None:
    def hold() -> "subprocess.Popen[str]":
        holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        return holder

    holders, slots = [hold(), hold()], Slots()
    assert slots.take() is None
    for holder in holders:
        holder.kill()
        holder.communicate()
    assert None not in (slots.take(), slots.take())


def test_pools_of_several_processes_share_the_slots_and_all_their_jobs_are_done(shared: Path) -> None:
    pools = [
        subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [pool.communicate(timeout=120)[0].splitlines() for pool in pools]
    assert [[line.split()[0] for line in lines] for lines in said] == [list("012345")] * 3
    times = [[float(word) for word in line.split()[1:]] for lines in said for line in lines]
    for began, _ in times:  # the most at a time are at work when one of them begins
        assert sum(start <= began < end for start, end in times) <= 2


def test_a_pool_gives_its_slots_back_when_a_job_fails(shared: Path) -> None:
    def wrong(emit: object) -> None:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        Pool([wrong] * 3, workers=3).run()
    open_files = [file.readlink() for file in Path("/proc/self/fd").iterdir() if file.exists()]
    assert not any(file.is_relative_to(shared) for file in open_files)
    slots = Slots()
    assert None not in (slots.take(), slots.take())


@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_a_variable_that_names_no_slots_is_refused(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / where))
    with pytest.raises(
        UserError, match=r"LOSSBENCH_SLOTS is .*; allowed: a folder with a lock file for each"
    ):
        Slots()
