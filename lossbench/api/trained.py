"""Trained networks as modules that take inputs as they were handed over."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from lossbench.data.dataset import DatasetInfo
from lossbench.params import Params
from lossbench.serving.replicate import load_predictor
from lossbench.tasks.base import Task


class Trained(nn.Module):
    """A trained network behind the task's normalisation.

    Attributes:
        network: what was trained; it sees normalised inputs.

    """

    def __init__(self, task: Task, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._task = task

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs as stored, (N, C, H, W) → logits (N, outputs, *spatial)."""
        if not inputs.is_floating_point():  # whole numbers of any type were stored as pixels
            inputs = inputs.to(getattr(torch, self._task.info.dtype))
        logits: Tensor = self.network(self._task.encode_inputs(inputs))
        return logits


def load_trained(params: Params, study: Path, arm: str) -> dict[int, nn.Module]:
    """Load an arm's networks on the CPU: seed → module."""
    chosen = params.arms[arm]
    info = DatasetInfo.read(study / "data" / chosen.dataset)
    folder = study / "models" / chosen.experiment / arm
    described = json.loads((folder / "arm.json").read_bytes())
    made: dict[int, nn.Module] = {}
    for seed in described["seeds"]:
        task, predictor = load_predictor(described, info, folder / f"seed-{seed}.safetensors")
        made[seed] = Trained(task, predictor.model).eval()
    return made
