"""What a GPU gives, in one command and at most eight minutes: `python -m benchmarks.gpu`.

Whether every task, model, engine, precision and knob repeats to the bit, steps recorded as CUDA graphs
against steps as they come, population against loop, a population's convolutions as products of patches
against torch's, agreement of the engines, every loss on every task it fits and what determinism costs, and
the time to 99 % on MNIST and 94 % on CIFAR-10 (`--mnist` and `--cifar` name fetched datasets; without them
the files come as for benchmarks.training). Each row is written to benchmarks/results/gpu.json when it is
there; one that fails says why, and the next begins: in a new process where the failure took the GPU from its
process, or took the process; what there is no time for says so. Without a GPU it says that, and runs a small
twin on the CPU, which it writes to gpu-cpu-twin.json and holds against no goal of speed.

It needs torch, numpy, scipy, pydantic and safetensors; pycocotools for the rows of detection, which say so
where it is missing; and for real data what benchmarks.training needs, or fetched datasets.
"""

import argparse
import hashlib
import io
import multiprocessing
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.common import commit, machine, write
from benchmarks.synthetic import Row, losses_for, setting, synthetic
from lossbench.data.dataset import Dataset
from lossbench.lifetime import die_with_parent
from lossbench.recipe import Compute
from lossbench.statistics.equivalence import tost_p
from lossbench.training import loop, population
from lossbench.training.determinism import deterministic, stated_precision
from lossbench.training.faults import lost
from lossbench.training.loop import train_replicate
from lossbench.training.member import Member
from lossbench.training.patches import FEWEST
from lossbench.training.population import train_population
from lossbench.training.prediction import predict
from lossbench.training.replicate import Replicate
from lossbench.training.setting import Setting

LENET, RESNET = {"name": "lenet"}, {"name": "resnet", "depth": 18}
RESNET9, UNET = {"name": "resnet", "depth": 9}, {"name": "unet", "depth": 2}
AIRBENCH = {
    "batch_size": 1024,
    "optimizer": {"name": "nesterov", "learning_rate": 1.5, "momentum": 0.85, "weight_decay": 0.0013},
    "schedule": {"name": "cosine", "warmup": 0.2, "final": 0.05},
    "augmentation": {"flip": "alternating", "shift": 2},
}
"""The recipe of studies/cifar10_airbench."""
SMOOTHED = {"name": "cross_entropy", "label_smoothing": 0.2}
MINUTES = 8.0
"""In which the whole is to end."""
LAST = 7.8
"""Minutes after which no row is begun, and one on its way is ended."""
GRACE = 3.0
"""Seconds after that until its process is killed: a call of torch's cannot be interrupted."""
STARTING = 10.0
"""Seconds in which a process that begins after that says of the other rows that there was no time."""
RESERVED = 3.0
"""Of these kept for real data: what is made up ends before."""
SECONDS = 4.0
"""In which a replicate is to reach 94 % on CIFAR-10."""
FRESH = 100
"""First seed on real data: the recipe was chosen by seeds 0 to 2."""
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
    losses: bool
    """Whether every loss is tried, or one of ten."""


FULL = Size("cuda", 2560, (1, 4, 16, 64), 60, 3, 64, 16, losses=True)
TWIN = Size("cpu", 64, (1, 2), 2, 1, 4, 2, losses=False)


