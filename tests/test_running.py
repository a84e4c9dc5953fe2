"""What a run does while DVC records, and what it does not let DVC record."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from conftest import tiny_params, write_params
from dvc_cases import dvc
from law_cases import each

from lossbench import chain, running
from lossbench.collecting import noting
from lossbench.errors import GateError
from lossbench.execution.beside import EndedError, workers
from lossbench.execution.validation import _serve
from lossbench.outs import Outs
from lossbench.params import Params, load_params
from lossbench.written import relinked


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study with params and a lock."""
    write_params(tmp_path, tiny_params())
    (tmp_path / "dvc.lock").write_text("before")
    return tmp_path


@pytest.fixture
def params(study: Path) -> Params:
    return load_params(study / "params.yaml")


def edit(study: Path, how: str) -> None:
    """Edit params.yaml as somebody does who gets the next run ready."""
    if how == "half written":
        (study / "params.yaml").write_text("datasets: {")
    elif how == "gone":
        (study / "params.yaml").unlink()
    else:
        write_params(study, tiny_params() | {"seeds": [0, 1]})


def record(params: Params, study: Path, how: str, error: GateError | None = None) -> None:
    """Do what a run does while DVC records and somebody edits params.yaml; DVC may fail at that."""
    with running.as_read(params, study):
        edit(study, how)
        (study / "dvc.lock").write_text("after")
        if error is not None:
            raise error


HOW = pytest.mark.parametrize("how", ["another value", "half written", "gone"])


@HOW
def test_what_was_trained_is_not_recorded_under_params_that_were_edited_meanwhile(
    how: str, study: Path, params: Params
) -> None:
    edit(study, how)
    with (
        pytest.raises(GateError, match=r"params\.yaml: edited while the run"),
        running.as_read(params, study),
    ):
        pytest.fail("DVC records")
    assert (study / "dvc.lock").read_text() == "before"


@HOW
@pytest.mark.parametrize("before", [True, False])
def test_params_that_are_edited_while_dvc_records_leave_its_lock_as_it_was(
    before: bool, how: str, study: Path, params: Params
) -> None:
    if not before:
        (study / "dvc.lock").unlink()
    with pytest.raises(GateError, match="edited while the run"):
        record(params, study, how)
    assert (study / "dvc.lock").exists() == before
    assert not before or (study / "dvc.lock").read_text() == "before"


@HOW
def test_what_failed_beside_such_an_edit_is_told_and_the_lock_is_as_it_was(
    how: str, study: Path, params: Params
) -> None:
    with pytest.raises(GateError, match="dvc failed"):
        record(params, study, how, GateError("dvc failed"))
    assert (study / "dvc.lock").read_text() == "before"


def test_what_is_recorded_stays_where_nobody_edits_values(study: Path, params: Params) -> None:
    with running.as_read(params, study):
        (study / "params.yaml").write_text("# a comment\n" + (study / "params.yaml").read_text())
        (study / "dvc.lock").write_text("after")
    assert (study / "dvc.lock").read_text() == "after"


def test_data_of_params_that_were_edited_while_they_were_fetched_are_not_recorded(
    study: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "nothing_to_restore", lambda *_: True)
    monkeypatch.setattr(running, "write_lineage", lambda *_: None)
    monkeypatch.setattr(running, "in_workers", lambda *_: edit(study, "another value"))
    monkeypatch.setattr(running, "step", lambda *_: (study / "dvc.lock").write_text("after"))
    with pytest.raises(GateError, match="edited while the run"):
        running.fetch_all(params, Outs(study))
    assert (study / "dvc.lock").read_text() == "before"


@each(
    ("kinds", "expected"),
    [
        (None, False), ("copy", False), ("reflink,copy", False), ("hardlink,copy", True), ("reflink,hardlink", False),
        ("hardlink", True), ("symlink", True), ("reflink", False), ("hardlink,symlink", True),
    ],
)  # fmt: skip
def test_it_is_known_whether_dvc_links_what_it_records(
    kinds: str | None, expected: bool, tmp_path: Path
) -> None:
    assert not relinked(tmp_path)
    (tmp_path / ".dvc").mkdir()
    if kinds is not None:
        (tmp_path / ".dvc/config").write_text(f"[cache]\n    type = {kinds}\n")
    assert relinked(tmp_path) == expected


