"""What a GPU gives, in one command and about eight minutes: `python -m benchmarks.gpu`.

Determinism of every loss and its cost, population against loop, agreement of the two, and, with
`--mnist data/mnist` and `--cifar data/cifar10` (fetched datasets), the time to 99 % and 94 %. Prints and
writes benchmarks/results/gpu.json. Without a GPU it says so and runs a small twin of all that on the CPU,
which it writes to gpu-cpu-twin.json.
"""

import argparse
import hashlib
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossbench.data.dataset import Dataset, DatasetInfo
from lossbench.losses import REGISTRY
from lossbench.params import Compute, Network, Recipe
from lossbench.statistics import tost_p
from lossbench.tasks import task_class
from lossbench.training import Member, Replicate, Setting, loop, predict, prepare
from lossbench.training.loop import train_replicate
from lossbench.training.population import train_population

HERE = Path(__file__).parent
CLASSES = 10
LENET, RESNET = {"name": "lenet"}, {"name": "resnet", "depth": 18}
UNET = {"name": "unet", "depth": 2}
Row = dict[str, Any]


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


def synthetic(folder: Path, kind: str, shape: tuple[int, int, int], samples: int) -> Dataset:
    """Noise with a bright patch that tells the class."""
    rng = np.random.default_rng(0)
    channels, height, width = shape
    sizes = {"train": samples, "validation": max(64, samples // 8)}
    counts = np.zeros(CLASSES, dtype=np.int64)
    for split, count in sizes.items():
        inputs = rng.integers(0, 160, (count, *shape), dtype=np.uint8)
        if kind == "label":
            targets = rng.integers(0, CLASSES, count)
            for label in range(CLASSES):
                inputs[targets == label, :, 2 * label : 2 * label + 3, :] //= 2
        else:
            targets = rng.integers(0, CLASSES, (count, height // 8, width // 8))
            targets = targets.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
            inputs = (targets[:, None].repeat(channels, axis=1) * 20 + inputs // 4).astype(np.uint8)
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "inputs.npy", inputs)
        np.save(folder / split / "targets.npy", targets)
        counts += np.bincount(targets.ravel(), minlength=CLASSES) if split == "train" else 0
    names = tuple(map(str, range(CLASSES)))
    per_channel = ((0.3,) * channels, (0.2,) * channels)
    target_shape = () if kind == "label" else (height, width)
    info = DatasetInfo(kind, names, shape, target_shape, *per_channel, tuple(counts.tolist()), sizes)  # type: ignore[arg-type]
    info.write(folder)
    return Dataset.open(folder)


def setting(
    data: Dataset, network: Row, size: Size, loss: Row | None = None, engine: str = "loop", **recipe: Any
) -> Setting:
    task = task_class("classification" if data.info.kind == "label" else "segmentation")(data.info)
    compute = Compute.model_validate({"device": size.device, "engine": engine})
    defaults = {"epochs": 1, "batch_size": 64, "optimizer": {"name": "adam", "learning_rate": 1e-3}}
    recipe = {**defaults, **recipe}
    chosen = loss or {"name": "cross_entropy"}
    return prepare(task, data, Network(**network), Recipe(**recipe), chosen, compute)


def sha256(one: Replicate) -> str:
    return hashlib.sha256(b"".join(one.state[k].numpy().tobytes() for k in sorted(one.state))).hexdigest()


def timed(work: Any) -> tuple[float, Any]:
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
    before = loop.deterministic
    loop.deterministic = lambda _: nullcontext()  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.deterministic = before


def determinism(size: Size, folder: Path) -> list[Row]:
    """Train every loss on each task twice, and once without deterministic algorithms."""
    side = 32
    tasks = {
        "classification": (synthetic(folder / "l", "label", (3, side, side), size.samples), LENET),
        "segmentation": (
            synthetic(folder / "m", "mask", (3, side, side), size.samples // 4),
            {**UNET, "width": size.width // 4},
        ),
    }
    rows = []
    for name, cls in REGISTRY.items():
        for task, (data, network) in tasks.items():
            if not cls.single or (cls.spatial and task == "classification"):
                continue
            spec: Row = {"sum": {"cross_entropy": 1.0, name: 0.1}} if cls.only_in_sum else {"name": name}
            rows.append({"loss": name, "task": task, **_determinism(data, network, size, spec)})
            print(f"  {name} {task}: {rows[-1]}", flush=True)
    return rows


def _determinism(data: Dataset, network: Row, size: Size, spec: Row) -> Row:
    made = setting(data, network, size, spec)
    try:
        train_replicate(made, Member(0))  # warm: algorithms chosen, kernels loaded
    except RuntimeError as error:
        return {"equal": False, "error": str(error).splitlines()[0]}
    runs = [timed(lambda: train_replicate(made, Member(0))) for _ in range(2)]
    with nondeterministic():
        train_replicate(made, Member(0))
        free = min(timed(lambda: train_replicate(made, Member(0)))[0] for _ in range(2))
    equal = sha256(runs[0][1]) == sha256(runs[1][1])
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
        made = setting(data, network, size, batch_size=128)
        train_replicate(made, Member(0))
        alone = min(timed(lambda made=made: train_replicate(made, Member(0)))[0] for _ in range(size.repeats))
        for count in size.members:
            rows.append({"network": name, "members": count, **_population(made, count, alone)})
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


def agreement(size: Size, folder: Path) -> Row:
    """How far apart the engines are: losses of the first steps, accuracy at the end (TOST at 1 %)."""
    data = synthetic(folder / "a", "label", (1, 28, 28), size.samples)
    members = [Member(seed) for seed in range(size.pairs)]
    early = [_first_losses(data, size, steps) for steps in (1, 5, 10)]
    made = setting(data, LENET, size, epochs=8)
    together = [_accuracy(one) for one in train_population(made, members)]
    alone = [_accuracy(train_replicate(made, one)) for one in members]
    differences = np.array(together) - np.array(alone)
    same = bool((differences == 0).all())
    return {
        "relative_loss_difference_after_steps": dict(zip(("1", "5", "10"), early, strict=True)),
        "accuracy_population": round(statistics.mean(together), 4),
        "accuracy_loop": round(statistics.mean(alone), 4),
        "pairs": len(members),
        "tost_p_at_one_percent": 0.0 if same else tost_p(differences, 0.01),
    }


def _first_losses(data: Dataset, size: Size, steps: int) -> float:
    """Relative difference of the mean loss over the first steps (an epoch of that many)."""
    batch = size.samples // steps
    made = setting(data, LENET, size, batch_size=min(batch, 128), drop_last=True)
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
    made = setting(data, network, size, engine="population", **recipe)
    seeds = [Member(seed) for seed in range(members)]
    seconds, replicates = timed(lambda: train_population(made, seeds))
    test = data.split("test")
    scores = [
        float(
            (
                predict(made.task, made.network, one.state, test.inputs, made.compute).argmax(1).numpy()
                == test.targets
            ).mean()
        )
        for one in replicates
    ]
    reached = statistics.mean(scores)
    return {
        "goal": goal,
        "mean_accuracy": round(reached, 4),
        "n": members,
        "reached": reached >= goal,
        "seconds_per_replicate": round(seconds / members, 2),
    }


def real_data(given: argparse.Namespace, size: Size) -> Row:
    rows: Row = {}
    cosine = {"name": "cosine", "warmup": 0.1}
    if given.mnist:
        recipe = {"epochs": 8, "batch_size": 128, "schedule": cosine, "augmentation": {"shift": 2}}
        rows["mnist"] = reaching(given.mnist, LENET, 0.99, recipe, size, 16)
    if given.cifar:
        recipe = {
            "epochs": 24,
            "batch_size": 512,
            "schedule": cosine,
            "optimizer": {"name": "momentum", "learning_rate": 0.4, "weight_decay": 5e-4},
            "augmentation": {"shift": 4, "flip": True, "cutout": 8},
        }
        rows["cifar10"] = reaching(given.cifar, {"name": "resnet", "depth": 9}, 0.94, recipe, size, 4)
    return rows


def conclusions(result: Row) -> list[str]:
    rows = result["determinism"]
    unequal = [f"{row['loss']} ({row['task']})" for row in rows if not row["equal"]]
    costs = [row["cost"] for row in rows if "cost" in row]
    lines = [
        f"determinism: {len(rows) - len(unequal)} of {len(rows)} loss × task pairs equal to the bit"
        + (f"; not: {', '.join(unequal)}" if unequal else ""),
        f"its cost: median {statistics.median(costs):.1%}",
    ]
    for name in ("lenet", "resnet18"):
        last = [row for row in result["speed"] if row["network"] == name and "faster" in row][-1]
        lines.append(f"{name}: a population of {last['members']} is {last['faster']}× the loop")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="fetched dataset, for the time to 99 %%")
    parser.add_argument("--cifar", type=Path, help="fetched dataset, for the time to 94 %%")
    given = parser.parse_args(arguments)
    size = FULL if torch.cuda.is_available() else TWIN
    if size is TWIN:
        print(
            "torch finds no GPU here: this is the small twin on the CPU; its speeds say nothing about a GPU."
        )
        torch.set_num_threads(1)
    began = time.perf_counter()
    result: Row = {
        "device": torch.cuda.get_device_name() if size is FULL else platform.processor() or "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as folder:
        for part in (determinism, speed, agreement):
            print(f"{part.__name__}:", flush=True)
            result[part.__name__] = part(size, Path(folder) / part.__name__)
    if size is FULL:
        result["real_data"] = real_data(given, size)
    result["conclusions"] = conclusions(result)
    result["minutes"] = round((time.perf_counter() - began) / 60, 1)
    print("\n".join(result["conclusions"]))
    out = HERE / "results" / ("gpu.json" if size is FULL else "gpu-cpu-twin.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
