"""Data that do not fit stream from the memory map, and the bits are those of data in memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from law_cases import mostly_slow
from training_cases import digest, labels_dataset, masks_dataset, setting

from lossbench.data.dataset import give_back
from lossbench.errors import UserError
from lossbench.training import portions
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.portions import Mapped, Resident, joined, memory_budget

CASES = [
    {"augmentation": {"shift": 1, "flip": True, "noise": 0.1}},
    {"validation": "per_seed"},
    {"batch_size": 7, "drop_last": False},
]


@pytest.fixture(params=[labels_dataset, masks_dataset], ids=["labels", "masks"])
def data(request, tmp_path):
    return request.param(tmp_path)


@pytest.mark.parametrize("recipe", mostly_slow(CASES, 3))
@pytest.mark.parametrize("way", ["stored", "mapped"])
def test_the_bits_are_those_of_data_in_memory(data, recipe, way, monkeypatch):
    in_memory = setting(data, **recipe)
    assert isinstance(in_memory.train.source, Resident)
    expected = digest(train_replicate(in_memory, Member(0)))
    if way == "mapped":
        monkeypatch.setenv("LOSSBENCH_MEMORY", "0")
    else:
        monkeypatch.setattr(portions, "ENCODED_AHEAD", 0)
    made = setting(data, **recipe)
    source = made.train.source
    assert (
        isinstance(source, Mapped)
        if way == "mapped"
        else (not source.inputs_encoded and not source.labels_encoded)
    )
    assert digest(train_replicate(made, Member(0))) == expected


def test_targets_that_are_large_once_encoded_are_validated_as_stored_and_shared_by_all_workers(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(portions, "ENCODED_AHEAD", 0)
    data = masks_dataset(tmp_path)
    resident = setting(data).validation
    assert resident.truth().dtype == torch.uint8
    assert resident.truth().data_ptr() == resident.source.labels.data_ptr()
    assert resident.targets().dtype == torch.int64
    monkeypatch.setenv("LOSSBENCH_MEMORY", "0")
    assert torch.equal(setting(data).validation.truth(), resident.truth())


def test_a_loss_with_maps_of_its_own_streams_alike(tmp_path, monkeypatch):
    loss = {"sum": {"cross_entropy": 1.0, "boundary": 0.1}}
    data = masks_dataset(tmp_path)
    recipe = {"augmentation": {"flip": True, "shift": 1}}
    expected = digest(train_replicate(setting(data, loss=loss, **recipe), Member(0)))
    monkeypatch.setenv("LOSSBENCH_MEMORY", "0")
    assert digest(train_replicate(setting(data, loss=loss, **recipe), Member(0))) == expected


def test_the_next_batches_are_read_while_one_is_used(data, monkeypatch):
    monkeypatch.setenv("LOSSBENCH_MEMORY", "0")
    portion = setting(data).train
    orders = list(torch.arange(len(portion)).split(8))
    read = []
    real = Mapped.take
    monkeypatch.setattr(Mapped, "take", lambda self, index: read.append(index) or real(self, index))
    batches = portion.batches(orders)
    next(batches)
    deadline = time.monotonic() + 5
    while len(read) < 1 + portions.AHEAD:  # with nobody asking for more
        assert time.monotonic() < deadline, "nothing was read ahead"
        time.sleep(0.01)
    rest = list(batches)
    assert len(rest) == len(orders) - 1
    assert torch.equal(rest[-1].inputs, portion.take(orders[-1]).inputs)


def test_an_error_while_reading_reaches_the_trainer(data, monkeypatch):
    monkeypatch.setenv("LOSSBENCH_MEMORY", "0")
    portion = setting(data).train
    with pytest.raises(IndexError):
        list(portion.batches([torch.tensor([0]), torch.tensor([10_000])]))


@pytest.mark.parametrize("value", ["-1", "much", ""])
def test_a_budget_that_is_no_number_is_refused(monkeypatch, value):
    monkeypatch.setenv("LOSSBENCH_MEMORY", value)
    with pytest.raises(UserError, match="LOSSBENCH_MEMORY"):
        memory_budget("cpu")


@pytest.mark.parametrize(("free", "budget"), [(1000, 500), (2**40, 256 * 2**20)])
def test_without_a_budget_half_of_what_is_free_is_taken_and_no_more_than_is_of_use(monkeypatch, free, budget):
    monkeypatch.delenv("LOSSBENCH_MEMORY", raising=False)
    monkeypatch.setattr(portions, "available_memory", lambda: free)
    assert memory_budget("cpu") == budget


def mapped_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:")) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["0", "512"], ids=["streamed", "resident"])
def test_what_was_read_from_the_map_is_given_back(tmp_path, monkeypatch, budget):
    monkeypatch.setenv("LOSSBENCH_MEMORY", budget)
    data = labels_dataset(tmp_path)
    inputs = np.random.default_rng(0).integers(0, 256, (400, 1, 512, 512), dtype=np.uint8)
    np.save(tmp_path / "train" / "inputs.npy", inputs)  # 100 MiB
    np.save(tmp_path / "train" / "targets.npy", np.arange(400) % 3)
    before = mapped_bytes()
    portion = setting(data, {"name": "simple_cnn", "width": 1, "layers": 1, "hidden": 0}).train
    read = torch.cat([portion.take(index).inputs.sum(dim=(1, 2, 3)) for index in portions.parts(400, 20)])
    assert len(read.unique()) > 300
    assert mapped_bytes() - before < 30 * 2**20


def test_a_map_with_changes_of_its_own_and_plain_arrays_are_left_alone(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(10_000))
    changed = np.load(tmp_path / "a.npy", mmap_mode="c")
    changed[:] = 1
    for array in (changed, np.ones(10)):
        give_back(array)
        assert (array == 1).all()


def test_grey_images_have_one_memory_layout_however_they_came():
    images = torch.rand(4, 1, 5, 6)
    several = [images, images.contiguous(memory_format=torch.channels_last), images[:, [0]]]
    assert len({portions.channels_last(one).stride() for one in several}) == 1
    assert all(torch.equal(portions.channels_last(one), images) for one in several)


LARGE = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from training_cases import setting
from lossbench.data.dataset import Dataset
from lossbench.training.member import Member
from lossbench.training.interruption import Interruption
from lossbench.training.loop import train_replicate

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024

most, looks = 0, 0
class Watching(Interruption):
    @property
    def asked(self):
        global most, looks
        most, looks = max(most, resident()), looks + 1
        return looks >= 40
    @asked.setter
    def asked(self, value):
        pass

made = setting(Dataset.open(Path({data!r})), {{"name": "simple_cnn", "width": 1, "layers": 1, "hidden": 0}})
try:
    train_replicate(made, Member(0), interruption=Watching())
except SystemExit:
    print(looks, most)
"""


