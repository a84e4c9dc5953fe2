"""One replicate in several processes is the one of a single process, but for rounding."""

import math
import os
import pickle
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from hypothesis import given
from hypothesis import strategies as st
from law_cases import each
from ranks_cases import furthest, results
from torch import Tensor, nn
from training_cases import digest, labels_dataset, setting

from benchmarks.synthetic import losses_for, synthetic
from benchmarks.synthetic import setting as synthetic_setting
from lossbench.checking import check_compute
from lossbench.errors import GateError, UserError
from lossbench.execution import local
from lossbench.execution.checkpoints import SharedCheckpoint
from lossbench.losses import REGISTRY
from lossbench.recipe import Compute
from lossbench.store import Store
from lossbench.tasks.base import task_for
from lossbench.training import checkpoint, ranks
from lossbench.training.collectives import part_of
from lossbench.training.distributed import Ranks
from lossbench.training.faults import GONE
from lossbench.training.fitting import fit, train
from lossbench.training.group import ALONE, Group
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.parts import Part, differs
from lossbench.training.setting import Setting

CLOSE = 1e-5
MEMBER = Member(0)
SGD = {"name": "momentum", "learning_rate": 0.05}
DROPPING = {"name": "simple_cnn", "width": 4, "layers": 2, "hidden": 8, "dropout": 0.3}
NORMAL = {
    "network": {"name": "resnet", "depth": 9, "width": 4},
    "batch_size": 5,
    "optimizer": {"name": "momentum", "learning_rate": 0.005},
}
"""With batch normalisation, which a batch of one cannot have where one position is left.

At ten times the rate weights that begin 1e-7 apart end 1e-4 apart, in one process as in two.
"""
UNEVEN = {"batch_size": 7, "drop_last": False, "optimizer": SGD}
"""Seven samples are four and three; of 15 the last is one, which every process computes."""
LARGE = {"shift": 1, "flip": True, "vertical_flip": True, "cutout": 2, "noise": 0.2}
KNOBS: dict[str, dict[str, Any]] = {
    "dropout and an uneven last batch": {"network": DROPPING},
    "batch normalisation": {**NORMAL},
    "augmentation": {**NORMAL, "augmentation": LARGE},
    "mixing": {"network": DROPPING, "mixing": {"mixup": 0.4, "cutmix": 1.0}, "label_smoothing": 0.1},
    "penalty and clipping": {**NORMAL, "l1": 1e-3, "gradient_clip": 0.1},
    "adam": {**NORMAL, "optimizer": {"name": "adam", "learning_rate": 1e-3}},
    "learned weights": {
        **NORMAL,
        "loss": {"sum": {"cross_entropy": "learned", "dice": "learned"}},
    },
    "a schedule of the loss": {**NORMAL, "loss": {"name": "focal", "gamma": {"from": 0, "to": 2}}},
    "early stopping and the best epoch": {
        "network": DROPPING,
        "epochs": 4,
        "early_stopping": 1,
        "checkpoint": "best",
    },
    "a balanced sampling, divided anew": {"sampling": "balanced", "validation": "per_seed"},
    "fewer samples than processes": {"network": DROPPING, "batch_size": 1, "epochs": 1},
}
KINDS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "label": ((1, 8, 8), DROPPING),
    "multilabel": ((1, 8, 8), DROPPING),
    "mask": ((1, 8, 8), {"name": "unet", "width": 4, "depth": 1, "convolutions": 1, "dropout": 0.5}),
    "boxes": ((3, 16, 16), {"name": "grid_detector", "width": 4, "levels": 1}),
    "anomaly": ((3, 16, 16), {"name": "autoencoder", "width": 4}),
    "tokens": ((12,), {"name": "lstm", "embedding": 4, "hidden": 8, "dropout": 0.5, "truncate": 5}),
}
FEW = ("boxes", "anomaly", "tokens")
"""Kinds that are trained with two losses: those have all been seen with another kind."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"), train=15)


def state(made: Setting, group: Ranks | None = None) -> tuple[dict[str, Tensor], list[Any]]:
    """Train, and give weights and history."""
    found = train_replicate(made, MEMBER, **({} if group is None else {"group": group}))
    return found.state, [(one.epoch, one.split, one.metric, one.value) for one in found.history]


def assert_close(alone: Any, others: list[Any], name: str) -> None:
    """The leading process's weights, and the history of every one, are those of one alone."""
    assert furthest(others[0][0], alone[0]) < CLOSE, name
    for _, history in others:
        assert [one[:3] for one in history] == [one[:3] for one in alone[1]], name
        for one, expected in zip(history, alone[1], strict=True):
            assert math.isclose(one[3], expected[3], rel_tol=CLOSE, abs_tol=CLOSE), (name, one, expected)


