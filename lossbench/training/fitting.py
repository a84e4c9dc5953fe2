"""Training an arm's members: the one door to whatever engine stands behind it."""

from collections.abc import Callable, Mapping, Sequence

import torch

from lossbench.training.checkpoint import Checkpoint
from lossbench.training.determinism import threads
from lossbench.training.interruption import noticing_sigterm
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member, at_most, populations
from lossbench.training.population import train_population
from lossbench.training.ranks import train_in_ranks
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting

OnEpoch = Callable[[int, int, Mapping[str, float]], None]
"""Told seed, epoch and its values, keyed ``split/metric``."""


def fit(setting: Setting, members: Sequence[Member], on_epoch: OnEpoch = lambda *_: None) -> list[Replicate]:
    """Train the members of an arm, here and now.

    A replicate's bits depend on the setting and its member alone: not on its neighbours or their order (of a
    population: on its members).

    Args:
        setting: the arm, from :func:`lossbench.training.setting.prepare`.
        members: seeds, and what each has of its own.
        on_epoch: told of each epoch.

    Returns:
        A replicate per member, in order.

    """
    if setting.compute.engine == "loop":
        return [train(setting, [member], on_epoch)[0] for member in members]
    done: dict[int, Replicate] = {}
    alike = populations(setting.loss, members)
    for numbers in (part for one in alike for part in at_most(one, setting.compute.members)):
        together = train(setting, [members[number] for number in numbers], on_epoch)
        done |= dict(zip(numbers, together, strict=True))
    return [done[number] for number in range(len(members))]


def train(
    setting: Setting,
    members: Sequence[Member],
    on_epoch: OnEpoch = lambda *_: None,
    checkpoint: Checkpoint | None = None,
    on_memory: Callable[[int], None] = lambda _: None,
) -> list[Replicate]:
    """Train one replicate, or one population; SIGTERM ends it with its checkpoint written.

    Args:
        setting: the arm.
        members: one for the loop; those of a population share a loss.
        on_epoch: told of each epoch.
        checkpoint: where an interrupted training left its state, and leaves it again.
        on_memory: told the bytes of memory held at most, where other processes hold some of it.

    """
    devices = [torch.cuda.current_device()] if setting.compute.device == "cuda" else []
    with (
        torch.random.fork_rng(devices),  # a model draws from the global generators by itself
        threads(setting.compute.threads),
        noticing_sigterm() as interruption,
    ):
        if setting.compute.engine == "population":
            return train_population(
                setting,
                members,
                lambda place, event: on_epoch(members[place].seed, *event),
                checkpoint,
                interruption,
            )
        (member,) = members

        def emit(event: tuple[int, dict[str, float]]) -> None:
            on_epoch(member.seed, *event)

        if setting.compute.processes > 1:
            return [train_in_ranks(setting, member, emit, checkpoint, interruption, on_memory)]
        return [train_replicate(setting, member, emit, checkpoint, interruption)]
