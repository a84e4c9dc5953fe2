"""Training killed at any moment goes on where it was, to the same bits; finished replicates are kept."""

import multiprocessing
import os
import pickle
import random
import signal
import time
from pathlib import Path

import pytest
from law_cases import mostly_slow
from training_cases import digest, labels_dataset, setting

from lossbench.training import checkpoint
from lossbench.training.fitting import fit, train
from lossbench.training.interruption import EXIT_CODE, Interruption
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.setting import Setting

MEMBERS = [Member(0), Member(1)]
NETWORK = {"name": "simple_cnn", "width": 8, "layers": 2, "hidden": 16, "dropout": 0.3}
AUGMENTATION = {"shift": 1, "flip": True, "noise": 0.1, "cutout": 2}
KILLS = 10


def make(data, **recipe) -> Setting:
    recipe = {"epochs": 12, "checkpoint": "best", "augmentation": AUGMENTATION, **recipe}
    return setting(data, NETWORK, **recipe)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"), train=256)


@pytest.fixture
def eager(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["loop", "population"])
def test_killed_at_random_moments_the_replicates_are_the_undisturbed_ones(data, tmp_path, eager, engine):
    made = setting(
        data, NETWORK, epochs=12, checkpoint="best", augmentation=AUGMENTATION, compute={"engine": engine}
    )
    members = MEMBERS if engine == "population" else MEMBERS[:1]
    undisturbed = [digest(one) for one in fit(made, members)]
    kept = checkpoint.Checkpoint(tmp_path / "a.pt")
    chance = random.Random(1)
    killed = resumed = 0
    while killed < KILLS:
        child = multiprocessing.get_context("fork").Process(
            target=lambda: train(made, members, checkpoint=kept)
        )
        child.start()
        child.join(0.05 + chance.random() * 0.4)
        if child.exitcode is not None:  # it was faster: another round
            assert child.exitcode == 0
            kept.remove()
            continue
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += 1
        resumed += kept.file.exists()
    assert resumed >= 3
    assert [digest(one) for one in train(made, members, checkpoint=kept)] == undisturbed


@pytest.mark.parametrize("asked_at", mostly_slow([5, 1, 17, 16, 40], 2))
def test_interrupted_within_an_epoch_it_goes_on_to_the_same_bits(data, tmp_path, asked_at):
    made = make(data, epochs=4)
    undisturbed = digest(train_replicate(made, MEMBERS[0]))
    kept = checkpoint.Checkpoint(tmp_path / "a.pt")
    interruption = CountDown(asked_at)
    with pytest.raises(SystemExit) as ended:
        train_replicate(made, MEMBERS[0], checkpoint=kept, interruption=interruption)
    assert ended.value.code == EXIT_CODE == 143
    seen: list[int] = []
    after = train_replicate(made, MEMBERS[0], lambda event: seen.append(event[0]), kept)
    assert digest(after) == undisturbed
    assert len(seen) < 4 or asked_at <= 17, "finished epochs were trained again"


class CountDown(Interruption):
    """Asks for an end the n-th time that anyone looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def asked(self) -> bool:
        self.looks -= 1
        return self.looks <= 0


def test_a_torn_checkpoint_is_said_so_and_training_starts_anew(data, tmp_path, capsys):
    made = make(data, epochs=1)
    kept = checkpoint.Checkpoint(tmp_path / "a.pt")
    kept.file.write_bytes(b"half a file")
    found = train_replicate(made, MEMBERS[0], checkpoint=kept)
    assert digest(found) == digest(train_replicate(made, MEMBERS[0]))
    assert "torn" in capsys.readouterr().err


def test_a_checkpoint_cannot_run_code(tmp_path):
    made = checkpoint.Checkpoint(tmp_path / "a.pt")
    made.save({"model": Evil(tmp_path / "ran")})
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        made.load()
    assert not (tmp_path / "ran").exists()


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_checkpoints_take_at_most_their_share_of_the_time(tmp_path, monkeypatch):
    made = checkpoint.Checkpoint(tmp_path / "a.pt")
    assert not made.due
    now = time.monotonic()
    times = iter([now, now + 1.0, now + 1.0, now + 99.0, now + 102.0])
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(times))
    made.save({"step": 1})
    assert [made.due, made.due] == [False, True]