@pytest.mark.slow
def test_every_knob_of_a_recipe_trains_as_in_one_process(data, tmp_path):
    cases = {name: setting(data, **{**UNEVEN, **knobs}) for name, knobs in KNOBS.items()}
    found = results(lambda group: {name: state(one, group) for name, one in cases.items()}, tmp_path)
    for name, made in cases.items():
        assert_close(state(made), [one[name] for one in found], name)
        assert furthest(found[0][name][0], made.model_of(0).state_dict()) > 100 * CLOSE, name


@pytest.mark.slow
def test_every_loss_trains_as_in_one_process(tmp_path):
    cases, seen = {}, set()
    for kind, (shape, network) in KINDS.items():
        made = synthetic(tmp_path / kind, kind, shape, 15, validation=8)
        chosen = losses_for(kind)
        for name in list(chosen)[: 2 if kind in FEW else None]:
            seen.add(name)
            cases[f"{kind} {name}"] = synthetic_setting(made, network, loss=chosen[name], **UNEVEN)
    assert seen == set(REGISTRY)
    found = results(lambda group: {name: state(one, group) for name, one in cases.items()}, tmp_path)
    for name, made in cases.items():
        assert_close(state(made), [one[name] for one in found], name)


@pytest.mark.parametrize("world", [2, 3])
def test_bfloat16_differs_by_its_rounding_and_processes_agree_to_the_bit(data, tmp_path, world):
    made = setting(data, DROPPING, compute={"precision": "bf16"}, **UNEVEN)
    found = results(lambda group: state(made, group), tmp_path, world)
    for weights, history in found[1:]:
        assert furthest(weights, found[0][0]) == 0
        assert history == found[0][1]
    assert furthest(found[0][0], state(made)[0]) < 5e-3


@given(st.integers(1, 200), st.integers(1, 9))
def test_parts_are_even_and_all_of_a_batch(count, world):
    parts = [part_of(count, rank, world) for rank in range(world)]
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(count))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert count < world or min(sizes) > 0


