"""The remaining time that a run shows, where an epoch of one experiment takes longer than of another."""

import io
from pathlib import Path

import pytest
from conftest import tiny_params

from lossbench.execution.jobs import Event, Train, Where
from lossbench.outs import Outs
from lossbench.params import parse_params
from lossbench.progress import Bar, Forecast
from lossbench.store import Store
from lossbench.tracking.watch import Watcher
from lossbench.training.member import Member

EPOCHS = {"scenes": 100, "digits": 1000}
TAKES = {"scenes": 0.5, "digits": 0.01}
"""Seconds of an epoch."""


class Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("lossbench.progress.time.monotonic", clock)
    return clock


def train(forecast: Forecast, clock: Clock, experiment: str, epochs: int, at_once: int = 1) -> None:
    """Train jobs of ten epochs, so many side by side."""
    for job in range(epochs // 10 // at_once):
        keys = [(experiment, job, place) for place in range(at_once)]
        for key in keys:
            forecast.begun(key)
        for _ in range(10):
            clock.now += TAKES[experiment]
            forecast.done(experiment, at_once)
        for key in keys:
            forecast.over(key, experiment, 10)


@pytest.mark.parametrize("at_once", [1, 2])
def test_heavy_experiments_that_come_first_do_not_make_the_light_ones_seem_heavy(
    clock: Clock, at_once: int
) -> None:
    """By epochs alone 9.5 minutes of a minute would be said to be left."""
    forecast = Forecast(
        EPOCHS, {"scenes": 0.6, "digits": 0.012}
    )  # a fifth too much of each: shares are right
    clock.now = 7.0  # before the first job nothing is trained
    train(forecast, clock, "scenes", 20, at_once)
    assert forecast.seconds() == pytest.approx((80 * 0.5 + 1000 * 0.01) / at_once, rel=0.1)
    train(forecast, clock, "scenes", 80, at_once)
    train(forecast, clock, "digits", 500, at_once)
    assert forecast.seconds() == pytest.approx(500 * 0.01 / at_once)


def test_what_this_run_took_replaces_what_was_measured_before(clock: Clock) -> None:
    forecast = Forecast(
        EPOCHS, {"scenes": 0.01, "digits": 0.01}
    )  # wrong: a scene's epoch takes fifty times as long
    train(forecast, clock, "scenes", 50)
    train(forecast, clock, "digits", 500)
    assert forecast.seconds() == pytest.approx(50 * 0.5 + 500 * 0.01)


def test_nobody_knows_before_the_first_epoch_or_where_an_experiment_was_never_measured(clock: Clock) -> None:
    assert Forecast(EPOCHS, TAKES).seconds() is None
    script = Forecast(EPOCHS, {"scenes": 0.5})
    train(script, clock, "scenes", 50)
    assert script.seconds() is None
    train(script, clock, "digits", 10)
    assert script.seconds() == pytest.approx(50 * 0.5 + 990 * 0.01)


def test_a_single_experiment_needs_no_measurement_and_may_grow(clock: Clock) -> None:
    forecast = Forecast({}, {})
    forecast.submitted("digits", 400)
    train(forecast, clock, "digits", 100)
    assert forecast.seconds() == pytest.approx(3.0)
    forecast.submitted("digits", 100)
    assert (forecast.total, forecast.seconds()) == (500, pytest.approx(4.0))


@pytest.mark.parametrize(("seconds", "said"), [(90.0, "<01:30]"), (None, "<?]")])
def test_the_line_says_the_forecast(seconds: float | None, said: str) -> None:
    line = Bar(total=10, file=io.StringIO(), bar_format="{n_fmt}/{total_fmt} [{elapsed}<{remaining}]")
    line.forecast = lambda: seconds
    line.update(3)
    assert str(line).endswith(said)
    line.update(7)
    line.close()


def test_the_watcher_tells_the_forecast_of_begins_epochs_and_ends(clock: Clock, tmp_path: Path) -> None:
    params = parse_params(tiny_params())
    forecast = Forecast({"digits": 4, "scenes": 10}, {"scenes": 6.0})
    outs = Outs(tmp_path)
    watcher = Watcher(params, outs, Store(str(tmp_path / "store")), "training", forecast, journal=False)
    recipe = params.experiments["digits"].recipe.at(1)
    where = Where(tmp_path, tmp_path, str(tmp_path / "store"))
    job = Train(where, params, "digits-focal", recipe, (Member(0),), ("key",), trial=True)
    watcher.submitted([job])
    for news in (("begun", 0, {}), ("epoch", 0, 1, {}), ("epoch", 0, 1, {}), ("epoch", 0, 2, {})):
        watcher.event(Event(job, "progress", news))
        clock.now += 1.0
    assert forecast.seconds() is None  # of digits' epochs nothing is known until a job has ended
    watcher.event(Event(job, "done"))
    assert (forecast.total, forecast.seconds()) == (14, pytest.approx(4.0 * (2 * 2.0 + 10 * 6.0) / (2 * 2.0)))
    watcher.close(failed=False)