@pytest.mark.slow
def test_thirty_gigabytes_train_in_less_than_two_of_memory(tmp_path):
    data = labels_dataset(tmp_path)
    side, count = 512, 30 * 2**30 // 512**2
    inputs = np.lib.format.open_memmap(
        tmp_path / "train" / "inputs.npy", "w+", np.uint8, (count, 1, side, side)
    )
    del inputs  # a sparse file: nothing of it was written
    np.save(tmp_path / "train" / "targets.npy", np.arange(count) % 3)
    np.save(tmp_path / "validation" / "inputs.npy", np.zeros((40, 1, side, side), np.uint8))
    assert (tmp_path / "train" / "inputs.npy").stat().st_size > 30 * 2**30
    script = LARGE.format(tests=str(Path(__file__).parent), data=str(data.folder))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LOSSBENCH_MEMORY": "1024"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    steps, most = map(int, ended.stdout.split())
    assert steps == 40
    assert most < 2048


def test_parts_are_joined_as_they_come_and_must_be_as_many_as_was_said():
    parts = [torch.arange(6).reshape(3, 2), torch.arange(6, 10).reshape(2, 2)]
    assert torch.equal(joined(iter(parts), 5), torch.arange(10).reshape(5, 2))
    for wrong in (4, 6):
        with pytest.raises((ValueError, RuntimeError)):
            joined(iter(parts), wrong)