class Normalised(nn.Module):
    """Batch normalisation as models call it: a layer, a function, and without what is learned or kept."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.BatchNorm2d(3),
                nn.BatchNorm2d(3, momentum=None),
                nn.BatchNorm2d(3, affine=False),
                nn.BatchNorm2d(3, track_running_stats=False),
            ]
        )
        self.flat = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = F.relu(layer(images * 3 + 1))
        images = F.batch_norm(images, None, None, training=True, eps=1e-3)
        return self.flat(images.mean((2, 3)) ** 2)


def test_batch_normalisation_has_the_values_gradients_and_buffers_of_one_process(tmp_path):
    torch.manual_seed(0)
    model, images = Normalised().double(), torch.randn(7, 3, 4, 5, dtype=torch.float64) + 100
    factor = torch.randn(7, 3, dtype=torch.float64)

    def work(group: Ranks) -> dict[str, Tensor]:
        given = images.clone().requires_grad_()
        outputs = group.outputs(model, given)
        (outputs * factor).sum().backward()
        group.sum_gradients(model.parameters())
        return {
            "outputs": outputs.detach(),
            "inputs": given.grad[part_of(7, group.rank, 2)],
            **{f"gradient of {name}": one.grad for name, one in model.named_parameters()},
            **dict(model.named_buffers()),
        }

    found = results(work, tmp_path)
    given = images.clone().requires_grad_()
    outputs = model(given)
    (outputs.float() * factor).sum().backward()
    for rank, one in enumerate(found):
        expected = {
            "outputs": outputs.detach().float(),
            "inputs": given.grad[part_of(7, rank, 2)],
            **{f"gradient of {name}": each.grad for name, each in model.named_parameters()},
            **dict(model.named_buffers()),
        }
        for name, value in expected.items():
            torch.testing.assert_close(one[name], value, rtol=1e-5, atol=1e-6, msg=f"{name} of {rank}")


DRAWS = {
    "dropout": lambda x: F.dropout(x, 0.4),
    "dropout in place": lambda x: F.dropout(x.clone(), 0.4, inplace=True),
    "dropout of channels": lambda x: F.dropout2d(x, 0.4),
    "dropout by name": lambda x: F.dropout(input=x, p=0.4),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.4, True),
    "feature alpha dropout": lambda x: F.feature_alpha_dropout(x, 0.4, True),
    "noise": lambda x: x + torch.randn_like(x),
    "noise by name": lambda x: x + torch.randn(size=(len(x), 1, 1, 1)) + torch.normal(mean=x, std=x.abs()),
    "whole numbers": lambda x: (
        x + torch.randint(9, (len(x), 1, 1, 1)) + torch.randint(2, 9, (len(x), 1, 1, 1))
    ),
    "noise of a size": lambda x: x + torch.randn(len(x), 1, 1, 1) + torch.rand((len(x), 1, 1, 1)),
    "depth": lambda x: x * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.7),
    "bernoulli": lambda x: torch.bernoulli(torch.sigmoid(x)),
    "gumbel": lambda x: F.gumbel_softmax(x, dim=1),
    "folded": lambda x: F.dropout(x.flatten(0, 1), 0.4).view(x.shape),
    "one for all": lambda x: x + torch.randn(5),
    "none in evaluation": lambda x: F.dropout(x, 0.4, training=False),
}


@each("name", DRAWS)
@each("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_drawn_for_a_part_is_drawn_for_the_whole(name, layout):
    draw = DRAWS[name]
    images = torch.randn(7, 3, 4, 5).contiguous(memory_format=layout)
    torch.manual_seed(1)
    whole, after = draw(images), torch.rand(1)
    for rank in range(2):
        part = part_of(7, rank, 2)
        torch.manual_seed(1)
        with Part(7, part):
            own = draw(images[part])
        assert torch.equal(own, whole[part]), rank
        assert torch.equal(torch.rand(1), after), "the next draw is another"


class Mixing(nn.Module):
    """Looks at the other samples of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(images.flatten(1) - images.flatten(1).mean(0))
        return outputs


class Attending(nn.Module):
    """Draws within one call of torch's what cannot be divided."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.layer(images[:, 0], images[:, 0], images[:, 0])[0]
        return outputs.mean(1)[:, :3]


class BeginsAtZero(Attending):
    """Its last layer hides at first what comes before."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(super().forward(images))
        return outputs


class HardlyAttending(Attending):
    """A branch begins at next to nothing, as scales of layers do (Touvron et al. 2021, 2103.17239)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 1e-6))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :3] + self.scale * super().forward(images)


class Remembering(nn.Module):
    """Keeps a mean of its batches by hand, which counts in evaluation alone."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * flat.mean(0)
        outputs: Tensor = self.head(flat if self.training else flat - self.mean)
        return outputs


