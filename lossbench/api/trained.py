"""Trained networks as modules that take inputs as they were handed over."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lossbench.data.dataset import DatasetInfo
from lossbench.params import Params
from lossbench.recipe import Compute
from lossbench.tasks.base import Task, task_for
from lossbench.training.prediction import Predictor


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
    experiment = params.experiments[chosen.experiment]
    info = DatasetInfo.read(study / "data" / chosen.dataset)
    task = task_for(experiment.task.name, experiment.metric)(info, experiment.task.options)
    shape = tuple(task.encode_inputs(torch.zeros((1, *info.input_shape), dtype=torch.uint8)).shape[1:])
    folder = study / "models" / chosen.experiment / arm
    seeds = json.loads((folder / "arm.json").read_bytes())["seeds"]
    made: dict[int, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):  # building a model draws its first weights
        for seed in seeds:
            state = load_file(folder / f"seed-{seed}.safetensors")
            made[seed] = Trained(
                task, Predictor(task, experiment.model, state, shape, Compute()).model
            ).eval()
    return made
