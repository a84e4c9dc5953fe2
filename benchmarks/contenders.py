"""Three ways to train the same network, for benchmarks.training: the tutorial's loop, Lightning, and ours."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH, RATE = 128, 1e-3
VALIDATION, TEST = 512, 2000
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One row: who trains, on how many threads, how many replicates, in which precision."""

    name: str
    by: str
    threads: int
    replicates: int = 1
    precision: str = "fp32"


def ways(replicates: int, side_by_side: bool) -> list[Way]:
    """List the rows; ``replicates`` side by side where the network is small enough for them."""
    cores = len(os.sched_getaffinity(0))
    return [
        Way("tutorial", "tutorial", cores),
        Way("lightning", "lightning", cores),
        Way("ours, one replicate", "ours", cores),
        Way("ours, one replicate, 1 thread", "ours", 1),
        *([Way(f"ours, {replicates} side by side", "ours", 1, replicates)] if side_by_side else []),
        Way("tutorial, bf16", "tutorial", cores, precision="bf16"),
        Way("ours, one replicate, bf16", "ours", cores, precision="bf16"),
    ]


class Problem:
    """What all ways share: data, network, recipe; ``data`` is a fetched dataset of labelled images."""

    def __init__(self, folder: Path, network: Row, samples: int, epochs: int) -> None:
        from lossbench.data.dataset import Dataset
        from lossbench.params import Network
        from lossbench.tasks import task_class

        self.data = Dataset.open(folder)
        self.task = task_class("classification")(self.data.info)
        self.network = Network(**network)
        self.epochs = epochs
        self.steps = epochs * (samples // BATCH)
        self.most = {"train": samples, "validation": VALIDATION, "test": TEST}

    def split(self, name: str) -> Any:
        """Return a split, cut to as many samples as the benchmark wants."""
        from lossbench.data.dataset import Split

        whole, most = self.data.split(name), self.most[name]
        return Split(whole.inputs[:most], whole.targets[:most])

    def build(self) -> Any:
        import torch

        from lossbench.models import build

        torch.manual_seed(0)
        return build(self.network, self.data.info.input_shape, self.task.outputs)


class Cut:
    """The problem's splits, as ``prepare`` wants a dataset."""

    def __init__(self, problem: Problem) -> None:
        self.info, self.folder, self.split = problem.data.info, problem.data.folder, problem.split


def loader(problem: Problem) -> Any:
    """Images one by one through PIL and torchvision's transforms, as torchvision's own datasets do it."""
    import numpy as np
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    info = problem.data.info
    change = transforms.Compose([transforms.ToTensor(), transforms.Normalize(info.mean, info.std)])
    split = problem.split("train")
    images = np.ascontiguousarray(np.moveaxis(np.array(split.inputs), 1, -1).squeeze())
    targets = np.array(split.targets)

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return change(Image.fromarray(images[index])), int(targets[index])

    return DataLoader(Images(), batch_size=BATCH, shuffle=True, drop_last=True)


def tutorial(problem: Problem, way: Way) -> tuple[float, Row]:
    """The loop of pytorch/examples; bf16 by autocast, as the documentation of torch has it."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(way.threads)
    batches, model = loader(problem), problem.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    began = time.perf_counter()
    model.train()
    for _ in range(problem.epochs):
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=way.precision == "bf16"):
                loss = F.cross_entropy(model(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
    return time.perf_counter() - began, model.state_dict()


def with_lightning(problem: Problem, way: Way) -> tuple[float, Row]:
    """A LightningModule of the usual kind, its trainer without logger, bar and checkpoints."""
    import lightning
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(way.threads)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = problem.build()

        def training_step(self, batch: Any, _: int) -> Any:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=RATE)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=problem.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    module, batches = Module(), loader(problem)
    began = time.perf_counter()
    trainer.fit(module, batches)
    return time.perf_counter() - began, module.model.state_dict()


def ours(problem: Problem, way: Way) -> tuple[float, Row]:
    """``prepare`` and ``fit``: loading, forking and a validation after every epoch are in the time."""
    from lossbench.params import Compute, Recipe
    from lossbench.training import Member, fit, prepare

    optimizer = {"name": "adam", "learning_rate": RATE}
    recipe = Recipe.model_validate(
        {"epochs": problem.epochs, "batch_size": BATCH, "optimizer": optimizer, "drop_last": True}
    )
    compute = Compute.model_validate({"threads": way.threads, "precision": way.precision})
    data: Any = Cut(problem)
    began = time.perf_counter()
    setting = prepare(problem.task, data, problem.network, recipe, {"name": "cross_entropy"}, compute)
    replicates = fit(setting, [Member(seed) for seed in range(way.replicates)])
    return time.perf_counter() - began, replicates[0].state


BY = {"tutorial": tutorial, "lightning": with_lightning, "ours": ours}


def train(problem: Problem, way: Way) -> Row:
    """Train in this process; seconds per replicate, test accuracy of the first."""
    import torch

    from lossbench.params import Compute
    from lossbench.training import predict

    if way.by != "ours":
        import torch._dynamo  # the optimizers import it: not to be counted against them
    seconds, state = BY[way.by](problem, way)
    torch.set_num_threads(way.threads)
    test = problem.split("test")
    outputs = predict(problem.task, problem.network, state, test.inputs, Compute())
    accuracy = float((outputs.argmax(1).numpy() == test.targets).mean())
    return {"seconds": seconds / way.replicates, "accuracy": accuracy}


def flops_per_step(problem: Problem) -> int:
    """Multiply-adds times two of one training step (forward, and backward to weights and inputs)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = problem.build()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(BATCH, *problem.data.info.input_shape)).sum().backward()
    return int(counter.get_total_flops())


def ceiling(threads: int, precision: str, seconds: float = 1.0) -> float:
    """FLOP/s of a large matrix product: the most that this many threads give in this precision."""
    import torch

    torch.set_num_threads(threads)
    size, best = 1536, 0.0
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        left @ right
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best
