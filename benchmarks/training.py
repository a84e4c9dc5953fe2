"""Time to train the same network three ways: `python -m benchmarks.training data/mnist [--network lenet]`.

The tutorial's loop (Dataset, transforms, DataLoader, as in pytorch/examples), Lightning where it is
installed, and ours: same network, data, batch size, epochs, optimizer and precision. Prints a table with
seconds per replicate, speed-up, test accuracy and the share of this machine's matrix-product ceiling, and
writes benchmarks/results/training-<dataset>-<network>.json. Every row runs in a process of its own; rows
are repeated in turn and the fastest of each counts, for the machine's noise only ever adds.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BATCH, RATE = 128, 1e-3
NETWORKS: dict[str, dict[str, Any]] = {
    "lenet": {"name": "lenet"},
    "resnet9": {"name": "resnet", "depth": 9},
    "resnet18": {"name": "resnet", "depth": 18},
}
Row = dict[str, Any]


def ways(replicates: int) -> dict[str, dict[str, Any]]:
    cores = len(os.sched_getaffinity(0))
    one = {"way": "ours", "replicates": 1, "threads": cores}
    rows = {
        "tutorial": {"way": "tutorial", "replicates": 1, "threads": cores, "precision": "fp32"},
        "lightning": {"way": "lightning", "replicates": 1, "threads": cores, "precision": "fp32"},
        "ours, one": {**one, "precision": "fp32"},
        f"ours, {replicates} side by side": {
            "way": "ours",
            "replicates": replicates,
            "threads": 1,
            "precision": "fp32",
        },
        "ours, one, bf16": {**one, "precision": "bf16"},
    }
    if importlib.util.find_spec("lightning") is None:
        del rows["lightning"]
    return rows


class Problem:
    """What all ways share: data, network, recipe."""

    def __init__(self, folder: Path, network: str, samples: int | None, epochs: int) -> None:
        from lossbench.data.dataset import Dataset
        from lossbench.params import Network
        from lossbench.tasks import task_class

        self.data = Dataset.open(folder)
        self.task = task_class("classification")(self.data.info)
        self.network = Network(**NETWORKS[network])
        self.samples, self.epochs = samples, epochs

    def splits(self) -> dict[str, tuple[Any, Any]]:
        parts = {name: self.data.split(name) for name in ("train", "validation", "test")}
        most = {"train": self.samples, "validation": 512, "test": 2000}
        return {name: (one.inputs[: most[name]], one.targets[: most[name]]) for name, one in parts.items()}

    def build(self) -> Any:
        import torch

        from lossbench.models import build

        torch.manual_seed(0)
        return build(self.network, self.data.info.input_shape, self.task.outputs)


def tutorial_data(problem: Problem) -> Any:
    """Images one by one through PIL and torchvision's transforms, as torchvision's own datasets do it."""
    import numpy as np
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    info = problem.data.info
    change = transforms.Compose([transforms.ToTensor(), transforms.Normalize(info.mean, info.std)])
    inputs, targets = problem.splits()["train"]
    images = np.ascontiguousarray(np.moveaxis(np.array(inputs), 1, -1).squeeze())

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return change(Image.fromarray(images[index])), int(targets[index])

    return DataLoader(Images(), batch_size=BATCH, shuffle=True, drop_last=True)


def train_tutorial(problem: Problem) -> tuple[float, dict[str, Any]]:
    import torch
    import torch.nn.functional as F

    loader, model = tutorial_data(problem), problem.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    began = time.perf_counter()
    model.train()
    for _ in range(problem.epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
    return time.perf_counter() - began, model.state_dict()


def train_lightning(problem: Problem) -> tuple[float, dict[str, Any]]:
    import lightning
    import torch
    import torch.nn.functional as F

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = problem.build()

        def training_step(self, batch: Any, _: int) -> Any:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=RATE)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=problem.epochs, **quiet)
    module, loader = Module(), tutorial_data(problem)
    began = time.perf_counter()
    trainer.fit(module, loader)
    return time.perf_counter() - began, module.model.state_dict()


def train_ours(problem: Problem, way: Row) -> tuple[float, dict[str, Any]]:
    from lossbench.params import Compute, Recipe
    from lossbench.training import Member, fit, prepare

    recipe = Recipe(
        epochs=problem.epochs, batch_size=BATCH, optimizer={"name": "adam", "learning_rate": RATE}
    )
    compute = Compute(threads=way["threads"], precision=way["precision"])
    data = Cut(problem)
    began = time.perf_counter()
    setting = prepare(problem.task, data, problem.network, recipe, {"name": "cross_entropy"}, compute)
    replicates = fit(setting, [Member(seed) for seed in range(way["replicates"])])
    return time.perf_counter() - began, replicates[0].state


class Cut:
    """The dataset, cut to as many samples as the benchmark wants."""

    def __init__(self, problem: Problem) -> None:
        self.info, self.folder, self._splits = problem.data.info, problem.data.folder, problem.splits()

    def split(self, name: str) -> Any:
        from lossbench.data.dataset import Split

        return Split(*self._splits[name])


def measure(problem: Problem, way: Row) -> Row:
    """Train one way, in this process; returns seconds per replicate and test accuracy."""
    import torch

    from lossbench.params import Compute
    from lossbench.training import predict

    if way["way"] == "ours":
        seconds, state = train_ours(problem, way)
    else:
        import torch._dynamo  # noqa: F401  # the optimizers import it: not to be counted against them

        train: Callable[[Problem], tuple[float, Row]] = globals()[f"train_{way['way']}"]
        seconds, state = train(problem)
    inputs, targets = problem.splits()["test"]
    outputs = predict(problem.task, problem.network, state, inputs, Compute())
    accuracy = (outputs.argmax(1).numpy() == targets).mean()
    return {"seconds": seconds / way["replicates"], "accuracy": float(accuracy)}


def flops_per_step(problem: Problem) -> int:
    """Multiply-adds times two of one training step."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = problem.build()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(BATCH, *problem.data.info.input_shape)).sum().backward()
    return int(counter.get_total_flops())