@pytest.mark.parametrize("model", [Mixing, Attending, BeginsAtZero, HardlyAttending, Remembering])
def test_a_model_that_cannot_be_divided_is_refused_before_its_first_step(tmp_path, model):
    torch.manual_seed(0)
    made = model()
    before = {name: one.clone() for name, one in made.state_dict().items()}

    def work(group: Ranks) -> str:
        with pytest.raises(UserError) as refused:
            group.outputs(made, torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
        assert furthest(made.state_dict(), before) == 0, "what it was shown is forgotten"
        return str(refused.value)

    (told, _) = results(work, tmp_path)
    assert told.startswith("'compute.processes' is 2, but the model's outputs for a sample, or its buffers, ")
    assert told.endswith("allowed with it: 1")


class Weights(nn.Module):
    """Drops weights, whose rows are twice as many as a part's samples, and shares a mask among samples."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 64))
        self.calls = 0
        self.register_buffer("seen", None)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.seen = torch.tensor(float(self.calls))
        images = images.flatten(1) * images.new_empty(1, 64).bernoulli_(0.5)
        return F.dropout(images @ F.dropout(self.weight, 0.5).T, 0.5) + torch.rand(1)


class Skipping(nn.Module):
    """Leaves its layers out at random, for all samples of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.normal, self.head = nn.BatchNorm2d(1), nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        images = F.dropout(images, 0.2)
        if torch.rand(1) < 0.5:
            images = self.normal(images)
        outputs: Tensor = self.head(images.flatten(1))
        return outputs


class ComputedAgain(nn.Module):
    """Keeps nothing of its middle for the way back."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)
        self.middle = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3))

    def forward(self, images: Tensor) -> Tensor:
        middle = torch.utils.checkpoint.checkpoint(
            self.middle, self.first(images), use_reentrant=self.reentrant
        )
        outputs: Tensor = self.head(middle.flatten(1))
        return outputs


@pytest.mark.parametrize("model", [Weights, Skipping, ComputedAgain, partial(ComputedAgain, reentrant=True)])
def test_a_model_of_any_kind_has_the_gradients_and_buffers_of_one_process(tmp_path, model):
    """Batches of seven, and of two, of which each process has one."""
    torch.manual_seed(0)
    made = model()
    steps = [torch.randn(count, 1, 8, 8) for count in (7, 7, 6, 2, 2, 3, 2)]

    def work(group: Group) -> list[dict[str, Tensor]]:
        one, found = deepcopy(made), []
        for number, images in enumerate(steps):
            one.zero_grad()
            torch.manual_seed(number)
            outputs = group.outputs(one, images)
            group.backward((outputs**2).mean())
            group.sum_gradients(one.parameters())
            gradients = {f"gradient of {name}": each.grad for name, each in one.named_parameters()}
            kept = {name: each.clone() for name, each in one.named_buffers()}
            found.append({"outputs": outputs.detach(), **gradients, **kept})
        return found

    alone = work(ALONE)
    for found in results(work, tmp_path):
        for number, (one, expected) in enumerate(zip(found, alone, strict=True)):
            assert one.keys() == expected.keys()
            for name, value in expected.items():
                told = f"{name} of step {number}"
                if value is None:
                    assert one[name] is None, told
                else:
                    torch.testing.assert_close(one[name], value, rtol=1e-4, atol=1e-5, msg=told)


class Sometimes(nn.Module):
    """One parameter is used by the first process alone, one by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.never = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
        self.first = nn.Parameter(torch.ones(2))


def test_who_finds_no_gradient_gets_that_of_the_others_and_nobody_gets_one_that_none_has(tmp_path):
    def work(group: Ranks) -> list[Tensor | None]:
        model = Sometimes()
        value = model.used.sum() * (group.rank + 1)
        if group.leads:
            value = value + 5 * model.first.sum()
        value.backward()
        group.sum_gradients(model.parameters())
        return [one.grad for one in model.parameters()]

    for used, never, first in results(work, tmp_path):
        assert used.tolist() == [3, 3]
        assert never is None
        assert first.tolist() == [5, 5]


def test_weights_that_part_are_noticed(tmp_path):
    def work(group: Ranks) -> str:
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, 1.0 + group.rank * 1e-7)
        nn.init.zeros_(model.bias)
        with pytest.raises(GateError) as refused:
            group.see_alike(model)
        return str(refused.value)

    assert "have come to different weights" in results(work, tmp_path)[0]


def test_combinations_that_cannot_be_are_refused(monkeypatch):
    monkeypatch.setattr(local, "processors", lambda: 4)
    monkeypatch.delenv("LOSSBENCH_EXECUTOR", raising=False)
    monkeypatch.delenv("LOSSBENCH_WORKERS", raising=False)
    check_compute(Compute(processes=4))
    for compute, told in (
        (
            Compute(processes=2, engine="population"),
            "'compute.engine' is 'population', which several processes",
        ),
        (Compute(processes=2, graphs=True), "'compute.graphs' is 'true', which several processes"),
        (
            Compute(processes=5),
            "'compute.processes' is 5, each with 1 processor, but we have 4 of this machine",
        ),
        (
            Compute(processes=2, threads=3),
            "each with 3 processors, but we have 4 of this machine; allowed here: 1",
        ),
    ):
        with pytest.raises(UserError) as refused:
            check_compute(compute)
        assert told in str(refused.value)
    monkeypatch.setenv("LOSSBENCH_EXECUTOR", "ray")
    check_compute(Compute(processes=5))


