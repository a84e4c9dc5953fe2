"""The challenger is chosen by a verdict's test, whose level no rounding of scores may widen."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lossbench.retraining import choice

TIED = (-2, 2, 2, 1, 1, 9, 9, 9)
"""Gains of which 14 of 256 sign vectors give as much or more: p = 0.055. Some do so only as a tie."""


def chosen(monkeypatch: pytest.MonkeyPatch, gains: tuple[int, ...], step: float) -> str:
    base = {seed: 0.9 + 7 * step * seed for seed in range(len(gains))}
    scores = {"ce": base, "dice": {seed: base[seed] + step * gains[seed] for seed in base}}
    monkeypatch.setattr(choice, "ArmOuts", lambda root, experiment, arm: arm)
    monkeypatch.setattr(choice, "validation_scores", lambda outs, params: scores[outs])
    params = SimpleNamespace(
        baseline_of=lambda name: "ce",
        arms_of=lambda name: list(scores),
        comparison=SimpleNamespace(level=0.05),
    )
    return choice.challenger_arm(params, Path(), "x")  # type: ignore[arg-type]  # what it asks


@pytest.mark.parametrize("step", [1 / 256, 1e-4, 1e-5, 1e-6])
def test_an_arm_is_not_chosen_by_the_last_digits_of_its_scores(monkeypatch, step):
    assert chosen(monkeypatch, TIED, step) == "ce"


def test_an_arm_shown_to_be_better_is_chosen(monkeypatch):
    assert chosen(monkeypatch, (5, 4, 6, 5, 4, 5, 6, 5), 1e-3) == "dice"
