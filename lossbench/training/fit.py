"""Training many replicates of an arm: the one door to whatever engine stands behind it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lossbench.progress import bar
from lossbench.training.interruption import ending_on_sigterm, noticing_sigterm
from lossbench.training.loop import train_replicate
from lossbench.training.replicate import Observer, Replicate
from lossbench.training.setting import Member, Setting
from lossbench.training.store import Store
from lossbench.training.workers import Pool, worker_count


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
    done: dict[int, Replicate] = {}
    for index, member in enumerate(members):
        found = store.get(member) if store is not None else None
        if found is not None:
            done[index] = found
    waiting = [index for index in range(len(members)) if index not in done]
    epochs = setting.recipe.epochs
    with bar(len(members) * epochs, label) as progress:
        progress.update(len(done) * epochs)
        for index, replicate in done.items():
            watch.started(members[index].seed, epochs)
            watch.finished(replicate)

        def on_event(position: int, event: tuple[int, dict[str, float]]) -> None:
            member = members[waiting[position]]
            if event[0] == 0:
                watch.started(member.seed, epochs)
                return
            watch.epoch(member.seed, *event)
            progress.update()

        def on_result(position: int, replicate: Replicate) -> None:
            done[waiting[position]] = replicate
            watch.finished(replicate)

        jobs = [partial(_train, setting, members[index], store) for index in waiting]
        many = 1 if setting.compute.device == "cuda" else workers or worker_count(setting.compute.threads)
        _run(jobs, many, setting, on_event, on_result)
    return [done[index] for index in range(len(members))]


def _run(
    jobs: Sequence[Callable[[Any], Replicate]],
    workers: int,
    setting: Setting,
    on_event: Callable[[int, Any], None],
    on_result: Callable[[int, Replicate], None],
) -> None:
    if setting.compute.device == "cpu":
        with ending_on_sigterm():
            Pool(jobs, workers, setting.compute.threads).run(on_event, on_result)
        return
    for position, job in enumerate(jobs):  # CUDA does not survive a fork: one after another, here
        on_result(position, job(partial(on_event, position)))


def _train(setting: Setting, member: Member, store: Store | None, emit: Callable[[Any], None]) -> Replicate:
    emit((0, {}))
    checkpoint = store.checkpoint(member) if store is not None else None
    with noticing_sigterm() as interruption:
        replicate = train_replicate(setting, member, emit, checkpoint, interruption)
    if store is not None:
        store.put(member, replicate)
    return replicate