def ceiling() -> float:
    """FLOP/s of a large float32 matrix product on all cores: the most that this machine gives."""
    import torch

    size, best = 2048, 0.0
    left, right = torch.randn(size, size), torch.randn(size, size)
    for _ in range(8):
        began = time.perf_counter()
        left @ right
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def in_process(arguments: list[str]) -> Any:
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
    return json.loads(ended.stdout.splitlines()[-1])


def table(rows: dict[str, Row], flops: float, top: float) -> None:
    print(f"\n{'way':<28}{'s/replicate':>12}{'faster':>8}{'accuracy':>10}{'of ceiling':>12}")
    for name, row in rows.items():
        row["faster"] = rows["tutorial"]["seconds"] / row["seconds"]
        row["of_ceiling"] = flops / row["seconds"] / top
        print(
            f"{name:<28}{row['seconds']:>12.2f}{row['faster']:>7.2f}×"
            f"{row['accuracy']:>10.4f}{row['of_ceiling']:>11.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a fetched dataset of labelled images, data/<dataset>")
    parser.add_argument("--network", choices=NETWORKS, default="lenet")
    parser.add_argument("--samples", type=int, help="training samples; all by default")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    given = parser.parse_args()
    problem = Problem(given.data, given.network, given.samples, given.epochs)
    chosen = ways(given.replicates)
    if given.way == "ceiling":
        print(json.dumps([ceiling(), flops_per_step(problem)]))
    elif given.way:
        print(json.dumps(measure(problem, chosen[given.way])))
    else:
        compare(given, problem, chosen)


def compare(given: argparse.Namespace, problem: Problem, chosen: dict[str, Row]) -> None:
    found: dict[str, Row] = {}
    top, per_step = 0.0, 0
    for _ in range(given.repeats):
        for name in ["ceiling", *chosen]:
            row = in_process([*sys.argv[1:], "--way", name])
            if name == "ceiling":
                top, per_step = max(top, row[0]), row[1]
                continue
            print(f"{name}: {row['seconds']:.2f} s a replicate", flush=True)
            best = found.get(name)
            found[name] = row if best is None or row["seconds"] < best["seconds"] else best
    steps = given.epochs * (len(problem.splits()["train"][0]) // BATCH)
    table(found, per_step * steps, top)
    if "lightning" not in found:
        print("Lightning is not installed here: no row for it.")
    import torch

    result = {
        "dataset": given.data.name,
        "network": given.network,
        "epochs": given.epochs,
        "samples": len(problem.splits()["train"][0]),
        "batch": BATCH,
        "rows": found,
        "ceiling_flops": top,
        "cores": len(os.sched_getaffinity(0)),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    out = HERE / "results" / f"training-{given.data.name}-{given.network}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
