"""A replicate's bits depend on its seed and setting, and on nothing beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_cases import digest, labels_dataset, masks_dataset, setting

from lossbench.training.fitting import fit
from lossbench.training.member import Member
from lossbench.training.samples import Plan

SEEDS = [Member(seed) for seed in (3, 1, 4)]
CHILD = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from training_cases import digest, setting
from lossbench.data.dataset import Dataset
from lossbench.training.fitting import fit
from lossbench.training.member import Member
made = setting(Dataset.open(Path({data!r})))
replicates = fit(made, [Member(3), Member(1)])
import json
heavy = ("mlflow", "dvc", "great_expectations", "torchvision", "torch._dynamo", "torch._inductor", "pandas")
print(json.dumps([[digest(one) for one in replicates], [name for name in heavy if name in sys.modules]]))
"""


def child(data: Path, **environment: str) -> list[list[str]]:
    script = CHILD.format(tests=str(Path(__file__).parent), data=str(data))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def alone(labels):
    return {one.seed: digest(fit(setting(labels), [one])[0]) for one in SEEDS}


def test_seeds_differ(alone):
    assert len(set(alone.values())) == len(SEEDS)


def test_order_does_not_matter(labels, alone):
    backwards = fit(setting(labels), SEEDS[::-1])
    assert [digest(one) for one in backwards] == [alone[one.seed] for one in SEEDS[::-1]]


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["3", "1"])
def test_neither_omp_num_threads_nor_another_process_changes_bits(labels, alone, threads):
    digests, heavy = child(labels.folder, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    assert digests == [alone[3], alone[1]]
    assert heavy == [], "training must not import these: they cost seconds in every process"


def test_the_global_generator_does_not_matter_and_is_left_alone(labels, alone):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert digest(fit(setting(labels), SEEDS[:1])[0]) == alone[3]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_block_shares_initialisation_order_and_augmentation_whatever_the_loss(tmp_path):
    data = masks_dataset(tmp_path)
    many = [
        setting(data, loss={"name": name}, augmentation={"shift": 2, "flip": True, "noise": 0.1})
        for name in ("cross_entropy", "dice", "hinge")
    ]
    weights = [made.model_of(7).state_dict() for made in many]
    epochs = [Plan(made, 7).epoch(2) for made in many]
    noises = [Plan(made, 7).noise(2, 1, 4) for made in many]
    for other in (1, 2):
        assert all(torch.equal(weights[0][name], weights[other][name]) for name in weights[0])
        assert torch.equal(epochs[0].order, epochs[other].order)
        assert torch.equal(epochs[0].draws.shift, epochs[other].draws.shift)
        assert torch.equal(epochs[0].draws.flip, epochs[other].draws.flip)
        assert torch.equal(noises[0], noises[other])


def test_epochs_and_seeds_have_orders_of_their_own(labels):
    made = setting(labels)
    orders = [tuple(Plan(made, seed).epoch(number).order.tolist()) for seed in (0, 1) for number in (1, 2)]
    assert len(set(orders)) == 4
    assert all(len(set(order)) == 96 for order in orders)


def test_a_seed_divides_training_and_validation_samples_anew(labels):
    made = setting(labels, validation="per_seed")
    divisions = [made.division(seed) for seed in (0, 1)]
    for train, validation in divisions:
        both = torch.cat([train.rows, validation.rows])
        assert sorted(both.tolist()) == list(range(136))
        assert (len(train), len(validation)) == (96, 40)
    assert not torch.equal(divisions[0][0].rows, divisions[1][0].rows)
    assert torch.equal(divisions[0][0].rows, setting(labels, validation="per_seed").division(0)[0].rows)
