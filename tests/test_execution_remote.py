"""What executors on other machines share: keys made by the worker, news told once, three more tries."""

import errno
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_execution import own, study
from test_scripts_study import PLAIN, content, write_script

from lossbench.errors import DiedError, GateError, UserError
from lossbench.execution import remote
from lossbench.execution.fill import Arm
from lossbench.execution.jobs import SCORES, Event, Score, Train, Where
from lossbench.execution.remote import (
    TRIES,
    Account,
    Facts,
    NodeError,
    OtherError,
    Outcome,
    Reporter,
    Task,
    compute,
    differences,
    facts,
    pack,
    unpack,
)
from lossbench.execution.sites import LocalSite, site
from lossbench.outs import Outs
from lossbench.params import load_params, parse_params
from lossbench.recipe import Compute
from lossbench.store import Store

__all__ = ["own", "study"]


@pytest.fixture
def task(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The scoring of a replicate whose weights lie in models/, for a store of its own."""
    monkeypatch.chdir(own)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    params, store = load_params(own / "params.yaml"), Store(str(tmp_path / "shared"))
    arm = Arm(params, "digits-focal", own)
    weights = own / "models/digits/digits-focal/seed-0.safetensors"
    key = arm.identity.scores(__import__("hashlib").sha256(weights.read_bytes()).hexdigest())
    job = Score(Where(own, own / ".lossbench", store.address), params, arm.name, 0, weights, key, True)
    return Task(job, arm.name, facts(params, arm.name, own), store.identify(), weights.read_bytes())


def test_a_task_is_computed_where_the_study_is_seen(task: Task) -> None:
    assert compute(task, lambda _: None, lambda: None).error is None
    assert [kind for kind, _ in Store(task.job.where.store).entries()].count(SCORES) == 1


def test_a_task_that_shares_a_gpu_keeps_to_its_part_of_the_memory(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As workers of the machine at hand do: whoever came first would take what the others need."""
    params = task.job.params.model_copy(update={"compute": Compute(device="cuda")})
    told: list[Any] = []
    monkeypatch.setattr(remote, "agree", lambda *_: None)
    monkeypatch.setattr(remote, "facts_here", lambda *_: None)
    monkeypatch.setattr("torch.cuda.set_per_process_memory_fraction", told.append)
    monkeypatch.setattr("lossbench.execution.work.work", lambda job, _: told.append(job.label))
    job = replace(task.job, params=params, where=replace(task.job.where, share=4))
    assert compute(replace(task, job=job), lambda _: None, lambda: None).error is None
    assert told == [0.25, job.label]


def test_a_task_is_computed_from_what_travelled_where_the_study_is_not_seen(
    task: Task, tmp_path: Path
) -> None:
    sent = pack(task.job.params, task.job.where.study, 10**9)
    shutil.move(task.job.where.study, tmp_path / "elsewhere")
    assert compute(task, lambda _: None, lambda: sent).error is None
    assert [kind for kind, _ in Store(task.job.where.store).entries()].count(SCORES) == 1
    refused = compute(task, lambda _: None, lambda: None)
    assert isinstance(refused.error, OtherError)
    assert "does not see the data" in str(refused.error)


def test_what_travelled_is_held_against_its_hashes_and_mended(task: Task) -> None:
    sent = pack(task.job.params, task.job.where.study, 10**9)
    there = unpack(sent)
    name = next(one for one in sent.files if one.endswith("manifest.parquet"))
    (there / name).write_bytes(b"damaged")
    assert (unpack(sent) / name).read_bytes() == bytes(sent.files[name])
    (there / name).write_bytes(b"damaged too")
    with pytest.raises(GateError, match="did not arrive as it was sent"):
        unpack(replace(sent, files={**sent.files, name: b"other"}))
    with pytest.raises(GateError, match=r"above the 0\.0 GB that travel"):
        pack(task.job.params, task.job.where.study, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine": {"processor": "P"}}, "processor"),
        ({"versions": {"torch": "1.0"}}, r"torch '.*' \(here '1.0'\)"),
        ({"code": {"lossbench.training.loop": "0"}}, "code in .*lossbench"),
        ({"data": "0"}, "does not see the data in .*, or has others there"),
    ],
    ids=["processor", "torch", "code", "data"],
)
def test_a_node_that_would_compute_other_bits_refuses_and_keeps_nothing(
    change: dict[str, Any], said: str, task: Task
) -> None:
    other = replace(task, facts=replace(task.facts, **change))
    outcome = compute(other, lambda _: None, lambda: None)
    assert isinstance(outcome.error, OtherError)
    with pytest.raises(OtherError, match=said):
        raise outcome.error
    assert outcome.error.args[0].startswith("node ")
    assert list(Store(task.job.where.store).entries()) == []


def test_a_node_that_sees_another_store_refuses(task: Task) -> None:
    outcome = compute(replace(task, store="another"), lambda _: None, lambda: None)
    assert "does not see the same store" in str(outcome.error)


