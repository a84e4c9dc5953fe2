"""Jobs side by side: order, errors and deaths are reported, and nothing is left running."""

import os
import signal
import time

import pytest
import torch
from training_cases import labels_dataset, setting

from lossbench.errors import UserError
from lossbench.training import Member, fit
from lossbench.training.workers import Pool, WorkerError, run_side_by_side, worker_count


def test_results_keep_the_order_of_the_jobs():
    def job(number):
        def run():
            time.sleep(0.05 * (3 - number))
            return number, torch.full((2,), number)

        return run

    found = run_side_by_side([job(number) for number in range(4)], "test", workers=4)
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert torch.equal(found[3][1], torch.tensor([3, 3]))


def test_no_more_than_so_many_run_at_a_time(tmp_path):
    def job():
        mine = tmp_path / str(os.getpid())
        mine.touch()
        seen = len(list(tmp_path.iterdir()))
        time.sleep(0.05)
        mine.unlink()
        return seen

    assert max(run_side_by_side([job] * 6, "test", workers=2)) <= 2


def test_events_reach_the_parent_while_jobs_run():
    heard = []
    pool = Pool([lambda emit: [emit(step) for step in range(3)] and "done"] * 2, workers=2)
    assert pool.run(on_event=lambda index, event: heard.append((index, event))) == ["done", "done"]
    assert sorted(heard) == [(index, step) for index in range(2) for step in range(3)]


def test_an_error_in_a_worker_is_raised_here_and_the_others_are_ended(tmp_path):
    def wrong():
        raise UserError("params.yaml: 'x' makes no sense")

    def endless():
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    def late():
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        wrong()

    with pytest.raises(UserError, match="makes no sense"):
        run_side_by_side([endless, late], "test", workers=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_error_that_cannot_travel_is_told_in_words():
    class LocalError(Exception):
        pass

    def wrong():
        raise LocalError("strange")

    with pytest.raises(WorkerError, match="strange"):
        run_side_by_side([wrong], "test")


def test_a_killed_worker_is_named_with_its_signal():
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerError, match=r"worker 2 of 2 ended by signal 9 \(SIGKILL\).*out of memory"):
        run_side_by_side([lambda: 1, dies], "test", workers=1)


@pytest.mark.parametrize("value", ["0", "-1", "two", ""])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("LOSSBENCH_WORKERS", value)
    with pytest.raises(UserError, match="LOSSBENCH_WORKERS"):
        worker_count()


def test_workers_times_threads_fit_the_processors(monkeypatch):
    monkeypatch.delenv("LOSSBENCH_WORKERS", raising=False)
    monkeypatch.setattr("lossbench.training.workers.processors", lambda: 6)
    assert [worker_count(threads) for threads in (1, 2, 4, 8)] == [6, 3, 1, 1]


def test_an_observer_hears_of_each_start_epoch_and_end(tmp_path):
    heard = []

    class Listening:
        def started(self, seed, epochs):
            heard.append(("started", seed, epochs))

        def epoch(self, seed, epoch, values):
            heard.append(("epoch", seed, epoch, sorted(values)))

        def finished(self, replicate):
            heard.append(("finished", replicate.seed))

    fit(setting(labels_dataset(tmp_path)), [Member(5)], observer=Listening())
    keys = ["train/loss", "validation/accuracy"]
    assert heard == [
        ("started", 5, 2),
        ("epoch", 5, 1, keys),
        ("epoch", 5, 2, keys),
        ("finished", 5),
    ]
