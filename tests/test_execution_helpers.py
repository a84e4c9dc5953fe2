"""Helpers that score what workers with GPUs predict: the same scores, whoever computes them, and whoever is killed."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import train_study
from test_execution import filled, study_params

from lossbench.errors import GateError
from lossbench.execution.helper import Feed, Helper
from lossbench.execution.jobs import SCORES, SHOWN, Event, Floors, Where
from lossbench.execution.local import LocalExecutor
from lossbench.recipe import Compute
from lossbench.store import Store

Kept = dict[tuple[str, str], tuple[Any, dict[str, str]]]


def kept(root: Path) -> Kept:
    """All scores in a study's store, and what is shown: their content, and their files' hashes."""
    store = Store(str(root / ".lossbench/store"))
    found = {one: store.get(*one) for one in store.entries() if one[0] in (SCORES, SHOWN)}
    return {one: (entry.content, dict(entry.files)) for one, entry in found.items() if entry is not None}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose replicates were scored where they were trained."""
    root = tmp_path_factory.mktemp("study") / "s"
    train_study(root, study_params(seeds=[0, 1]))
    return root


@pytest.fixture
def own(study: Path, tmp_path: Path, warm_workers: None) -> Path:
    shutil.copytree(study, tmp_path / "s")
    shutil.rmtree(tmp_path / "s/.lossbench")
    return tmp_path / "s"


@pytest.mark.slow
def test_a_helper_keeps_the_scores_that_a_worker_would(own: Path, study: Path) -> None:
    watch = filled(own, partial(LocalExecutor, Compute(), 2, helping=True))
    assert kept(own) == kept(study)
    assert len(kept(own)) == 2 * 2 + 2  # of each replicate, and what is shown of each arm's first
    assert sorted(watch.trained) == [f"digits-{loss} {seed}" for loss in ("cross_entropy", "focal") for seed in (0, 1)]  # fmt: skip


class KillsTheHelper(LocalExecutor):
    """The first helper is killed when its worker has trained, as the kernel may do for memory."""

    killed = 0

    def next(self) -> Event | None:
        event = super().next()
        if event is not None and event.kind == "progress" and not KillsTheHelper.killed:
            (helper, *_) = self._helpers
            assert helper.process.pid is not None
            os.kill(helper.process.pid, signal.SIGKILL)
            KillsTheHelper.killed += 1
        return event


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_helper_that_is_killed_is_replaced_with_its_worker(own: Path, study: Path, workers: int) -> None:
    KillsTheHelper.killed = 0
    filled(own, partial(KillsTheHelper, Compute(), workers, helping=True))
    assert KillsTheHelper.killed
    assert kept(own) == kept(study)


class Ended:
    """A process that is over."""

    exitcode = 0

    def join(self) -> None: ...


class Said:
    """A pipe that says one thing."""

    def __init__(self, *said: Any) -> None:
        self.said = list(said)

    def recv(self) -> Any:
        return self.said.pop(0)

    def close(self) -> None: ...

    def send(self, _: Any) -> None:
        raise BrokenPipeError


def job() -> Floors:
    return Floors(Where(Path(), Path(), ""), None, "one", "key")  # type: ignore[arg-type]  # never looked at


def test_who_is_first_to_tell_of_a_job_does_not_matter() -> None:
    wrong, mine, other = GateError("wrong"), job(), job()
    helper = Helper(Ended(), Said((1, None), (2, wrong)))  # type: ignore[arg-type]
    assert helper.take(1, mine) == []
    assert helper.receive() == [Event(mine, "done")]
    assert helper.receive() == []
    assert helper.take(2, other) == [Event(other, "failed", wrong)]
    assert not helper.jobs
    assert not helper.early


def test_a_worker_without_its_helper_says_whose_scores_are_missing() -> None:
    feed = Feed(Said())  # type: ignore[arg-type]
    feed.begin()
    assert feed.end(job()) is None
    with pytest.raises(GateError, match=r"^floors of 'one': the process that was to score it has ended$"):
        feed._send(None, job())


def test_those_with_gpus_have_helpers_and_others_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def forked(target: Any, *_: Any) -> Any:
        begun.append(target.__name__)
        return Ended()

    monkeypatch.setattr("lossbench.execution.local._forked", forked)
    monkeypatch.setattr("lossbench.gpus.ours", lambda: ["0", "1"])
    for device, expected in (("cpu", ["_serve"]), ("cuda", ["help_out", "_serve"])):
        begun.clear()
        LocalExecutor(Compute(device=device), 2)._start()  # type: ignore[arg-type]  # one of them
        assert begun == expected
