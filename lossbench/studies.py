"""A user's folder turned into a study: params of its own, and a link to the root's dvc.yaml."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lossbench.commented import commented
from lossbench.data.fetching import class_counts
from lossbench.data.samples import looked_at
from lossbench.data.sources.base import source
from lossbench.data.splits import split
from lossbench.errors import UserError
from lossbench.execution.declared import ensure_looks
from lossbench.look import Look, look
from lossbench.originals import protect
from lossbench.params import Dataset, parse_params
from lossbench.recognition import Found, recognise
from lossbench.system import write_atomically
from lossbench.written import CHAIN

Losses = dict[str, dict[str, Any]]
WEIGHTED = {"name": "cross_entropy", "class_weights": "balanced"}
LABELS: Losses = {
    "cross_entropy": {"name": "cross_entropy"},
    "focal": {"name": "focal", "gamma": 2.0},
    "label_smoothing": {"name": "cross_entropy", "label_smoothing": 0.1},
}
UNEVEN_LABELS: Losses = {"weighted_ce": WEIGHTED, "logit_adjusted": {"name": "logit_adjusted"}}
"""Tried too where classes are uneven; where they are not, both are cross-entropy."""
UNEVEN = 2.0
"""How many times the smallest class the largest is, from which on they count as uneven."""
MASKS: Losses = {
    "cross_entropy": {"name": "cross_entropy"},
    "ce_dice": {"sum": {"cross_entropy": 1.0, "dice": {"weight": 1.0, "over": "batch"}}},
    "dice": {"name": "dice", "over": "batch"},
    "focal": {"name": "focal", "gamma": 2.0},
    "weighted_ce": WEIGHTED,
}
BOXES: Losses = {
    "cross_entropy": {"name": "cross_entropy"},
    "focal": {"name": "focal", "gamma": 2.0},
    "dice": {"name": "dice"},
    "hinge": {"name": "hinge"},
}
BINARY: Losses = {
    "binary_cross_entropy": {"name": "binary_cross_entropy"},
    "focal": {"name": "focal", "gamma": 2.0},
    "asymmetric": {"name": "asymmetric"},
    "hinge": {"name": "hinge"},
}
METRICS = {
    "classification": "balanced_accuracy",
    "segmentation": "mean_iou",
    "detection": "map50",
    "multilabel": "map",
}
SHARES: tuple[dict[str, float], ...] = (
    {},
    {"validation": 0.2, "test": 0.2, "reference": 0.05},
    {"validation": 0.25, "test": 0.25, "reference": 0.0},
    {"validation": 0.35, "test": 0.3, "reference": 0.0},
)
"""Divisions to try, for few images leave a split of the usual shares empty."""
TRIED = 2 * 10**8
"""Pixels of all images up to which they are read and divided before a study is called ready."""


def new_study(name: str, data: Path, root: Path, say: Callable[[str], None] = print) -> Path:
    """Make ``studies/<name>`` for a folder of images.

    Args:
        name: letters, digits, '_' and '-'.
        data: a folder that one of our sources reads.
        root: of the checkout.
        say: takes sentences on what was found, and what is proposed.

    Raises:
        UserError: if the name is taken or no name, or the folder is none that we can read.

    """
    expect_name(name)
    folder = expect_folder(data, "DATA")
    study = root / "studies" / name
    if os.path.lexists(study):
        raise UserError(f"{study}: exists already; choose another NAME")
    if not (root / CHAIN).is_file():
        raise UserError(
            f"{root / CHAIN}: no such file, to which the study would link; go to a checkout, or let "
            f"`lossbench new {name} --data {data}` begin a study in your own repository"
        )
    content = params_for(name, folder.resolve(), say)
    protect(parse_params(content), study)
    study.mkdir(parents=True)
    (study / CHAIN).symlink_to(Path("../..") / CHAIN)
    ensure_looks(study)
    head = f"# Made by `lossbench new-study {name}`. What is commented out is taken as long as it is.\n\n"
    write_atomically(study / "params.yaml", head + commented(content, {}), durable=True)
    return study


def expect_name(name: str) -> None:
    """Refuse what cannot be the name of a study or a dataset."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"NAME is '{name}'; allowed: letters, digits, '_' and '-'")


def expect_folder(data: Path, key: str) -> Path:
    """Find a folder that the user names, with ``~`` written out: make's quotes keep the shell from it.

    Raises:
        UserError: naming ``key``, if it is not there.

    """
    try:
        folder = data.expanduser()
    except RuntimeError as error:  # ~nobody
        raise UserError(f"{key} is '{data}': {error}") from None
    if not folder.is_dir():
        raise UserError(f"{key} is '{data}': no such folder")
    return folder


