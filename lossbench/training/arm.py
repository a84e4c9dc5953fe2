"""An arm on disk: one safetensors file per seed, a long-form history, and what was trained.

Nothing here differs between two runs: no time, no duration, no run id, no path.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lossbench.training.replicate import Replicate
from lossbench.training.setting import Member, Setting
from lossbench.written import ARM, make_room


def describe(setting: Setting, names: Mapping[str, str], members: Sequence[Member]) -> dict[str, Any]:
    """Say what is trained: names (arm, experiment, dataset, loss), parameters as resolved, device.

    Args:
        setting: the arm.
        names: arm, experiment, dataset and loss.
        members: its replicates.

    """
    first = members[0]
    return {
        **names,
        "task": setting.task.name,
        "task_options": setting.task.options.model_dump(mode="json"),
        "loss_parameters": setting.loss_of(first).parameters_stated(),
        "model": setting.network.model_dump(mode="json"),
        "recipe": setting.recipe_of(first).model_dump(mode="json"),
        "compute": setting.compute.model_dump(mode="json"),
        "seeds": [member.seed for member in members],
    }


def write_arm(folder: Path, described: Mapping[str, Any], replicates: Sequence[Replicate]) -> None:
    """Write ``models/<experiment>/<arm>``."""
    make_room(folder, ARM)
    folder.mkdir(parents=True)
    for replicate in replicates:
        save_file(replicate.state, folder / f"seed-{replicate.seed}.safetensors")
    with (folder / "history.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, ["seed", "epoch", "split", "metric", "value"], lineterminator="\n")
        rows.writeheader()
        for replicate in replicates:
            rows.writerows(history_rows(replicate))
    content = {
        **described,
        "epochs": {str(replicate.seed): replicate.epoch for replicate in replicates},
        "diverged": [replicate.seed for replicate in replicates if replicate.diverged],
    }
    (folder / "arm.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def history_rows(replicate: Replicate) -> list[Mapping[str, object]]:
    """Long form of a replicate's history."""
    return [
        {
            "seed": replicate.seed,
            "epoch": one.epoch,
            "split": one.split,
            "metric": one.metric,
            "value": one.value,
        }
        for one in replicate.history
    ]