@dataclass
class Sheet:
    """The rows as a process measures them; each is told when it is begun, and when it is there.

    Attributes:
        began: the whole, as ``time.perf_counter`` says it.
        tell: whoever writes them.
        known: rows of processes before this one, which are not measured again.

    """

    began: float
    tell: Callable[[str, Any], None]
    known: list[Row] = field(default_factory=list)
    asked: int = 0

    @property
    def minutes(self) -> float:
        """How long the whole has taken."""
        return (time.perf_counter() - self.began) / 60

    def add(self, row: Row, work: Callable[[], Row], until: float = LAST) -> Row:
        """Let ``work`` complete a row while there is time; what it raises stands in the row.

        Raises:
            SystemExit: if this process can use its GPU no more.

        """
        self.asked += 1
        if self.asked <= len(self.known):
            return self.known[self.asked - 1]
        self.tell("begun", row)
        spoils = False
        if self.minutes >= until:
            row["error"] = f"not measured: {until:g} minutes were over"
        else:
            try:
                with ended(after=60 * (LAST - self.minutes)):
                    row |= work()
                    synchronize()  # what a kernel of this row met is said by this row
            except Exception as error:  # of whatever kind: the next row is measured
                row["error"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
                spoils = spoiled(error)
        self.tell("there", row)
        if spoils:
            raise SystemExit(1)
        return row


def synchronize() -> None:
    """Wait for the GPU, where this process uses one."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's own
        torch.cuda.synchronize()


def spoiled(error: Exception) -> bool:
    """Whether a process that met an error can use its GPU no more: CUDA then says so of every call."""
    try:
        synchronize()
    except RuntimeError:
        return True
    return lost(error)


Part = Callable[[Size, Path, Sheet], None]


@dataclass
class Record:
    """The rows, on disk as soon as they are there.

    Attributes:
        result: what is written beside them.
        began: of the whole, as ``time.perf_counter`` says it.

    """

    name: str
    result: Row
    began: float = field(default_factory=time.perf_counter)
    rows: list[Row] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        """How long it has taken."""
        return (time.perf_counter() - self.began) / 60

    def write(self) -> Path:
        """Write what there is."""
        return write(self.name, {**self.result, "minutes": round(self.minutes, 1), "rows": self.rows})

    def measure(self, parts: Sequence[Part], size: Size, folder: Path) -> None:
        """Measure in one process, and in another from the next row on where one ends within a row.

        Raises:
            RuntimeError: if a process ends between two rows.

        """
        context, attempt, code = multiprocessing.get_context("spawn"), 0, None
        while code != 0:
            before, attempt = len(self.rows), attempt + 1
            ours, theirs = context.Pipe(duplex=False)
            given = (theirs, list(self.rows), self.began, parts, size, folder / str(attempt))
            process = context.Process(target=_measure, args=given)
            process.start()
            theirs.close()
            if not self._follow(ours):
                process.kill()
            process.join()
            code = process.exitcode
            self._unfinished(f"its process ended with exit code {code}")
            if code != 0 and len(self.rows) == before:
                raise RuntimeError(f"the process that measures ended with exit code {code} between two rows")

    def _follow(self, pipe: Connection) -> bool:
        """Take what a process tells until it ends; whether it did in time."""
        left = max(60 * (LAST - self.minutes) + GRACE, STARTING)
        until = time.perf_counter() + left
        while pipe.poll(max(0.0, until - time.perf_counter())):
            try:
                kind, content = pipe.recv()
            except (EOFError, OSError):  # it ended, between two messages or within one
                return True
            if kind == "device":
                self.result["device"] = content
            elif kind == "begun":
                self.rows.append(content | {"error": UNFINISHED})
                self.write()
            else:
                self.rows[-1] = content
                print(f"  {content}", flush=True)
                self.write()
        self._unfinished(f"not measured to its end: {LAST:g} minutes were over")
        return False

    def _unfinished(self, why: str) -> None:
        """Say of the last row why it is not there, where it is not."""
        if self.rows and self.rows[-1].get("error") == UNFINISHED:
            self.rows[-1]["error"] = why
            print(f"  {self.rows[-1]}", flush=True)
            self.write()


UNFINISHED = "being measured"


def _measure(
    pipe: Connection, known: list[Row], began: float, parts: Sequence[Part], size: Size, folder: Path
) -> None:
    """Measure, in a process of its own, the rows that are not known."""
    die_with_parent()
    if size.device == "cpu":
        torch.set_num_threads(1)

    def tell(kind: str, content: Any) -> None:
        pipe.send((kind, content))

    if size.device == "cuda" and not known:
        tell("device", torch.cuda.get_device_name())
    sheet = Sheet(began, tell, known)
    for number, part in enumerate(parts):
        part(size, folder / str(number), sheet)


@contextmanager
def ended(after: float) -> Iterator[None]:
    """Raise TimeoutError where a block takes longer than so many seconds; not within a call of torch's."""

    def end(*_: Any) -> None:
        raise TimeoutError(f"not measured to its end: {LAST:g} minutes were over")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(after, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sha256(one: Replicate) -> str:
    return hashlib.sha256(b"".join(one.state[k].numpy().tobytes() for k in sorted(one.state))).hexdigest()


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, with the device's queue emptied before and after."""
    synchronize()
    began = time.perf_counter()
    result = work()
    synchronize()
    return time.perf_counter() - began, result


@contextmanager
def nondeterministic() -> Iterator[None]:
    """Train without deterministic algorithms, to see what they cost: either engine, in the same precision."""
    with (
        patch.object(loop, "deterministic", stated_precision),
        patch.object(population, "deterministic", stated_precision),
    ):
        yield


def variety(size: Size, folder: Path, sheet: Sheet) -> None:
    """Train every task, and every model, engine, precision and knob that has kernels of its own, twice."""
    count, image = size.samples // 4, (3, 32, 32)
    label = synthetic(folder / "l", "label", image, count)
    mask = synthetic(folder / "m", "mask", image, count)
    boxes = synthetic(folder / "b", "boxes", image, count)
    normal = synthetic(folder / "a", "anomaly", image, count)
    tokens = synthetic(folder / "t", "tokens", (64,), count)
    several = {"name": "binary_cross_entropy"}
    wide = size.width // 4
    resnet, unet = {**RESNET9, "width": size.width}, {**UNET, "width": max(4, wide)}
    lstm = {"name": "lstm", "embedding": 4 * wide, "hidden": 8 * wide, "dropout": 0.5}
    detector, autoencoder = {"name": "grid_detector", "width": 16}, {"name": "autoencoder"}
    augmented = {"augmentation": {"shift": 4, "flip": True, "cutout": 8, "noise": 0.1}}
    airbench = {"name": "airbench", "width": wide}
    fast = {**AIRBENCH, "batch_size": 64, "loss": SMOOTHED, "precision": "bf16"}
    cases: tuple[tuple[str, Dataset, Row, Row], ...] = (
        ("batch norm", label, resnet, {}),
        ("batch norm, population", label, resnet, {"engine": "population"}),
        ("bf16", label, resnet, {"precision": "bf16"}),
        ("bf16, population", label, resnet, {"precision": "bf16", "engine": "population"}),
        ("augmentation", label, resnet, augmented),
        ("augmentation, population", label, resnet, {"engine": "population", **augmented}),
        ("momentum, clipped", label, resnet, {"optimizer": {"name": "momentum"}, "gradient_clip": 1.0}),
        ("segmentation with dropout", mask, {**unet, "dropout": 0.5}, {}),
        ("segmentation with dropout, population", mask, {**unet, "dropout": 0.5}, {"engine": "population"}),
        ("detection", boxes, detector, {}),
        ("detection, population", boxes, detector, {"engine": "population"}),
        ("anomaly", normal, autoencoder, {"loss": several}),
        ("anomaly, population", normal, autoencoder, {"loss": several, "engine": "population"}),
        ("airbench", label, airbench, fast),
        ("airbench, population", label, airbench, {**fast, "engine": "population"}),
        ("LSTM with dropout", tokens, lstm, {}),
        ("LSTM with dropout, bf16", tokens, lstm, {"precision": "bf16"}),
        *([("tf32", label, resnet, {"precision": "tf32"})] if size.device == "cuda" else []),
    )
    for name, data, network, how in cases:
        given = {"device": size.device, **how}
        sheet.add(
            {"part": "variety", "what": name},
            partial(_twice, partial(setting, data, network, **given), size),
        )


def losses(size: Size, folder: Path, sheet: Sheet) -> None:
    """Train every loss on each task it fits twice, once as graphs, and without deterministic algorithms."""
    shape = (3, 32, 32)
    with deterministic(Compute(device=size.device)):  # type: ignore[arg-type]  # cpu or cuda
        if torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("deterministic algorithms only warn: the rows below would prove nothing")
    for kind, network, count in (
        ("label", LENET, size.samples),
        ("multilabel", LENET, size.samples),
        ("mask", {**UNET, "width": max(4, size.width // 4)}, size.samples // 4),
    ):
        data = synthetic(folder / kind, kind, shape, count)  # type: ignore[arg-type]  # a kind
        specs = list(losses_for(kind).items())  # type: ignore[arg-type]  # a kind
        for name, spec in specs if size.losses else specs[::10]:
            made = partial(setting, data, network, size.device, spec)
            begun = {"part": "losses", "loss": name, "task": kind}
            sheet.add(begun, partial(_thrice, made, size), LAST - RESERVED)


def _thrice(prepared: Callable[..., Setting], size: Size) -> Row:
    """Whether two trainings give equal bits, and a third with its steps recorded."""
    found = _twice(prepared, size)
    said = io.StringIO()
    with redirect_stderr(said):
        recorded, plain = (_train(prepared(graphs=graphed), 1) for graphed in (True, False))
    found["recorded"] = said.getvalue().strip() or True
    return {**found, "equal_recorded": sha256(recorded[0]) == sha256(plain[0])}


def graphs(size: Size, folder: Path, sheet: Sheet) -> None:
    """Train with steps recorded as CUDA graphs, and as they come: equal bits, and how much faster."""
    batch, wide = 32 if size.samples > 1000 else 8, size.width // 4
    label = synthetic(folder / "l", "label", (3, 32, 32), size.samples)
    mask = synthetic(folder / "m", "mask", (3, 32, 32), size.samples // 2)
    tokens = synthetic(folder / "t", "tokens", (64,), size.samples // 2)
    resnet, dropping = {**RESNET9, "width": size.width}, {**UNET, "width": max(4, wide), "dropout": 0.5}
    lstm = {"name": "lstm", "embedding": 4 * wide, "hidden": 8 * wide, "dropout": 0.5}
    moved = {"precision": "bf16", "augmentation": {"shift": 4, "flip": True}}
    cases: tuple[tuple[str, Dataset, Row, Row], ...] = (
        ("lenet", label, LENET, {}),
        ("batch norm, bf16", label, resnet, moved),
        ("airbench", label, {"name": "airbench", "width": wide}, {**AIRBENCH, "loss": SMOOTHED}),
        ("segmentation with dropout", mask, dropping, {"gradient_clip": 1.0}),
        ("LSTM with dropout", tokens, lstm, {}),
    )
    for name, data, network, how in cases:
        for engine in ("loop", "population") if data is not tokens else ("loop",):
            given = {"device": size.device, "engine": engine, **how, "batch_size": batch}
            made = partial(setting, data, network, **given)
            sheet.add({"part": "graphs", "what": name, "engine": engine}, partial(_recorded, made, size))


def _recorded(prepared: Callable[..., Setting], size: Size) -> Row:
    """Whether steps were recorded and end in the bits of steps as they come; on a GPU how much faster."""
    said, members = io.StringIO(), max(2, min(size.members[-1], 4))
    works = [partial(_train, prepared(graphs=recorded), members) for recorded in (False, True)]
    for work in works:  # warm: algorithms chosen, kernels loaded
        work()
    with redirect_stderr(said):
        (alone, plain), (together, replayed) = [timed(work) for work in works]
    found: Row = {
        "equal": [sha256(one) for one in plain] == [sha256(one) for one in replayed],
        "recorded": said.getvalue().strip() or True,
    }
    if size.device == "cpu":  # it has no graphs: the same steps in tensors that keep their place
        return found
    return {**found, "seconds": round(together, 3), "faster_than_as_they_come": round(alone / together, 2)}


def _twice(prepared: Callable[[], Setting], size: Size) -> Row:
    """Whether two trainings give equal bits; on a GPU also what that costs."""
    made = prepared()
    work = partial(_train, made, max(2, min(size.members[-1], 4)))
    work()  # warm: algorithms chosen, kernels loaded
    runs = [timed(work) for _ in range(2)]
    found: Row = {"equal": [sha256(one) for one in runs[0][1]] == [sha256(one) for one in runs[1][1]]}
    if size.device == "cpu":  # it knows no other algorithms
        return found
    found["seconds"] = round(min(seconds for seconds, _ in runs), 3)
    with nondeterministic():
        work()
        free = min(timed(work)[0] for _ in range(2))
    return {**found, "cost": round(found["seconds"] / free - 1, 3)}


def _train(made: Setting, members: int) -> list[Replicate]:
    if made.compute.engine == "population":
        return train_population(made, [Member(seed) for seed in range(members)])
    return [train_replicate(made, Member(0))]


def speed(size: Size, folder: Path, sheet: Sheet) -> None:
    """Models per hour: members one after another, and as a population."""
    grey = synthetic(folder / "g", "label", (1, 28, 28), size.steps * 128)
    colour = synthetic(folder / "c", "label", (3, 32, 32), size.steps * 128)
    for name, data, network in (
        ("lenet", grey, LENET),
        ("resnet18", colour, {**RESNET, "width": size.width}),
    ):
        made = setting(data, network, size.device, batch_size=128)
        row = sheet.add({"part": "loop", "network": name}, partial(_alone, made, size), LAST - RESERVED)
        counts = size.members if name == "lenet" else size.members[:3]
        for count in counts if "seconds" in row else ():
            begun = {"part": "speed", "network": name, "members": count}
            sheet.add(begun, partial(_population, made, count, row["seconds"]), LAST - RESERVED)


def _alone(made: Setting, size: Size) -> Row:
    """Seconds of one replicate, and the milliseconds of a step."""
    train_replicate(made, Member(0))
    seconds = min(timed(partial(train_replicate, made, Member(0)))[0] for _ in range(size.repeats))
    return {"seconds": seconds, "milliseconds_per_step": round(1000 * seconds / size.steps, 3)}


def _population(made: Setting, count: int, alone: float) -> Row:
    members = [Member(seed) for seed in range(count)]
    cuda = made.compute.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timed(lambda: train_population(made, members))
    seconds, _ = timed(lambda: train_population(made, members))
    return {
        "loop_models_per_hour": round(3600 / alone),
        "population_models_per_hour": round(3600 * count / seconds),
        "faster": round(alone * count / seconds, 2),
        "peak_mib": torch.cuda.max_memory_allocated() // 2**20 if cuda else None,
    }


def patches(size: Size, folder: Path, sheet: Sheet) -> None:
    """Train populations on grey and coloured images with torch's convolutions, and with patches."""
    batch = 128 if size.device == "cuda" else 8
    members = max(size.members[-1], *FEWEST.values())
    for name, shape in (("grey", (1, 28, 28)), ("colour", (3, 32, 32))):
        data = synthetic(folder / name, "label", shape, size.steps * batch)
        made = setting(data, LENET, size.device, engine="population", batch_size=batch)
        before: Row = {}
        for asked in (False, True):
            begun = {"part": "patches", "network": "lenet", "images": name, "members": members}
            work = partial(_convolved, made, members, size, asked, before)
            before = sheet.add({**begun, "patches": asked}, work)


def _convolved(made: Setting, members: int, size: Size, asked: bool, before: Row) -> Row:
    """Milliseconds of a step; of the second row how much faster, and how far off its losses are."""
    cuda = size.device == "cuda"
    with patch.object(population, "in_patches", lambda _: asked):
        work = partial(_train, made, members)
        work()  # warm: algorithms chosen, kernels loaded
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds, trained = min((timed(work) for _ in range(2)), key=lambda run: run[0])
    loss = statistics.mean(next(r.value for r in one.history if r.split == "train") for one in trained)
    milliseconds = round(1000 * seconds / size.steps, 3)
    found: Row = {"milliseconds_per_step": milliseconds, "mean_loss": loss}
    if "mean_loss" in before:
        found["faster"] = round(before["milliseconds_per_step"] / milliseconds, 2)
        found["relative_loss_difference"] = abs(loss - before["mean_loss"]) / before["mean_loss"]
    return {**found, "peak_mib": torch.cuda.max_memory_allocated() // 2**20 if cuda else None}


def agreement(size: Size, folder: Path, sheet: Sheet) -> None:
    """How far apart the engines are: losses of the first steps, accuracy at the end (TOST at 1 %)."""
    sheet.add({"part": "agreement"}, partial(_agreement, folder, size))


def _agreement(folder: Path, size: Size) -> Row:
    members = [Member(seed) for seed in range(size.pairs)]
    early = {str(steps): _first_losses(folder / str(steps), size, steps) for steps in (1, 5, 10)}
    data = synthetic(folder / "whole", "label", (1, 28, 28), size.samples)
    made = setting(data, LENET, size.device, epochs=8 if size.losses else 2)
    together = [_accuracy(one) for one in train_population(made, members)]
    alone = [_accuracy(train_replicate(made, one)) for one in members]
    differences = np.array(together) - np.array(alone)
    same = bool((differences == 0).all())
    return {
        "relative_loss_difference_after_steps": early,
        "accuracy_population": round(statistics.mean(together), 4),
        "accuracy_loop": round(statistics.mean(alone), 4),
        "pairs": len(members),
        "tost_p_at_one_percent": 0.0 if same else tost_p(differences, 0.01),
    }


def _first_losses(folder: Path, size: Size, steps: int) -> float:
    """Relative difference of the mean loss over the first steps: an epoch of that many, which are all."""
    batch = min(size.samples // 10, 128)
    data = synthetic(folder, "label", (1, 28, 28), steps * batch)
    made = setting(data, LENET, size.device, batch_size=batch)
    members = [Member(seed) for seed in range(2)]
    pairs = [
        (one.history[0].value, train_replicate(made, member).history[0].value)
        for one, member in zip(train_population(made, members), members, strict=True)
    ]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def _accuracy(one: Replicate) -> float:
    return next(r.value for r in reversed(one.history) if r.metric == "accuracy")


def reaching(folder: Path, network: Row, goal: float, how: Row, size: Size, members: int) -> Row:
    """Time per replicate of members trained to a goal on real data, and the test accuracy reached."""
    data = Dataset.open(folder)
    made = setting(data, network, size.device, **how)
    seeds = [Member(seed) for seed in range(FRESH, FRESH + members)]
    if made.compute.engine == "population":
        seconds, replicates = timed(lambda: train_population(made, seeds))
    else:
        seconds, replicates = timed(lambda: [train_replicate(made, one) for one in seeds])
    test = data.split("test")
    scores = []
    for one in replicates:
        outputs = predict(made.task, made.network, one.state, test.inputs, made.compute)
        scores.append(float((outputs.argmax(1).numpy() == test.targets).mean()))
    return {
        "goal": goal,
        "mean_accuracy": round(statistics.mean(scores), 4),
        "lowest": round(min(scores), 4),
        "highest": round(max(scores), 4),
        "trained_on": data.info.sizes["train"],
        "n": members,
        "seconds_per_replicate": round(seconds / members, 2),
        # The first loads kernels and chooses algorithms; a population's have one time together.
        "seconds_of_each": [round(one.seconds, 2) for one in replicates],
    }


def real_data(size: Size, folder: Path, sheet: Sheet, given: argparse.Namespace) -> None:
    """Train to the usual marks on MNIST and CIFAR-10; a set that cannot be had is said so."""
    cosine = {"name": "cosine", "warmup": 0.1}
    nesterov = {"name": "nesterov", "learning_rate": 0.2, "weight_decay": 5e-4}
    fast = {"precision": "bf16", "graphs": True}
    together = {"engine": "population", "schedule": cosine}
    cases = (
        ("mnist", "lenet", given.mnist, LENET, 0.99, 16,
         {"epochs": 8, "batch_size": 128, "augmentation": {"shift": 2}, **together}),
        ("cifar10", "airbench, 12 epochs", given.cifar, {"name": "airbench"}, 0.94, 8,
         {"epochs": 12, **fast, "loss": SMOOTHED, **AIRBENCH}),
        ("cifar10", "airbench, 10 epochs", given.cifar, {"name": "airbench"}, 0.94, 4,
         {"epochs": 10, **fast, "loss": SMOOTHED, **AIRBENCH}),
        ("cifar10", "resnet9, 24 epochs", given.cifar, RESNET9, 0.94, 1,
         {"epochs": 24, "batch_size": 512, "optimizer": nesterov, "schedule": cosine,
          "augmentation": {"shift": 4, "flip": True, "cutout": 8}, **fast}),
    )  # fmt: skip
    for name, model, fetched, network, goal, members, how in cases:

        def work(
            name: str = name,
            fetched: Path | None = fetched,
            network: Row = network,
            goal: float = goal,
            how: Row = how,
            members: int = members,
        ) -> Row:
            return reaching(fetched or obtained(name, folder), network, goal, how, size, members)

        sheet.add({"part": "real data", "dataset": name, "model": model}, work)


def obtained(name: str, folder: Path) -> Path:
    """Fetch a dataset as benchmarks.training does, which needs more packages than this file."""
    from benchmarks.training import obtain

    return obtain(name, folder, small=False)


def goals(rows: Sequence[Row], size: Size, minutes: float) -> list[Row]:
    """Hold the rows against the goals; those of speed on a GPU alone. What was not measured misses."""
    found: list[Row] = []

    def goal(name: str, bound: float, measured: float | None, met: bool) -> None:
        found.append({"name": name, "goal": bound, "measured": measured, "met": met})

    twice = [row for row in rows if row["part"] in ("losses", "variety")]
    equal = sum(row.get("equal", False) for row in twice)
    goal(f"trainings that repeat to the bit, of {len(twice)}", len(twice), equal, 0 < equal == len(twice))
    ours = [row for row in rows if row["part"] in ("graphs", "losses")]
    alike = sum(
        row.get("equal_recorded", row.get("equal", False)) and row.get("recorded") is True for row in ours
    )
    name = f"trainings recorded as graphs, with the bits of those that are not, of {len(ours)}"
    goal(name, len(ours), alike, 0 < alike == len(ours))
    tost = next((row.get("tost_p_at_one_percent") for row in rows if row["part"] == "agreement"), None)
    name = "population and loop end within 1 % of accuracy: p of TOST"
    goal(name, 0.05, tost, tost is not None and tost < 0.05)
    if size is TWIN:
        return found
    costs = [row["cost"] for row in twice if "cost" in row]
    cost = statistics.median(costs) if costs else None
    goal("what determinism costs, median over rows", 0.15, cost, cost is not None and cost <= 0.15)
    for network, bound in (("lenet", 10.0), ("resnet18", 2.5)):
        ran = [
            row for row in rows if row["part"] == "speed" and row["network"] == network and "faster" in row
        ]
        best, members = (ran[-1]["faster"], ran[-1]["members"]) if ran else (None, "none")
        name = f"{network}: a population of {members}, times as many models an hour as the loop"
        goal(name, bound, best, best is not None and best >= bound)
    for images in ("grey", "colour"):
        ran = [row for row in rows if row.get("images") == images and "faster" in row]
        gain, members = (ran[0]["faster"], ran[0]["members"]) if ran else (None, "none")
        name = f"lenet, {images}: a population of {members} by products of patches, times as fast as without"
        goal(name, 1.0, gain, gain is not None and gain >= 1)
    for row in rows:
        if row["part"] == "real data":
            reached = row.get("mean_accuracy")
            met = reached is not None and reached >= row["goal"]
            goal(f"{row['dataset']}, {row['model']}: mean test accuracy", row.get("goal", 0.0), reached, met)
    quick = next((row for row in rows if row.get("model") == "airbench, 12 epochs"), {})
    seconds = quick.get("seconds_per_replicate")
    name = "cifar10, airbench, 12 epochs: seconds a replicate"
    goal(name, SECONDS, seconds, seconds is not None and seconds <= SECONDS)
    goal("minutes of the whole", MINUTES, round(minutes, 1), minutes <= MINUTES)
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
    result: dict[str, Any] = {
        "device": "unknown" if size is FULL else "no GPU: the small twin on the CPU",
        "machine": machine("torch"),
        "commit": commit(),
    }
    record = Record("gpu" if size is FULL else "gpu-cpu-twin", result)
    parts: list[Part] = [variety, graphs, losses, agreement, patches, speed]
    if size is FULL:
        parts.append(partial(real_data, given=given))
    with tempfile.TemporaryDirectory() as folder:
        record.measure(parts, size, Path(folder))
    result["goals"] = goals(record.rows, size, record.minutes)
    print("\ngoals")
    for one in result["goals"]:
        print(
            f"{'met' if one['met'] else 'MISSED':<7}{one['measured']} (goal {one['goal']:g})  {one['name']}"
        )
    print(f"written: {record.write()}")


if __name__ == "__main__":
    main()
