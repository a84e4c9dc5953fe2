"""What the fuzzing tests share: a law tried in two sizes, damaged bytes, and a watch on what is written."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUICK, LONG = 30, 300
DEADLINE = timedelta(seconds=10)
"""Of one example: a longer one is a hang."""


def fuzzed(
    quick: int = QUICK, long: int = LONG, **strategies: st.SearchStrategy[Any]
) -> Callable[[Any], Any]:
    """Try a law on few examples, the same ones each time, and on many and new ones among the slow tests."""

    def decorate(law: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [quick, pytest.param(long, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            chosen = settings(
                max_examples=examples, derandomize=examples == quick, deadline=DEADLINE, database=None,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            chosen(given(**strategies)(law))()

        test.__name__, test.__doc__ = law.__name__, law.__doc__
        return test

    return decorate


@st.composite
def damaged(draw: st.DrawFn, *wholes: bytes) -> bytes:
    """A sound file with some of its bytes cut out, doubled, replaced or cut off."""
    content = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = min(len(content), start + draw(st.integers(0, 16)))
        match draw(st.sampled_from(["cut", "double", "replace", "end", "bit"])):
            case "cut":
                del content[start:stop]
            case "double":
                content[start:start] = content[start:stop]
            case "replace":
                content[start:stop] = draw(st.binary(min_size=1, max_size=16))
            case "end":
                del content[start:]
            case "bit" if content:
                content[start] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOVES = {"os.rename", "os.symlink", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}
RELATIVE = {"os.mkdir", "os.remove", "os.rmdir", "os.symlink"}
"""Whose last argument is the descriptor of the folder that a name is relative to, or −1."""
_written: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _written is None:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        _written.append(
            os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        )
    elif event in MOVES:
        first = 1 if event in ("os.symlink", "os.link") else 0  # a link's target is not written to
        folder = (
            f"/proc/self/fd/{arguments[-1]}" if arguments[-1] not in (-1, None) and event in RELATIVE else ""
        )
        paths = [os.fsdecode(one) for one in arguments[first:2] if isinstance(one, str | bytes | os.PathLike)]
        _written.extend(os.path.realpath(os.path.join(folder, one)) for one in paths)
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        _written.append(f"a process: {arguments[0]}")


sys.addaudithook(_note)


@contextmanager
def nothing_written_outside(folder: Path) -> Iterator[None]:
    """Fail where Python opens a file for writing, moves or deletes one, beyond ``folder``, or starts a process."""
    global _written
    _written = []
    try:
        yield
        found = _written
    finally:
        _written = None
    where = os.path.realpath(folder)
    allowed = (where, "/dev/null")
    outside = [one for one in found if one and not os.path.realpath(one).startswith(allowed)]
    assert not outside, outside


@contextmanager
def sandbox() -> Iterator[Path]:
    """A folder to work in, gone afterwards; nothing may be written beyond it."""
    with tempfile.TemporaryDirectory() as made:
        before = Path.cwd()
        os.chdir(made)
        try:
            with nothing_written_outside(Path(made)):
                yield Path(made)
        finally:
            os.chdir(before)
