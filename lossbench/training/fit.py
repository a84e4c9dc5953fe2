"""Training many replicates of an arm: the one door to whatever engine stands behind it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lossbench.progress import bar
from lossbench.training.interruption import ending_on_sigterm, noticing_sigterm
from lossbench.training.loop import train_replicate
from lossbench.training.population import populations, train_population
from lossbench.training.replicate import Observer, Replicate
from lossbench.training.setting import Member, Setting
from lossbench.training.store import Store
from lossbench.training.workers import Pool, worker_count

OnEvent = Callable[[int, tuple[int, dict[str, float]]], None]
OnResult = Callable[[int, Replicate], None]


class Silent:
    """Watches nothing."""

    def started(self, seed: int, epochs: int) -> None:
        """Ignore."""

    def epoch(self, seed: int, epoch: int, values: Any) -> None:
        """Ignore."""

    def finished(self, replicate: Replicate) -> None:
        """Ignore."""


def fit(
    setting: Setting,
    members: Sequence[Member],
    *,
    store: Store | None = None,
    observer: Observer | None = None,
    label: str = "train",
    workers: int | None = None,
) -> list[Replicate]:
    """Train the members of an arm; those in the store are taken from there.

    A replicate's bits depend on the setting and its member alone: not on its neighbours, their order, or
    how many train at a time.

    Args:
        setting: the arm, from :func:`lossbench.training.prepare`.
        members: seeds, and what each has of its own.
        store: finished replicates and unfinished checkpoints.
        observer: told of starts, epochs and ends.
        label: of the progress bar.
        workers: replicates side by side (CPU).

    Returns:
        A replicate per member, in order.

    """
    watch = observer or Silent()
    company = _company(setting, members)
    done: dict[int, Replicate] = {}
    for index, member in enumerate(members):
        found = store.get(member, company[index]) if store is not None else None
        if found is not None:
            done[index] = found
    epochs = setting.recipe.epochs
    seen = [0] * len(members)
    with bar(len(members) * epochs, label) as progress:
        progress.update(len(done) * epochs)
        for index, replicate in done.items():
            watch.started(members[index].seed, epochs)
            watch.finished(replicate)

        def on_event(index: int, event: tuple[int, dict[str, float]]) -> None:
            if event[0] == 0:
                watch.started(members[index].seed, epochs)
                return
            watch.epoch(members[index].seed, *event)
            seen[index] += 1
            progress.update()

        def on_result(index: int, replicate: Replicate) -> None:
            done[index] = replicate
            watch.finished(replicate)
            progress.update(epochs - seen[index])  # resumed, or stopped early

        waiting = [index for index in range(len(members)) if index not in done]
        if setting.compute.engine == "population":
            _run_populations(setting, members, store, set(waiting), on_event, on_result)
        elif setting.compute.device == "cpu":
            _run_side_by_side(setting, members, store, waiting, workers, on_event, on_result)
        else:  # CUDA does not survive a fork: one after another, here
            for index in waiting:
                on_result(index, _train(setting, members[index], store, partial(on_event, index)))
    return [done[index] for index in range(len(members))]


def _company(setting: Setting, members: Sequence[Member]) -> list[Sequence[Member]]:
    """Return the members of each one's population; nobody for the loop, which trains each alone."""
    company: list[Sequence[Member]] = [()] * len(members)
    if setting.compute.engine == "population":
        for numbers in populations(setting, members):
            for number in numbers:
                company[number] = [members[other] for other in numbers]
    return company


def _run_side_by_side(
    setting: Setting,
    members: Sequence[Member],
    store: Store | None,
    waiting: Sequence[int],
    workers: int | None,
    on_event: OnEvent,
    on_result: OnResult,
) -> None:
    jobs = [partial(_train, setting, members[index], store) for index in waiting]
    many = workers or worker_count(setting.compute.threads)
    with ending_on_sigterm():
        Pool(jobs, many, setting.compute.threads).run(
            lambda position, event: on_event(waiting[position], event),
            lambda position, replicate: on_result(waiting[position], replicate),
        )


def _run_populations(
    setting: Setting,
    members: Sequence[Member],
    store: Store | None,
    waiting: set[int],
    on_event: OnEvent,
    on_result: OnResult,
) -> None:
    """Train every population that lacks a member; its other members come out the same again."""
    for numbers in populations(setting, members):
        if not waiting.intersection(numbers):
            continue
        company = [members[number] for number in numbers]
        checkpoint = store.checkpoint(company[0], company) if store is not None else None
        for number in numbers:
            on_event(number, (0, {}))
        with noticing_sigterm() as interruption:
            trained = train_population(
                setting,
                company,
                lambda place, event, numbers=numbers: on_event(numbers[place], event),  # type: ignore[misc]  # the default binds the list
                checkpoint,
                interruption,
            )
        for number, replicate in zip(numbers, trained, strict=True):
            if store is not None:
                store.put(members[number], replicate, company)
            on_result(number, replicate)
        if checkpoint is not None:
            checkpoint.remove()


def _train(setting: Setting, member: Member, store: Store | None, emit: Callable[[Any], None]) -> Replicate:
    emit((0, {}))
    checkpoint = store.checkpoint(member) if store is not None else None
    with noticing_sigterm() as interruption:
        replicate = train_replicate(setting, member, emit, checkpoint, interruption)
        if store is not None:
            store.put(member, replicate)
        if checkpoint is not None:
            checkpoint.remove()
    return replicate