@pytest.mark.parametrize("links", [True, False])
def test_nobody_reads_outs_while_dvc_puts_links_in_their_place(
    links: bool, study: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    @contextmanager
    def reading(*_: object) -> Iterator[None]:
        done.append("read")
        yield

    def told(*commands: Sequence[str]) -> None:
        done.extend(command[-1] for command in commands if command)

    monkeypatch.setattr(running, "report_as_shipped", lambda _: True)
    monkeypatch.setattr(running, "relinked", lambda _: links)
    monkeypatch.setattr(running, "recording", reading)
    monkeypatch.setattr(running, "workers", reading)
    monkeypatch.setattr(running, "in_turn", told)
    assert running.note_all(params, Outs(study), ("commit", "dvc.yaml:train"))
    reads = ["read", "read"]  # MLflow's record, and the report
    recorded = ["dvc.yaml:train", *reads] if links else [*reads, "dvc.yaml:train"]
    assert done == [*recorded, "dvc.yaml:report", "repro"]


@pytest.mark.parametrize("links", [True, False])
def test_fetched_data_are_validated_while_dvc_records_them_unless_it_links_them(
    links: bool, study: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(running, "nothing_to_restore", lambda *_: True)
    monkeypatch.setattr(running, "write_lineage", lambda *_: None)
    monkeypatch.setattr(running, "in_workers", lambda *_: done.append("fetched"))
    monkeypatch.setattr(running, "relinked", lambda _: links)
    monkeypatch.setattr(running, "in_turn", lambda command: done.extend(command[-1:]))
    left = running.fetch_all(params, Outs(study))
    assert done == ["fetched", *(["dvc.yaml:fetch"] if links else [])]
    done.clear()
    running.note(params, Outs(study), left)
    assert done == ([] if links else ["dvc.yaml:fetch"])


def test_dvc_is_not_called_where_it_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "step", lambda *_: pytest.fail("DVC was called"))
    chain.in_turn((), ())


def test_who_validates_leaves_ctrl_c_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its traceback stood where the run ends in silence."""
    monkeypatch.setattr("lossbench.lifetime.die_with_parent", lambda: None)
    monkeypatch.setattr("lossbench.data.expectations.run.great_expectations", lambda: None)
    before = signal.getsignal(signal.SIGINT)
    ours, theirs = Pipe()
    try:
        ours.close()
        _serve(theirs)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        theirs.close()


def test_a_record_that_was_killed_is_told_once_the_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited in vain for whoever waits for the report."""

    @contextmanager
    def killed(_: object, calls: Sequence[Sequence[Connection]]) -> Iterator[None]:
        yield
        calls[0][0].close()
        raise EndedError("the process ended")

    monkeypatch.setattr(running, "workers", killed)
    done: list[str] = []
    with pytest.raises(GateError, match="results are complete, and `lossbench track`"), running.recording():
        done.append("reported")
    assert done
    with pytest.raises(EndedError, match="report's"), running.recording():
        raise EndedError("the report's")


def test_a_record_is_told_of_the_report_or_that_there_will_be_none() -> None:
    for tell in (True, False):
        hears, tells = Pipe(duplex=False)
        if tell:
            tells.send(None)
        tells.close()
        assert running._is_told(hears) == tell


def test_who_validates_ends_in_silence_where_nobody_waits(
    monkeypatch: pytest.MonkeyPatch, study: Path, params: Params
) -> None:
    monkeypatch.setattr("lossbench.lifetime.die_with_parent", lambda: None)
    monkeypatch.setattr("lossbench.data.expectations.run.great_expectations", lambda: None)
    ours, theirs = Pipe()
    monkeypatch.setattr("lossbench.execution.validation.validated", lambda *_: ours.close())
    ours.send((params, Outs(study), str(study / "store")))
    before = signal.getsignal(signal.SIGINT)
    try:
        _serve(theirs)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_process_beside_ends_though_it_was_asked_before_it_began() -> None:
    """The server that it is forked from heeds no SIGTERM, nor does it until it has begun."""
    with pytest.raises(ValueError, match="at once"), workers(time.sleep, [(600.0,)]):
        raise ValueError("at once")


@pytest.mark.slow
def test_what_dvc_records_is_there_all_the_while(tmp_path: Path) -> None:
    """It would put a file that is an out of its own away, and write it anew."""
    dvc(tmp_path, "init", "--no-scm", "-q")
    (tmp_path / "dvc.yaml").write_text("stages:\n  train:\n    cmd: 'true'\n    outs: [made.json, folder]\n")
    (tmp_path / "folder").mkdir()
    files = [tmp_path / "made.json", tmp_path / "folder/made.json"]
    for file in files:
        file.write_text("{}")
    before = [(file.stat().st_ino, file.stat().st_ctime_ns) for file in files]
    dvc(tmp_path, *noting(tmp_path, "train"))
    assert [(file.stat().st_ino, file.stat().st_ctime_ns) for file in files] == before
    assert dvc(tmp_path, "status").stdout.strip() == "Data and pipelines are up to date."