def test_a_replicate_takes_as_many_slots_as_it_has_processes(monkeypatch):
    monkeypatch.setattr(local, "processors", lambda: 8)
    monkeypatch.delenv("LOSSBENCH_WORKERS", raising=False)
    assert [local.worker_count(Compute(processes=many)) for many in (1, 2, 3, 8)] == [8, 4, 2, 1]
    assert local.worker_count(Compute(processes=2, threads=2)) == 2
    assert local.sharing(Compute(processes=2), 4) == 8
    monkeypatch.setattr(local.gpus, "ours", lambda: ["3", "5", "7", "9"])
    compute = Compute(device="cuda", processes=2)
    assert local.worker_count(compute) == 2
    assert local.sharing(compute, 2) == 1
    executor = local.LocalExecutor(compute, 2)
    assert [executor._environment(place) for place in (0, 1)] == [
        {local.gpus.VISIBLE: "3,5"},
        {local.gpus.VISIBLE: "7,9"},
    ]


def test_the_world_size_is_part_of_what_is_hashed_where_there_is_more_than_one():
    assert "processes" not in Compute().model_dump(mode="json")
    assert Compute(processes=2).model_dump(mode="json")["processes"] == 2
    assert Compute.model_validate(Compute(processes=2).model_dump()) == Compute(processes=2)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "test_training_ranks:share"])
def test_a_task_travels_with_the_metric_that_decides(data, metric):
    """A class made for a metric stands in no module; another process makes it again from its names."""
    made = task_for("classification", metric)(data.info)
    found = pickle.loads(pickle.dumps(made))  # noqa: S301  # our own bytes
    assert (found.monitor, found.metrics, found.info) == (made.monitor, made.metrics, made.info)
    assert found.options == made.options
    assert type(found).__mro__[-4:] == type(made).__mro__[-4:]


def share(decisions, targets):
    return float((decisions == targets).mean())


def test_a_checkpoint_beside_a_store_that_is_no_folder_travels_to_the_leading_process(tmp_path):
    kept = SharedCheckpoint(tmp_path / "a.pt", Store("memory://ranks"))
    kept.save({"step": 3})
    assert not kept.file.exists()  # the store has it
    arrived = pickle.loads(pickle.dumps(kept))  # noqa: S301  # our own bytes
    assert arrived.load() == {"step": 3}


def test_what_torch_says_of_a_lost_process_is_known():
    assert GONE.search(
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:5"
    )
    nccl = "NCCL error in: a.cpp:12, {}, NCCL version 2.28.9"
    assert GONE.search(nccl.format("remote process exited or there was a network error"))
    assert not GONE.search(nccl.format("unhandled system error (run with NCCL_DEBUG=INFO for details)"))
    assert not GONE.search("mat1 and mat2 shapes cannot be multiplied")


# What follows starts real processes.


@pytest.fixture
def several(data) -> Setting:
    return setting(data, DROPPING, compute={"processes": 2}, epochs=3, **UNEVEN)


