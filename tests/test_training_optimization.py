"""Optimizers and schedules are torch's, step by step."""

from itertools import pairwise

import pytest
import torch
from law_cases import each
from torch import nn
from torch.optim import lr_scheduler

from lossbench.recipe import Optimizer, Schedule
from lossbench.training.optimization import l1_penalty, make_optimizer, rate_factor

STEPS = 25
ORACLES = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, weight_decay=0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.05, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.01),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def gradients(model: nn.Module, step: int) -> None:
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
    model(inputs).square().sum().backward()


@each("name", ORACLES)
def test_an_optimizer_takes_torchs_steps(name):
    ours, theirs = network(), network()
    optimizer = make_optimizer(
        list(ours.parameters()), Optimizer(name=name, learning_rate=0.05, weight_decay=0.01)
    )
    oracle = ORACLES[name](theirs.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        oracle.zero_grad()
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step(0.05)
        oracle.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@each("name", ORACLES)
def test_an_optimizer_goes_on_from_its_state_to_the_bit(name):
    params = Optimizer(name=name, learning_rate=0.05, weight_decay=0.01)
    whole, half = network(), network()
    straight = make_optimizer(list(whole.parameters()), params)
    first = make_optimizer(list(half.parameters()), params)
    for step in range(6):
        if step == 3:
            second = make_optimizer(list(half.parameters()), params)
            second.restore(first.state())
            first = second
        for model, optimizer in ((whole, straight), (half, first)):
            optimizer.zero_grad()
            gradients(model, step)
            optimizer.step(0.05)
    assert all(map(torch.equal, whole.parameters(), half.parameters()))


def test_parameters_without_a_gradient_stay():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([unused, used], Optimizer(name="adam", weight_decay=0.1))
    used.sum().backward()
    optimizer.step(0.1)
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))


def rates(schedule: Schedule, steps: int, per_epoch: int) -> list[float]:
    return [rate_factor(schedule, step, steps, per_epoch) for step in range(steps)]


def torch_rates(make, steps: int, each: int = 1) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    schedule = make(optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % each == 0:
            schedule.step()
    return found


@each(
    ("schedule", "oracle", "each"),
    [
        (Schedule(name="cosine"), lambda o: lr_scheduler.CosineAnnealingLR(o, 40), 1),
        (Schedule(name="cosine", final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 40, 0.1), 1),
        (Schedule(name="linear", final=0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 40), 1),
        (Schedule(name="exponential", gamma=0.7), lambda o: lr_scheduler.ExponentialLR(o, 0.7), 4),
        (
            Schedule(name="step", gamma=0.1, step_at=(0.5, 0.75)),
            lambda o: lr_scheduler.MultiStepLR(o, [20, 30]),
            1,
        ),
        (Schedule(name="constant"), lambda o: lr_scheduler.ConstantLR(o, 1.0), 1),
    ],
)
def test_a_schedule_is_torchs(schedule, oracle, each):
    assert rates(schedule, 40, 4) == pytest.approx(torch_rates(oracle, 40, each))


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "exponential", "step"])
def test_a_warm_up_rises_evenly_to_the_full_rate_and_then_the_schedule_begins(name):
    found = rates(Schedule(name=name, warmup=0.25), 40, 4)
    assert found[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert all(later <= earlier for earlier, later in pairwise(found[9:]))


def test_l1_counts_weights_and_leaves_biases_alone():
    model = network()
    expected = sum(one.detach().abs().sum() for one in model.parameters() if one.ndim == 2)
    assert l1_penalty(model).detach().item() == pytest.approx(float(expected))
