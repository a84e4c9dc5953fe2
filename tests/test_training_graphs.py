"""Steps that could be recorded as a CUDA graph end in the bits of steps as they come, on a CPU that has none."""

from typing import Any

import pytest
import torch
from law_cases import mostly_slow
from torch import nn
from training_cases import CNN, UNET, digest, labels_dataset, masks_dataset, setting

from lossbench.checking import check_compute
from lossbench.errors import UserError
from lossbench.recipe import Compute, Optimizer
from lossbench.tasks import task_class
from lossbench.training import graphs
from lossbench.training.graphs import Steps, hindrance
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.optimization import make_optimizer
from lossbench.training.population import train_population

CASES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw on a schedule": {
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup": 0.3},
    },
    "momentum, clipped": {"optimizer": {"name": "momentum", "learning_rate": 0.1}, "gradient_clip": 0.5},
    "nesterov, l1": {"optimizer": {"name": "nesterov", "learning_rate": 0.1}, "l1": 0.01},
    "sgd": {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
    "augmentation": {"augmentation": {"shift": 1, "flip": True, "cutout": 2, "noise": 0.1}},
    "a smaller last batch": {"batch_size": 18, "drop_last": False, "epochs": 5},
    "mixed": {"mixing": {"mixup": 0.4}, "label_smoothing": 0.1},
    "the best epoch": {"checkpoint": "best", "epochs": 3},
}
DROPPING = {**CNN, "dropout": 0.5}


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return labels_dataset(tmp_path_factory.mktemp("labels"), train=92)


@pytest.fixture
def recorded(monkeypatch):
    """Steps that were taken recorded, by the number of graphs there were then."""
    found: list[int] = []
    call = graphs._Recorded.__call__

    def counted(self, given, rates):
        found.append(len(given))
        call(self, given, rates)

    monkeypatch.setattr(graphs._Recorded, "__call__", counted)
    return found


def made(data, engine="loop", network=DROPPING, loss=None, graphs=True, precision="fp32", **recipe):
    compute = {"engine": engine, "graphs": graphs, "precision": precision}
    return setting(data, network, loss, compute, **recipe)


def trained(one):
    if one.compute.engine == "population":
        members = [Member(0), Member(1), Member(2, learning_rate=0.02)]
        return [(digest(each), each.history) for each in train_population(one, members)]
    each = train_replicate(one, Member(0))
    return [(digest(each), each.history)]


@pytest.mark.parametrize("engine", ["loop", "population"])
@pytest.mark.parametrize("case", mostly_slow(CASES, 4))
def test_recorded_steps_end_in_the_same_bits(case, engine, labels, recorded, capsys):
    plain = trained(made(labels, engine, graphs=False, **CASES[case]))
    assert recorded == []
    assert trained(made(labels, engine, **CASES[case])) == plain
    assert len(recorded) > 5
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", [{"loss": {"name": "dice"}}, {"precision": "bf16"}, {"engine": "population"}])
def test_segmentation_does_too(how, tmp_path, recorded):
    data = masks_dataset(tmp_path)
    given = {"network": UNET, "batch_size": 4, **how}
    assert trained(made(data, **given)) == trained(made(data, graphs=False, **given))
    assert len(recorded) > 5


def test_a_step_that_looks_at_more_than_its_tensors_is_trained_as_it_comes(labels, monkeypatch, capsys):
    task = task_class("classification")
    was = task.objective
    calls = []

    def objective(self, *given, **more):
        calls.append(0)
        return was(self, *given, **more) * (1 + len(calls) % 2)

    monkeypatch.setattr(task, "objective", objective)
    found = trained(made(labels))
    assert capsys.readouterr().err == (
        "warning: 'compute.graphs' is true, but steps are trained without (a recorded step ends in other bits "
        "than the same step as it comes); bits are the same, but for what a step keeps elsewhere than in "
        "parameters and buffers\n"
    )
    assert len(found) == 1


def test_what_is_known_not_to_be_recordable_is_said(labels, recorded, capsys):
    plain = {"optimizer": {"name": "rmsprop", "learning_rate": 0.01}}
    assert trained(made(labels, **plain)) == trained(made(labels, graphs=False, **plain))
    assert recorded == []
    assert "without (rmsprop takes its learning rate from the CPU alone)" in capsys.readouterr().err
    model = nn.Sequential(nn.LSTM(2, 2, num_layers=2, dropout=0.5))
    sgd = make_optimizer(list(model.parameters()), Optimizer(name="sgd"))
    one = made(labels)
    assert hindrance(one, [Member(0)], model, [sgd]) == "the dropout within '0' keeps a state of its own"
    assert hindrance(one, [Member(0)], nn.Linear(2, 2), [sgd]) is None
    changing = Member(0, loss={"name": "focal", "gamma": {"from": 0.0, "to": 2.0}})
    assert hindrance(one, [changing], nn.Linear(2, 2), [sgd]) == "the loss changes over the epochs"


def test_batches_of_ever_other_shapes_get_no_graph_each():
    total = torch.zeros(())

    def step(given, rates):
        total.add_(given["x"].sum() * rates[0])

    steps = Steps(step, lambda: [total], Compute(graphs=True), None)
    for size in range(1, 7):
        for _ in range(5):
            steps({"x": torch.ones(size)}, [0.5])
    assert len(steps.recorded) == graphs.SHAPES
    assert total.item() == 0.5 * 5 * sum(range(1, 7))


def test_the_usual_steps_record_nothing():
    assert not Compute().graphs
    with pytest.raises(
        UserError, match=r"'compute.graphs' is true, which GPUs alone have; allowed on the cpu: f"
    ):
        check_compute(Compute(graphs=True))
