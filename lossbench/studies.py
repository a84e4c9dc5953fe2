"""A user's folder turned into a study: params of its own, and a link to the root's dvc.yaml."""

import os
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from lossbench.data.images import read_header
from lossbench.data.sources.listing import SIDES, images_below
from lossbench.errors import UserError
from lossbench.originals import protect
from lossbench.params import parse_params

LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"name": "cross_entropy"},
    "focal": {"name": "focal", "gamma": 2.0},
    "dice": {"name": "dice"},
    "hinge": {"name": "hinge"},
}


def new_study(name: str, data: Path, root: Path) -> Path:
    """Make ``studies/<name>`` for a folder of images.

    Args:
        name: letters, digits, '_' and '-'.
        data: one folder per class, or images/ and masks/, each perhaps under train/, val/, test/.
        root: of the checkout.

    Raises:
        UserError: if the name is taken or no name, or the folder is none that we can read.

    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"NAME is '{name}'; allowed: letters, digits, '_' and '-'")
    folder = _expanded(data)
    if not folder.is_dir():
        raise UserError(f"DATA is '{data}': no such folder")
    study = root / "studies" / name
    if os.path.lexists(study):
        raise UserError(f"{study}: exists already; choose another NAME")
    content = params_for(name, folder.resolve())
    protect(parse_params(content), study)
    study.mkdir(parents=True)
    (study / "dvc.yaml").symlink_to(Path("../../dvc.yaml"))
    yaml = YAML()
    yaml.default_flow_style = False
    with (study / "params.yaml").open("w", encoding="utf-8") as stream:
        stream.write(
            f"# Made by `lossbench new-study {name}`; every knob is explained in the root's params.yaml.\n\n"
        )
        yaml.dump(content, stream)
    return study


def _expanded(data: Path) -> Path:
    """Write ``~`` out: make's quotes keep the shell from it."""
    try:
        return data.expanduser()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"DATA is '{data}': {error}") from None


def params_for(name: str, data: Path) -> dict[str, Any]:
    """Propose params for a folder: the task it shows, a size its images share, and four losses."""
    train = next((one for one in data.iterdir() if SIDES.get(one.name.lower()) == "train"), data)
    masks = (train / "masks").is_dir() and (train / "images").is_dir()
    height, width, channels = common_size(train / "images" if masks else train, masks)
    dataset: dict[str, Any] = {
        "source": "segmentation_folder" if masks else "image_folder",
        "path": os.fspath(data),
        "size": [height, width],
        "channels": channels,
    }
    return {
        "root": "../..",
        "datasets": {name: dataset},
        "experiments": {name: experiment_for(name, masks, min(height, width))},
        "losses": LOSSES,
        "arms": {f"{name}-{loss}": {"experiment": name, "dataset": name, "loss": loss} for loss in LOSSES},
        "seeds": list(range(8)),
        "compute": {"device": "cpu", "engine": "loop", "precision": "fp32", "threads": 1},
        "tuning": {"trials": 3, "seeds": [1000], "learning_rate": {"low": 0.001, "high": 0.01}},
        "comparison": {"baseline": "cross_entropy", "level": 0.05, "contrasts": "baseline"},
    }


def experiment_for(name: str, masks: bool, side: int) -> dict[str, Any]:
    """Propose task, model and recipe; a U-Net's deepest level keeps 2×2, for batch norm of a batch of one."""
    depth = min(3, side.bit_length() - 2)
    return {
        "task": "segmentation" if masks else "classification",
        "dataset": name,
        "model": {"name": "unet", "width": 16, "depth": depth}
        if masks
        else {"name": "simple_cnn", "width": 32, "layers": 3},
        "recipe": {
            "epochs": 20,
            "batch_size": 16 if masks else 32,
            "optimizer": {"name": "adam", "learning_rate": 0.003},
            "schedule": {"name": "cosine"},
            "augmentation": {"flip": True, "shift": 2},
            "drop_last": False,
        },
        "metric": "mean_iou" if masks else "balanced_accuracy",
        "margin": 0.02,
    }


def common_size(folder: Path, masks: bool) -> tuple[int, int, int]:
    """Propose (height, width, channels): of the first image, at most 128 a side, divisible by 8 for a U-Net.

    Raises:
        UserError: if the folder holds no image.

    """
    files = images_below(folder)
    if not files:
        raise UserError(f"{folder}: no images; expected a folder per class, or images/ and masks/")
    first = read_header(files[0])
    shrink = min(1.0, 128 / max(first.height, first.width))
    step = 8 if masks else 1
    height, width = (max(step, round(side * shrink / step) * step) for side in (first.height, first.width))
    return max(height, 8), max(width, 8), first.channels
