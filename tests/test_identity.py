"""Who writes is known by host, boot, process space, number and start; of who cannot be seen, signs of life count."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossbench import identity
from lossbench.identity import SILENCE, Owner, abandoned, is_alive, part_name
from lossbench.lock import HeldError, only_one

ME = Owner.me()
ROOT = Path(__file__).resolve().parents[1]
OTHERS = {
    "another host": replace(ME, host="another", boot="f" * 8),
    "a pod on this machine": replace(ME, host="pod-0", space="1"),
    "a pod with this machine's name": replace(ME, space="1"),
}


def part(folder: Path, owner: Owner, age: float) -> Path:
    """A half-written folder of some process, last written to ``age`` seconds ago."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Owner, "me", classmethod(lambda cls: owner))
        path = folder / part_name("weights")
    (path / "inner").mkdir(parents=True)
    for one in (path / "inner", path):
        os.utime(one, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("owner", OTHERS.values(), ids=OTHERS)
def test_who_cannot_be_seen_is_dead_after_a_long_silence_and_not_before(tmp_path, owner):
    assert not owner.here()
    assert not owner.dead()
    assert is_alive(owner, time.time() - SILENCE / 2)
    assert not is_alive(owner, time.time() - SILENCE * 2)
    assert not abandoned(part(tmp_path / "young", owner, 10.0))
    assert abandoned(part(tmp_path / "old", owner, SILENCE * 2))


def test_what_was_written_into_a_folder_last_is_its_sign_of_life(tmp_path):
    half = part(tmp_path, OTHERS["another host"], SILENCE * 2)
    (half / "inner" / "file").write_text("still writing")
    assert not abandoned(half)


def test_a_process_of_this_machine_is_judged_by_itself_however_long_it_is_silent(tmp_path):
    living = part(tmp_path / "living", ME, SILENCE * 100)
    assert not abandoned(living)
    assert abandoned(part(tmp_path / "reused", replace(ME, started=ME.started + 5), 0.0))
    assert abandoned(part(tmp_path / "rebooted", replace(ME, boot="0" * 8), 0.0))


def test_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "print(input())"], stdin=subprocess.PIPE, text=True)
    owner = replace(ME, pid=child.pid, started=identity._started(child.pid))
    assert not owner.dead()
    child.stdin.close()
    deadline = time.monotonic() + 10
    while not owner.dead() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert owner.dead()  # it has ended, though nobody has asked for its exit code
    child.wait()


@given(
    st.text("abcz019.-", min_size=1, max_size=20),
    st.integers(1, 2**22),
    st.integers(0, 10**9),
    st.text(max_size=9),
)
def test_a_part_s_name_says_who_writes_it(host, pid, ticks, name):
    owner = Owner(host, "0123abcd", pid, ticks / identity.TICKS, "4026531836")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Owner, "me", classmethod(lambda cls: owner))
        made = part_name(f"{name}.safetensors".replace("/", "_").replace("\n", "_"))
    assert identity._writer(made) == owner


def test_the_module_needs_the_standard_library_only():
    code = (
        "import sys; import lossbench.identity as i; i.Owner.me(); i.part_name('x');"
        "print(sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)"
        " - {'lossbench', '__main__', 'sitecustomize'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("owner", OTHERS.values(), ids=OTHERS)
def test_a_lock_of_another_machine_holds_while_its_holder_gives_signs_of_life(tmp_path, owner):
    """As on a shared folder that does not pass the kernel's locks on."""
    file = tmp_path / "repro.lock"
    file.write_text(json.dumps({"owner": vars(owner), "since": "2026-01-01"}))
    with (
        pytest.raises(HeldError, match=f"process {owner.pid} on {owner.host}, since 2026"),
        only_one(file, "x"),
    ):
        pass
    os.utime(file, (time.time() - 3600,) * 2)
    with only_one(file, "x"):
        assert json.loads(file.read_text())["owner"]["pid"] == os.getpid()
    assert file.read_text() == ""


def test_a_lock_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr("lossbench.lock.BEAT", 0.02)
    file = tmp_path / "repro.lock"
    with only_one(file, "x"):
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert file.stat().st_mtime > 0