def test_an_error_of_the_users_is_its_sentence(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from lossbench.execution import work

    def refuse(*_: object) -> None:
        raise UserError("params.yaml: this is wrong")

    monkeypatch.setattr(work, "work", refuse)
    assert str(compute(task, lambda _: None, lambda: None).error) == "params.yaml: this is wrong"

    def end(*_: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(work, "work", end)
    assert compute(task, lambda _: None, lambda: None).interrupted

    def die(*_: object) -> None:
        raise DiedError("one of the 2 processes that train seed 0 ended by signal 9 (SIGKILL)")

    monkeypatch.setattr(work, "work", die)
    said: list[str] = []
    outcome = compute(task, lambda _: None, lambda: None)
    account = Account(say=said.append)
    account.ended(task.job, outcome)
    assert list(account.waiting) == [task.job], "who has died is tried again, as a worker is"
    assert said[0].endswith("seed 0 ended by signal 9 (SIGKILL)); it is tried again (1 of 3)")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_its_node_s_and_the_job_another_s(
    task: Task, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from lossbench.execution import work

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/scratch/checkpoint")

    monkeypatch.setattr(work, "work", fail)
    outcome = compute(task, lambda _: None, lambda: None)
    assert isinstance(outcome.error, NodeError)
    where = f"the {task.job.label}, on {socket.gethostname()}: /scratch/checkpoint: "
    assert str(outcome.error).startswith(f"{where}{os.strerror(number)}; what was finished is kept")
    account = Account(say=lambda _: None)
    for _ in range(TRIES):
        account.ended(task.job, outcome)
    assert len(account.waiting) == TRIES - 1, "where nodes are not ours to choose it is tried again"
    assert [one.kind for one in account.news] == ["failed"]


def test_a_job_that_needs_too_much_memory_is_not_tried_on_every_node(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossbench.execution import work

    def fill(*_: object) -> None:
        raise MemoryError("of no use")

    monkeypatch.setattr(work, "work", fill)
    outcome = compute(task, lambda _: None, lambda: None)
    assert (type(outcome.error), outcome.interrupted) == (GateError, False)


def test_a_job_that_has_ended_leaves_no_count_to_whoever_gets_its_number(task: Task) -> None:
    for last in (Outcome("n"), Outcome("n", GateError("no"))):
        account = Account(say=lambda _: None)
        for _ in range(TRIES - 1):
            account.lost(task.job, "was lost")
        account.ended(task.job, last)
        account.lost(task.job, "was lost")  # as a job of a later wave does, in the same place of memory
        assert [one.kind for one in account.news] == ["failed" if last.error else "done"]


def test_the_facts_of_a_script_hold_its_own_files(own: Path) -> None:
    write_script(own, PLAIN)
    params = parse_params(content())
    before = facts(params, "own-fine", own)
    assert "script/train" in before.code
    write_script(own, PLAIN + "\nscore = 1")
    assert differences(before, facts(params, "own-fine", own)) == ["code in script/train"]


def test_facts_of_one_machine_do_not_differ() -> None:
    one = Facts("a", {"processor": "P"}, {"torch": "2"}, {"m": "1"}, "d")
    assert differences(one, replace(one, node="b")) == []
    told = differences(one, replace(one, code={f"m{n}": "1" for n in range(9)}, data="e"))
    assert told == ["code in m, m0, m1, m2 and 6 more", "data"]


def test_news_are_told_once_and_a_lost_job_three_more_times() -> None:
    said: list[str] = []
    account = Account(say=said.append)
    job = Train(None, None, "a", None, (), ())  # type: ignore[arg-type]
    epochs = [("begun", 0, {}), ("epoch", 0, 1, {"x": 1.0}), ("epoch", 0, 2, {"x": 2.0})]
    account.progress(job, epochs[:2])
    account.lost(job, "was lost")
    account.progress(job, [list(one) for one in epochs])  # again from its checkpoint, as JSON brings it
    account.ended(job, Outcome("n"))
    assert [(one.kind, one.content and list(one.content)[:3]) for one in account.news] == [
        ("progress", ["begun", 0, {}]), ("progress", ["epoch", 0, 1]), ("progress", ["epoch", 0, 2]), ("done", None),
    ]  # fmt: skip
    assert said == ["the training of 'a' with seed  was lost; it is tried again (1 of 3)"]
    account = Account(say=said.append)
    for _ in range(TRIES):
        account.ended(job, Outcome("n", interrupted=True))
    assert len(account.waiting) == TRIES - 1
    (event,) = account.news
    assert isinstance(event, Event)
    assert event.kind == "failed"
    assert "and so 4 times" in str(event.content)


def test_at_most_one_message_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(remote.time, "monotonic", lambda: now[0])
    sent: list[list[Any]] = []
    reporter = Reporter(sent.append)
    for number in range(50):
        reporter(number)
        now[0] += 0.1
    reporter.flush()
    reporter.flush()
    assert [one for gathered in sent for one in gathered] == list(range(50))
    assert len(sent) <= 7
    reporter("last")
    assert reporter.rest() == ("last",), "for whoever carries it with the outcome"
    reporter.flush()
    assert "last" not in sent[-1]


def test_where_jobs_run_is_said_by_the_environment(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, outs, store = load_params(own / "params.yaml"), Outs(own), Store(str(own / "store"))
    monkeypatch.delenv("LOSSBENCH_EXECUTOR", raising=False)
    assert isinstance(site(params, outs, store), LocalSite)
    monkeypatch.setenv("LOSSBENCH_EXECUTOR", "rya")
    with pytest.raises(
        UserError, match=r"LOSSBENCH_EXECUTOR is 'rya'; did you mean 'ray'\? allowed: local, ray"
    ):
        site(params, outs, store)
    monkeypatch.setattr("lossbench.execution.sites.find_spec", lambda _: None)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setenv("LOSSBENCH_EXECUTOR", name)
        with pytest.raises(UserError, match=rf"needs the package {package}; .*requirements-{name}\.lock"):
            site(params, outs, store)
