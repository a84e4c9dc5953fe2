"""What a GPU gives, in one command and about eight minutes: `python -m benchmarks.gpu`.

Determinism of every loss on every task it fits and its cost, population against loop, agreement of the two,
and the time to 99 % on MNIST and 94 % on CIFAR-10 (`--mnist` and `--cifar` name fetched datasets; without
them the files come as for benchmarks.training). Prints and writes benchmarks/results/gpu.json. Without a GPU
it says so and runs a small twin of all that on the CPU, which it writes to gpu-cpu-twin.json and holds
against no goal of speed.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.common import commit, machine, write
from benchmarks.synthetic import Row, setting, synthetic
from lossbench.data.dataset import Dataset
from lossbench.errors import UserError
from lossbench.losses import REGISTRY, Loss
from lossbench.statistics import tost_p
from lossbench.training import Member, Replicate, Setting, loop, predict
from lossbench.training.determinism import deterministic
from lossbench.training.loop import train_replicate
from lossbench.training.population import train_population

LENET, RESNET = {"name": "lenet"}, {"name": "resnet", "depth": 18}
UNET = {"name": "unet", "depth": 2}
T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """How much is done: enough to measure on a GPU, little on a CPU."""

    device: str
    samples: int
    members: tuple[int, ...]
    steps: int
    repeats: int
    width: int
    pairs: int


FULL = Size("cuda", 2560, (1, 4, 16, 64), 60, 3, 64, 16)
TWIN = Size("cpu", 256, (1, 4), 4, 1, 4, 4)


def sha256(one: Replicate) -> str:
    return hashlib.sha256(b"".join(one.state[k].numpy().tobytes() for k in sorted(one.state))).hexdigest()


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, with the device's queue emptied before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


@contextmanager
def nondeterministic() -> Iterator[None]:
    """Train without deterministic algorithms, to see what they cost."""
    with patch.object(loop, "deterministic", lambda _: nullcontext()):
        yield


def determinism(size: Size, folder: Path) -> list[Row]:
    """Train every loss on each task twice, and once without deterministic algorithms."""
    shape = (3, 32, 32)
    tasks: dict[str, tuple[Dataset, Row]] = {
        "classification": (synthetic(folder / "l", "label", shape, size.samples), LENET),
        "multi-label": (synthetic(folder / "b", "multilabel", shape, size.samples), LENET),
        "segmentation": (
            synthetic(folder / "m", "mask", shape, size.samples // 4),
            {**UNET, "width": size.width // 4},
        ),
    }
    with deterministic(size.device):
        if torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("deterministic algorithms only warn: the rows below would prove nothing")
    rows = []
    for name, cls in REGISTRY.items():
        for task, (data, network) in tasks.items():
            if _fits(cls, task):
                rows.append({"part": "determinism", "loss": name, "task": task})
                rows[-1] |= _determinism(data, network, size, _spec(name, cls, task))
                print(f"  {rows[-1]}", flush=True)
    return rows


def _fits(cls: type[Loss], task: str) -> bool:
    if task == "multi-label":
        return cls.multi and not cls.spatial
    return cls.single and not (cls.spatial and task == "classification")


def _spec(name: str, cls: type[Loss], task: str) -> Row:
    if not cls.only_in_sum:
        return {"name": name}
    other = "binary_cross_entropy" if task == "multi-label" else "cross_entropy"
    return {"sum": {other: 1.0, name: 0.1}}


def _determinism(data: Dataset, network: Row, size: Size, spec: Row) -> Row:
    made = setting(data, network, size.device, spec)
    try:
        train_replicate(made, Member(0))  # warm: algorithms chosen, kernels loaded
    except RuntimeError as error:
        return {"equal": False, "error": str(error).splitlines()[0]}
    runs = [timed(lambda: train_replicate(made, Member(0))) for _ in range(2)]
    equal = sha256(runs[0][1]) == sha256(runs[1][1])
    if size is TWIN:  # the CPU knows no other algorithms
        return {"equal": equal}
    with nondeterministic():
        train_replicate(made, Member(0))
        free = min(timed(lambda: train_replicate(made, Member(0)))[0] for _ in range(2))
    return {"equal": equal, "cost": round(min(seconds for seconds, _ in runs) / free - 1, 3)}


def speed(size: Size, folder: Path) -> list[Row]:
    """Models per hour: members one after another, and as a population."""
    grey = synthetic(folder / "g", "label", (1, 28, 28), size.steps * 128)
    colour = synthetic(folder / "c", "label", (3, 32, 32), size.steps * 128)
    rows = []
    for name, data, network in (
        ("lenet", grey, LENET),
        ("resnet18", colour, {**RESNET, "width": size.width}),
    ):
        made = setting(data, network, size.device, batch_size=128)
        train_replicate(made, Member(0))
        alone = min(timed(partial(train_replicate, made, Member(0)))[0] for _ in range(size.repeats))
        for count in size.members:
            rows.append({"part": "speed", "network": name, "members": count})
            rows[-1] |= _population(made, count, alone)
            print(f"  {rows[-1]}", flush=True)
    return rows


def _population(made: Setting, count: int, alone: float) -> Row:
    members = [Member(seed) for seed in range(count)]
    cuda = made.compute.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        timed(lambda: train_population(made, members))
        seconds, _ = timed(lambda: train_population(made, members))
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    return {
        "loop_models_per_hour": round(3600 / alone),
        "population_models_per_hour": round(3600 * count / seconds),
        "faster": round(alone * count / seconds, 2),
        "peak_mib": torch.cuda.max_memory_allocated() // 2**20 if cuda else None,
    }


def agreement(size: Size, folder: Path) -> list[Row]:
    """How far apart the engines are: losses of the first steps, accuracy at the end (TOST at 1 %)."""
    data = synthetic(folder / "a", "label", (1, 28, 28), size.samples)
    members = [Member(seed) for seed in range(size.pairs)]
    early = {str(steps): _first_losses(data, size, steps) for steps in (1, 5, 10)}
    made = setting(data, LENET, size.device, epochs=8)
    together = [_accuracy(one) for one in train_population(made, members)]
    alone = [_accuracy(train_replicate(made, one)) for one in members]
    differences = np.array(together) - np.array(alone)
    same = bool((differences == 0).all())
    row = {
        "part": "agreement",
        "relative_loss_difference_after_steps": early,
        "accuracy_population": round(statistics.mean(together), 4),
        "accuracy_loop": round(statistics.mean(alone), 4),
        "pairs": len(members),
        "tost_p_at_one_percent": 0.0 if same else tost_p(differences, 0.01),
    }
    print(f"  {row}", flush=True)
    return [row]


def _first_losses(data: Dataset, size: Size, steps: int) -> float:
    """Relative difference of the mean loss over the first steps (an epoch of that many)."""
    batch = min(size.samples // steps, 128)
    made = setting(data, LENET, size.device, batch_size=batch, drop_last=True)
    members = [Member(seed) for seed in range(2)]
    pairs = [
        (one.history[0].value, train_replicate(made, member).history[0].value)
        for one, member in zip(train_population(made, members), members, strict=True)
    ]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def _accuracy(one: Replicate) -> float:
    return next(r.value for r in reversed(one.history) if r.metric == "accuracy")


def reaching(folder: Path, network: Row, goal: float, recipe: Row, size: Size, members: int) -> Row:
    """Time per replicate of a population trained to a goal on real data, and the test accuracy reached."""
    data = Dataset.open(folder)
    made = setting(data, network, size.device, engine="population", **recipe)
    seeds = [Member(seed) for seed in range(members)]
    seconds, replicates = timed(lambda: train_population(made, seeds))
    test = data.split("test")
    scores = []
    for one in replicates:
        outputs = predict(made.task, made.network, one.state, test.inputs, made.compute)
        scores.append(float((outputs.argmax(1).numpy() == test.targets).mean()))
    return {
        "goal": goal,
        "mean_accuracy": round(statistics.mean(scores), 4),
        "n": members,
        "seconds_per_replicate": round(seconds / members, 2),
    }


def real_data(given: argparse.Namespace, size: Size, folder: Path) -> list[Row]:
    """Train to the usual marks on MNIST and CIFAR-10; a set that cannot be had is said so."""
    from benchmarks.training import obtain

    cosine = {"name": "cosine", "warmup": 0.1}
    momentum = {"name": "momentum", "learning_rate": 0.4, "weight_decay": 5e-4}
    cases = (
        ("mnist", given.mnist, LENET, 0.99, 16,
         {"epochs": 8, "batch_size": 128, "schedule": cosine, "augmentation": {"shift": 2}}),
        ("cifar10", given.cifar, {"name": "resnet", "depth": 9}, 0.94, 4,
         {"epochs": 24, "batch_size": 512, "schedule": cosine, "optimizer": momentum,
          "augmentation": {"shift": 4, "flip": True, "cutout": 8}}),
    )  # fmt: skip
    rows = []
    for name, fetched, network, goal, members, recipe in cases:
        rows.append({"part": "real data", "dataset": name})
        try:
            data = fetched or obtain(name, folder, small=False)
            rows[-1] |= reaching(data, network, goal, recipe, size, members)
        except UserError as error:
            rows[-1]["error"] = f"not measured: {error}"
        print(f"  {rows[-1]}", flush=True)
    return rows


def goals(rows: Sequence[Row], size: Size, minutes: float) -> list[Row]:
    """Hold the rows against the goals; those of speed on a GPU alone."""
    found: list[Row] = []

    def goal(name: str, bound: float, measured: float | None, met: bool) -> None:
        found.append({"name": name, "goal": bound, "measured": measured, "met": met})

    twice = [row for row in rows if row["part"] == "determinism"]
    equal = sum(row["equal"] for row in twice)
    goal(f"loss × task pairs equal to the bit, of {len(twice)}", len(twice), equal, equal == len(twice))
    (agreed,) = [row for row in rows if row["part"] == "agreement"]
    tost = agreed["tost_p_at_one_percent"]
    goal("population and loop end within 1 % of accuracy: p of TOST", 0.05, tost, tost < 0.05)
    if size is TWIN:
        return found
    cost = statistics.median([row["cost"] for row in twice if "cost" in row])
    goal("what determinism costs, median over losses and tasks", 0.15, cost, cost <= 0.15)
    for network, bound in (("lenet", 10.0), ("resnet18", 2.5)):
        ran = [row for row in rows if row.get("network") == network and "faster" in row]
        name = f"{network}: a population of {ran[-1]['members']}, times as many models an hour as the loop"
        goal(name, bound, ran[-1]["faster"], ran[-1]["faster"] >= bound)
    for row in rows:
        if row["part"] == "real data":
            reached = row.get("mean_accuracy")
            met = reached is not None and reached >= row["goal"]
            goal(f"{row['dataset']}: mean test accuracy", row.get("goal", 0.0), reached, met)
    goal("minutes of the whole", 8.0, minutes, minutes <= 8)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mnist", type=Path, help="fetched dataset, for the time to 99 %%")
    parser.add_argument("--cifar", type=Path, help="fetched dataset, for the time to 94 %%")
    parser.add_argument(
        "--twin", action="store_true", help="the small twin on the CPU, though there is a GPU"
    )
    given = parser.parse_args(arguments)
    size = FULL if torch.cuda.is_available() and not given.twin else TWIN
    if size is TWIN:
        print("No GPU is used: this is the small twin on the CPU; its speeds say nothing about a GPU.")
        torch.set_num_threads(1)
    began = time.perf_counter()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in (determinism, speed, agreement):
            print(f"{part.__name__}:", flush=True)
            rows += part(size, Path(folder) / part.__name__)
        if size is FULL:
            rows += real_data(given, size, Path(folder))
    minutes = round((time.perf_counter() - began) / 60, 1)
    checked = goals(rows, size, minutes)
    print("\ngoals")
    for one in checked:
        print(
            f"{'met' if one['met'] else 'MISSED':<7}{one['measured']} (goal {one['goal']:g})  {one['name']}"
        )
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if size is FULL else "no GPU: the small twin on the CPU",
        "machine": machine("torch"),
        "commit": commit(),
        "minutes": minutes,
        "rows": rows,
        "goals": checked,
    }
    print(f"written: {write('gpu' if size is FULL else 'gpu-cpu-twin', result)}")


if __name__ == "__main__":
    main()
