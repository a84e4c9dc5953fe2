"""Outputs of a trained replicate."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lossbench.models import build
from lossbench.params import Compute, Network
from lossbench.tasks.base import Task
from lossbench.training.determinism import deterministic
from lossbench.training.portions import channels_last

BATCH = 512


def predict(
    task: Task, network: Network, state: dict[str, Tensor], inputs: npt.NDArray[Any], compute: Compute
) -> Tensor:
    """Compute outputs in evaluation mode.

    Args:
        task: how stored inputs become what the model sees.
        network: the architecture.
        state: its weights and buffers.
        inputs: (N, *input_shape) as stored; read batch by batch.
        compute: the device.

    Returns:
        (N, outputs, *spatial) float32 on the CPU.

    """
    with torch.random.fork_rng(devices=[]), torch.no_grad(), deterministic(compute.device):
        first = task.encode_inputs(torch.from_numpy(np.array(inputs[:1])))
        model = build(without_weights(network), tuple(first.shape[1:]), task.outputs)
        model.load_state_dict(state)
        model = model.to(compute.device).eval()
        if first.ndim == 4:
            model = model.to(memory_format=torch.channels_last)
        parts = []
        for start in range(0, len(inputs), BATCH):
            batch = torch.from_numpy(np.array(inputs[start : start + BATCH])).to(compute.device)
            parts.append(model(channels_last(task.encode_inputs(batch))).float().cpu())
    return torch.cat(parts)


def without_weights(network: Network) -> Network:
    """Drop the file of pretrained weights: a trained state replaces them, and the file may be gone."""
    kept = {key: value for key, value in network.options.items() if key not in ("weights", "sha256")}
    return Network(name=network.name, **kept)
