"""Three ways to train the same network, for benchmarks.training: the tutorial's loop, Lightning, and ours."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lossbench.system import processors

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


def ways(replicates: int) -> list[Way]:
    """List the rows; ours train one replicate on all cores, or ``replicates`` on one core each."""
    cores = processors()
    return [
        Way("tutorial", "tutorial", cores),
        Way("lightning", "lightning", cores),
        Way("ours, one replicate", "ours", cores),
        Way(f"ours, {replicates} side by side", "ours", 1, replicates),
        Way("tutorial, bf16", "tutorial", cores, precision="bf16"),
        Way("ours, one replicate, bf16", "ours", cores, precision="bf16"),
        Way(f"ours, {replicates} side by side, bf16", "ours", 1, replicates, "bf16"),
    ]


class Problem:
    """What all ways share: data, network, recipe; ``data`` is a fetched dataset of labelled images."""

    def __init__(self, folder: Path, network: Row, samples: int, epochs: int) -> None:
        from lossbench.data.dataset import Dataset
        from lossbench.recipe import Network
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

        from lossbench.models.base import build

        torch.manual_seed(0)
        return build(self.network, self.data.info.input_shape, self.task.outputs)


class Cut:
    """The problem's splits, as ``prepare`` wants a dataset."""

    def __init__(self, problem: Problem) -> None:
        self.info, self.folder, self.split = problem.data.info, problem.data.folder, problem.split


def as_taught(model: Any) -> Any:
    """Put each ReLU before its pooling, as tutorials write it: the same function of the same weights."""
    from torch import nn

    if not isinstance(model, nn.Sequential):
        return model
    parts = list(model)
    for index, (one, following) in enumerate(pairwise(parts)):
        if isinstance(one, nn.MaxPool2d) and isinstance(following, nn.ReLU):
            parts[index : index + 2] = following, one
    return nn.Sequential(*parts)


def loader(problem: Problem, name: str, shuffle: bool) -> Any:
    """A split as torchvision's own datasets give it: image by image, through PIL and the transforms."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import CIFAR10, MNIST

    info, split = problem.data.info, problem.split(name)
    images = np.ascontiguousarray(np.moveaxis(np.array(split.inputs), 1, -1))
    kind = CIFAR10 if images.shape[-1] == 3 else MNIST

    dataset: Any = kind.__new__(kind)  # its __init__ would read the files again
    dataset.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(info.mean, info.std)])
    dataset.target_transform = None
    labels = np.array(split.targets)
    grey = kind is MNIST  # which holds tensors, the other arrays and a list
    dataset.data = torch.from_numpy(images.squeeze(-1)) if grey else images
    dataset.targets = torch.from_numpy(labels) if grey else labels.tolist()
    return DataLoader(dataset, batch_size=BATCH if shuffle else 1000, shuffle=shuffle)


def tutorial(problem: Problem, way: Way) -> tuple[float, Row]:
    """The loop of pytorch/examples, a test after each epoch; bf16 by autocast, as torch documents it."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(way.threads)
    batches, unseen = loader(problem, "train", True), loader(problem, "validation", False)
    model = problem.build()
    taught = as_taught(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    began = time.perf_counter()
    for _ in range(problem.epochs):
        taught.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=way.precision == "bf16"):
                loss = F.cross_entropy(taught(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimizer.step()
        taught.eval()
        correct, total = 0, 0.0
        with torch.no_grad():
            for inputs, targets in unseen:
                with torch.autocast("cpu", torch.bfloat16, enabled=way.precision == "bf16"):
                    outputs = taught(inputs)
                total += F.cross_entropy(outputs.float(), targets, reduction="sum").item()
                correct += int((outputs.argmax(1) == targets).sum())
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
            self.kept = problem.build()
            self.model = as_taught(self.kept)

        def training_step(self, batch: Any, _: int) -> Any:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            outputs = self.model(batch[0])
            self.log("loss", F.cross_entropy(outputs, batch[1]))
            self.log("accuracy", (outputs.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.model.parameters(), lr=RATE)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=problem.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    module, batches = Module(), loader(problem, "train", True)
    unseen = loader(problem, "validation", False)
    began = time.perf_counter()
    trainer.fit(module, batches, unseen)
    return time.perf_counter() - began, module.kept.state_dict()


def ours(problem: Problem, way: Way) -> tuple[float, Row]:
    """``prepare`` and ``fit``: loading, forking and a validation after every epoch are in the time."""
    from lossbench.recipe import Compute, Recipe
    from lossbench.training.fitting import fit
    from lossbench.training.member import Member
    from lossbench.training.setting import prepare

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

    from lossbench.recipe import Compute
    from lossbench.training.prediction import predict

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
    """FLOP/s of a large matrix product: the most that this many threads give in this precision.

    In fp32 the better of MKL, which torch takes, and oneDNN: MKL leaves AVX-512 off on processors of others.
    """
    import torch

    torch.set_num_threads(threads)
    half = precision == "bf16"
    kind = torch.bfloat16 if half else torch.float32
    left, right = (torch.randn(1536, 1536).to(kind) for _ in range(2))
    if half or not onednn_in_fp32():
        return _rate(lambda: left @ right, seconds)
    products = torch.backends.mkldnn.matmul
    before, found = products.fp32_precision, []
    try:
        for way in ("none", "bf16"):
            products.fp32_precision = way
            found.append(_rate(lambda: left @ right, seconds))
    finally:
        products.fp32_precision = before
    return max(found)


def onednn_in_fp32() -> bool:
    """Whether oneDNN can be asked for fp32: its switch means bf16 where AMX exists, and fp32 elsewhere."""
    import torch

    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "amx_" not in flags and hasattr(torch.backends.mkldnn, "matmul")


def _rate(multiply: Callable[[], object], seconds: float) -> float:
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        multiply()
        best = max(best, 2 * 1536**3 / (time.perf_counter() - began))
    return best