def params_for(name: str, data: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Propose params for a folder: the task it shows, a size its images share, and losses that suit it.

    Raises:
        UserError: if no source reads the folder as it is.

    """
    found = recognise(data)
    seen = look(found)
    block = {"source": found.source, "path": os.fspath(data), **found.options, **seen.options}
    shares, training, classes = _divided(block, name, found, seen)
    if shares:
        block["splits"] = shares
    for one in (*found.said, *seen.said):
        say(one)
    say(f"proposed: {found.task} with about {training} images to train on")
    losses = losses_for(found.task, classes)
    return {
        "root": "../..",
        "code": "../../plugins",
        "datasets": {name: block},
        "experiments": {name: experiment_for(name, found, seen, training)},
        "losses": losses,
        "arms": {f"{name}-{loss}": {"experiment": name, "dataset": name, "loss": loss} for loss in losses},
        "seeds": list(range(8)),
        "compute": {"device": "cpu", "engine": "loop", "precision": "fp32", "threads": 1},
        # With one tuning seed a sixth of equal losses are told apart, with three a twelfth.
        "tuning": {
            "trials": 5,
            "seeds": [1000, 1001, 1002],
            "learning_rate": {"low": 0.0003, "high": 0.03},
        },
        "comparison": {"baseline": next(iter(losses)), "level": 0.05, "contrasts": "baseline"},
        # Of its own: on a server that studies share, one name would be one champion for all of them.
        "retraining": {"model_name": f"lossbench-{name}".rstrip("_-")},
    }


def losses_for(task: str, counts: Sequence[int] = ()) -> Losses:
    """Propose losses for a task, the baseline first.

    Args:
        task: its name.
        counts: training samples of each class; empty where that is not known.

    """
    if task == "classification":
        uneven = bool(counts) and max(counts) >= UNEVEN * min(counts)
        return {**LABELS, **(UNEVEN_LABELS if uneven else {})}
    return {"segmentation": MASKS, "multilabel": BINARY}.get(task, BOXES)


def _divided(
    block: Mapping[str, Any], name: str, found: Found, seen: Look
) -> tuple[dict[str, float], int, tuple[int, ...]]:
    """Find shares that leave no split empty and no class untrained; few images are read and divided for it.

    Returns:
        the shares, {} for the usual; the number of training images; and that of each class, empty where
        there are too many images to read.

    """
    counts = {side: len(files) for side, files in found.images.items()}
    if seen.pixels > TRIED:
        return {}, counts.get("train", round(0.65 * sum(counts.values()))), ()
    dataset = Dataset.model_validate(block)
    fetched = source(dataset.source, f"datasets.{name}").read(dataset, f"datasets.{name}")
    # Once for all shares.
    groups = {group: looked_at(samples, fetched) for group, samples in fetched.groups.items()}
    problem: UserError | None = None
    for shares in SHARES:
        tried = Dataset.model_validate({**block, "splits": shares})
        try:
            train = split(groups, tried.splits, name)["train"]
        except UserError as error:
            problem = error
            continue
        each = class_counts(train, fetched)
        missing = [one for one, count in zip(fetched.classes, each, strict=True) if not count]
        if not missing:
            return shares, len(train), tuple(int(count) for count in each)
        problem = UserError(f"class '{missing[0]}' has no training sample once images are divided; add some")
    raise UserError(f"{block['path']}: {sum(counts.values())} images are too few: {problem}")


def experiment_for(name: str, found: Found, seen: Look, training: int) -> dict[str, Any]:
    """Propose task, model and recipe.

    Args:
        name: of the dataset.
        found: the folder.
        seen: the size its images get.
        training: images to train on.

    """
    dense = found.task in ("segmentation", "detection")
    most = 8 if found.task == "detection" else 16 if dense else 32
    task, model = _task_and_model(found.task, seen)
    return {
        "task": task,
        "dataset": name,
        "model": model,
        "recipe": {
            "epochs": 20,
            # A handful of steps an epoch at least, and never a batch of one.
            "batch_size": max(2, min(most, training // 4)),
            "optimizer": {"name": "adam", "learning_rate": 0.003},
            "schedule": {"name": "cosine"},
            # Boxes do not move along with their images.
            "augmentation": {"noise": 0.05} if found.task == "detection" else {"flip": True, "shift": 2},
            "drop_last": False,
        },
        "metric": METRICS[found.task],
        "margin": 0.02,
    }


def _task_and_model(task: str, seen: Look) -> tuple[Any, dict[str, Any]]:
    if task == "segmentation":
        return task, {"name": "unet", "width": 16, "depth": seen.halvings}
    if task == "detection":
        stride = seen.stride
        levels = max(0, min(2, (min(seen.size) // stride).bit_length() - 2))  # two cells a side are left
        model = {"name": "grid_detector", "width": 16, "stride": stride, "levels": levels, "blocks": 1}
        return {"name": "detection", "stride": stride, "radius": 1}, model
    return task, {"name": "simple_cnn", "width": 32, "layers": 3}