def ours() -> list[psutil.Process]:
    """Processes of replicates that this one has started and that still run."""
    return [
        one
        for one in psutil.Process().children(recursive=True)
        if one.status() != psutil.STATUS_ZOMBIE and ranks.MODULE in one.cmdline()
    ]


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_replicate_in_real_processes_repeats_its_bits_and_goes_on_from_its_checkpoint_to_them(
    several, tmp_path
):
    """Asked to end after the first epoch, it writes its state; what goes on ends in the same bits."""
    kept, seen, held = checkpoint.Checkpoint(tmp_path / "a.pt"), [], []

    def ask(_: int, epoch: int, __: Any) -> None:
        seen.append(epoch)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    long = replace(several, recipe=several.recipe.model_copy(update={"epochs": 400}))
    with pytest.raises(SystemExit) as ended:
        train(long, [MEMBER], ask, kept, held.append)
    assert ended.value.code == 143
    assert kept.file.exists()
    assert not ours()
    reached = seen[-1]
    assert 1 <= reached < 400
    assert max(held) > 2 * 50 * 2**20, "the processes' memory is told"
    rest = replace(several, recipe=several.recipe.model_copy(update={"epochs": reached + 1}))
    again: list[int] = []
    (resumed,) = train(rest, [MEMBER], lambda _, epoch, __: again.append(epoch), kept)
    assert 1 not in again
    told: list[int] = []
    (undisturbed,) = fit(rest, [MEMBER], lambda _, epoch, __: told.append(epoch))
    assert told == list(range(1, reached + 2))
    assert digest(resumed) == digest(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_with_one_sentence_and_leaves_none(several, rank, capfd):
    long = replace(several, recipe=several.recipe.model_copy(update={"epochs": 10_000}))

    def kill(_: int, epoch: int, __: Any) -> None:
        if epoch == 2:
            started = sorted(ours(), key=lambda one: one.pid)
            assert len(started) == 2
            started[rank].kill()

    with pytest.raises(GateError) as refused:
        train(long, [MEMBER], kill)
    told = str(refused.value)
    assert told.startswith(
        "one of the 2 processes that train seed 0 ended by signal 9 (SIGKILL), and the others"
    )
    assert "\n" not in told
    assert not ours()
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_was_stopped_is_told_once_each_time(monkeypatch, capfd):
    monkeypatch.setattr(ranks, "STANDS", 0.0)
    children = [subprocess.Popen(["sleep", seconds]) for seconds in ("60", "60", "0")]
    wait_for(lambda: psutil.Process(children[2].pid).status() == psutil.STATUS_ZOMBIE)  # ended, and not asked
    running = [ranks._Rank(child, None, -1) for child in children]
    watch = ranks._Watch(running, 0, None, None, None)

    def told(count: int) -> bool:
        watch._tell_of_stopped(running)
        said.append(capfd.readouterr().err)
        return "".join(said).count("was stopped") == count

    said: list[str] = []
    try:
        assert told(0)
        for time_of_stopping in (1, 2):
            children[1].send_signal(signal.SIGSTOP)
            wait_for(lambda count=time_of_stopping: told(count))
            assert told(time_of_stopping)
            children[1].send_signal(signal.SIGCONT)
            wait_for(lambda: told(-1) or not watch.stopped)
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert "".join(said).startswith(
        f"warning: process {children[1].pid}, one of the 3 processes that train seed 0, was stopped, and the others wait"
    )


@pytest.mark.slow
def test_nothing_outlives_whoever_started_it(several, tmp_path):
    script = tmp_path / "starts.py"
    script.write_text(
        "import sys, pickle\nsys.path[:0] = %r\nfrom lossbench.training.member import Member\n"
        "from lossbench.training.fitting import train\n"
        "again, own = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "from dataclasses import replace\n"
        "train(replace(again(), **own), [Member(0)], lambda *_: print('epoch', flush=True))\n"
        % [str(Path(ranks.__file__).parents[2])]
    )
    own = {"compute": several.compute, "recipe": several.recipe.model_copy(update={"epochs": 10_000})}
    packed = pickle.dumps((several.again, own)).hex()
    process = subprocess.Popen([sys.executable, script, packed], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    started = [one for one in psutil.Process(process.pid).children() if ranks.MODULE in one.cmdline()]
    assert len(started) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started))


@pytest.mark.slow
def test_an_error_of_the_users_is_their_sentence(data, tmp_path, monkeypatch):
    (tmp_path / "breaks.py").write_text(
        "from lossbench.errors import UserError\n"
        "def change(inputs, targets, generator):\n    raise UserError('this is mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = {"own": "breaks:change"}
    made = setting(data, DROPPING, compute={"processes": 2}, augmentation=own, **UNEVEN)
    with pytest.raises(UserError, match=r"^this is mine$"):
        train(made, [MEMBER])
    assert not ours()


class Centred(nn.Module):
    """Centred, it does to a part what it does not do to the whole."""

    def __init__(self, centred: bool) -> None:
        super().__init__()
        self.layer, self.centred = nn.Linear(2, 2), centred

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs - inputs.mean(0) if self.centred else inputs)
        return outputs


def test_whatever_a_process_sees_it_looks_as_often_as_the_others() -> None:
    """Batch normalisation speaks to all of them each time: who looked less would be waited for."""
    seen = []
    for centred in (False, True):
        model = Centred(centred)
        count: list[int] = []
        model.register_forward_pre_hook(lambda _, given, count=count: count.append(len(given[0])))
        assert differs(model, torch.randn(6, 2), lambda _: slice(0, 3), 1e-3) == centred
        seen.append(count)
    assert seen[0] == seen[1]
