"""Time and memory of the losses beside other libraries': `python -m benchmarks.losses`.

Forward + backward on logits as at random, half trained and trained, 80 % of the positions background, with 1
and 2 threads. Within a row all libraries take turns, round after round, and the median of our time over
theirs within a round judges, so that a busy machine slows all of them alike: of the clock, or, with one
thread, of the processor, which other processes hardly touch. Memory is the growth of the process's resident
peak over one forward + backward. Our losses are shown compiled too (`torch.compile`), and torch's
cross-entropy, on the small shape. The large shape has trained logits alone, as a kind of it costs minutes:
the whole is meant to take a quarter of an hour on two quiet cores. Prints a table and writes
benchmarks/results/losses.json, after each kind of input. Linux only (/proc).
"""

import argparse
import ctypes
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.losses as kornia
import monai.losses as monai
import segmentation_models_pytorch.losses as smp
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from benchmarks.common import commit, machine, write
from lossbench.losses import CrossEntropy, Dice, Focal, Lovasz, Sum, Tversky

Loss = Callable[[Tensor, Tensor], Tensor]
OURS = "lossbench"
COMPILED = " compiled"
SHAPES = ((4, 21, 256, 256), (8, 21, 512, 512))
#: Share of positions where the largest logit is right, by how far training has come.
KINDS = {"random": 0.2, "half trained": 0.6, "trained": 0.9}
BACKGROUND, REGION = 0.8, 16
Row = dict[str, Any]
Times = tuple[float, float]
"""Milliseconds by the clock, and of this process's processors."""


def channel(loss: Loss) -> Loss:
    """MONAI wants the target with a channel."""
    return lambda logits, target: loss(logits, target.unsqueeze(1))


def torchvision_focal(logits: Tensor, target: Tensor) -> Tensor:
    labels = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return sigmoid_focal_loss(logits, labels, alpha=-1, reduction="mean")


def plus(first: Loss, second: Loss) -> Loss:
    return lambda logits, target: first(logits, target) + second(logits, target)


def contenders() -> dict[str, dict[str, Loss]]:
    """The libraries' losses by row; each with its defaults, on one class per position."""
    ce, soft = F.cross_entropy, {"to_onehot_y": True, "softmax": True}
    smp_dice, kornia_dice = smp.DiceLoss("multiclass"), kornia.DiceLoss(average="macro")
    return {
        "CE": {OURS: CrossEntropy(), "torch": ce},
        "focal": {
            OURS: Focal(),
            "smp": smp.FocalLoss("multiclass"),
            "MONAI": channel(monai.FocalLoss(to_onehot_y=True, use_softmax=True)),
            "kornia": kornia.FocalLoss(alpha=None, reduction="mean"),
            "torchvision": torchvision_focal,
        },
        "Dice": {
            OURS: Dice(),
            "smp": smp_dice,
            "MONAI": channel(monai.DiceLoss(**soft)),
            "kornia": kornia_dice,
        },
        "CE+Dice": {
            OURS: Sum({"cross_entropy": CrossEntropy(), "dice": Dice()}),
            "torch+smp": plus(ce, smp_dice),
            "MONAI": channel(monai.DiceCELoss(**soft)),
            "torch+kornia": plus(ce, kornia_dice),
        },
        "Tversky": {
            OURS: Tversky(alpha=0.3, beta=0.7),
            "smp": smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7),
            "MONAI": channel(monai.TverskyLoss(alpha=0.3, beta=0.7, **soft)),
            "kornia": kornia.TverskyLoss(alpha=0.3, beta=0.7),
        },
        "Lovász": {
            OURS: Lovasz(),
            "smp": smp.LovaszLoss("multiclass"),
            "kornia": kornia.LovaszSoftmaxLoss(),
        },
    }


def with_compiled(losses: dict[str, dict[str, Loss]]) -> dict[str, dict[str, Loss]]:
    """Add our losses compiled, and torch's cross-entropy."""
    for row, own in losses.items():
        also = [name for name in (OURS, "torch") if name in own]
        losses[row] = own | {name + COMPILED: torch.compile(own[name]) for name in also}
    return losses


def step(loss: Loss, logits: Tensor, target: Tensor) -> Times:
    """Milliseconds of one forward + backward: by the clock, and of this process's processors."""
    logits.grad = None
    clock, processor = time.perf_counter(), time.process_time()
    loss(logits, target).backward()
    return (time.perf_counter() - clock) * 1e3, (time.process_time() - processor) * 1e3


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def memory(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """MiB by which the resident peak of one forward + backward exceeds what was resident before."""
    logits.grad = None
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    step(loss, logits, target)
    return _status("VmHWM") - before


def example(shape: tuple[int, ...], accuracy: float) -> tuple[Tensor, Tensor]:
    """Return logits that are right at a share ``accuracy`` of the positions, and regions of 21 classes."""
    generator = torch.Generator().manual_seed(0)
    cells = [-(-size // REGION) for size in shape[2:]]
    classes = torch.randint(1, shape[1], (shape[0], *cells), generator=generator)
    target = classes.masked_fill(torch.rand(classes.shape, generator=generator) < BACKGROUND, 0)
    for axis, size in enumerate(shape[2:], 1):
        target = target.repeat_interleave(REGION, axis).narrow(axis, 0, size)
    target = target.contiguous()
    noise = torch.randn(shape, generator=generator)
    true = noise.gather(1, target.unsqueeze(1))
    others = noise.scatter(1, target.unsqueeze(1), -torch.inf).amax(1, keepdim=True)
    margin = (others - true).flatten()[:: max(1, true.numel() // 100_000)].quantile(accuracy)
    return noise.scatter(1, target.unsqueeze(1), true + margin).requires_grad_(), target


def measure(
    losses: dict[str, dict[str, Loss]],
    shape: tuple[int, ...],
    kind: str,
    threads: int,
    budget: float,
    rounds: int,
) -> list[Row]:
    """Time all rows of one kind of input, in at least three rounds and more while ``budget`` seconds last."""
    torch.set_num_threads(threads)
    logits, target = example(shape, KINDS[kind])
    rows = []
    for row, taking in losses.items():
        for loss in taking.values():
            step(loss, logits, target)  # what is checked, built or compiled on the first call
        times: dict[str, list[Times]] = {name: [] for name in taking}
        end = time.perf_counter() + budget
        while len(times[OURS]) < 3 or (len(times[OURS]) < rounds and time.perf_counter() < end):
            for name, loss in taking.items():
                times[name].append(step(loss, logits, target))
        for name, found in times.items():
            clock, processor = (statistics.median(one) for one in zip(*found, strict=True))
            facts = {"loss": row, "library": name, "shape": list(shape), "kind": kind, "threads": threads}
            took = {"milliseconds": round(clock, 2), "processor_milliseconds": round(processor, 2)}
            ratio = relative(times[OURS], found, by_processor=threads == 1)
            rows.append({**facts, "rounds": len(found), **took, "ours_over_it": round(ratio, 3)})
            show(rows[-1])
    return rows


def relative(ours: list[Times], theirs: list[Times], by_processor: bool) -> float:
    """The median over rounds of our time over theirs."""
    unit = int(by_processor)
    return statistics.median(one[unit] / other[unit] for one, other in zip(ours, theirs, strict=True))


def add_memory(rows: list[Row]) -> None:
    """Add the peak memory to each row of one thread.

    After all timings: large blocks now come from the system and go back to it, so that what is resident is
    what is in use, and that costs time.
    """
    ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD
    torch.set_num_threads(1)
    losses, found = contenders(), {}
    for shape, kind in dict.fromkeys((tuple(row["shape"]), row["kind"]) for row in rows):
        logits, target = example(shape, KINDS[kind])
        for name, library in dict.fromkeys((row["loss"], row["library"]) for row in rows):
            if not library.endswith(COMPILED):
                loss = losses[name][library]
                step(loss, logits[:1, :, :8, :8].detach().requires_grad_(), target[:1, :8, :8])
                found[shape, kind, name, library] = round(memory(loss, logits, target), 1)
    for row in rows:
        key = tuple(row["shape"]), row["kind"], row["loss"], row["library"]
        if key in found:
            row["mebibytes"] = found[key]


def show(row: Row) -> None:
    print(
        f"{row['loss']:<9}{row['library']:<19}{row['shape']!s:<19} {row['kind']:<13}{row['threads']} threads"
        f"{row['milliseconds']:>9.1f} ms{row['processor_milliseconds']:>9.1f} ms processor"
        f"{row.get('mebibytes', float('nan')):>7.0f} MiB   n={row['rounds']}",
        flush=True,
    )


def goals(rows: list[Row]) -> list[Row]:
    """The goals: nobody faster or smaller on any row, and ratios to single libraries."""
    found = []

    def goal(name: str, bound: float, measured: float) -> None:
        found.append({"name": name, "goal": bound, "measured": round(measured, 3), "met": measured <= bound})

    for loss, shape, kind, threads in dict.fromkeys(
        (row["loss"], tuple(row["shape"]), row["kind"], row["threads"]) for row in rows
    ):
        where = {"loss": loss, "shape": list(shape), "kind": kind, "threads": threads}
        here = {row["library"]: row for row in rows if where.items() <= row.items()}
        ours = here.pop(OURS)
        others = [row for library, row in here.items() if not library.endswith(COMPILED)]
        what = f"{loss} {shape}, {kind}, {threads} threads"
        fastest = max(others, key=lambda row: float(row["ours_over_it"]))
        bound = {"Lovász": 0.8}.get(loss, 1.0)
        goal(f"{what}: time relative to {fastest['library']}", bound, fastest["ours_over_it"])
        for wanted, rival, bound in (("CE+Dice", "torch+kornia", 0.65), ("focal", "kornia", 0.9)):
            if loss == wanted:
                goal(f"{what}: time relative to {rival}", bound, here[rival]["ours_over_it"])
        if threads == 1 and "mebibytes" in ours:
            smallest = min(others, key=lambda row: float(row["mebibytes"]))
            ratio = ours["mebibytes"] / smallest["mebibytes"]
            goal(f"{what}: memory relative to {smallest['library']}", 1.0, ratio)
            if loss == "Dice" and shape == SHAPES[1]:
                goal(f"{what}: MiB", 600, ours["mebibytes"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the small shape only")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for the rounds of a row")
    parser.add_argument("--rounds", type=int, default=25, help="most rounds a row")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--large-kinds", nargs="+", choices=KINDS, default=["trained"], help="likewise")
    parser.add_argument("--large-threads", type=int, nargs="+", help="likewise; as the small, if not given")
    parser.add_argument("--plain", action="store_true", help="without the compiled rows of the small shape")
    given = parser.parse_args()
    began = os.getloadavg()
    eager = contenders()
    losses = {SHAPES[0]: eager if given.plain else with_compiled(contenders()), SHAPES[1]: eager}
    asked = {
        SHAPES[0]: (given.threads, given.kinds),
        SHAPES[1]: (given.large_threads or given.threads, given.large_kinds or given.kinds),
    }
    packages = ("torch", "torchvision", "segmentation-models-pytorch", "monai", "kornia")
    facts = {"machine": machine(*packages), "commit": commit()}
    rows: list[Row] = []

    def keep() -> list[Row]:
        """Write down what there is so far: a run that is broken off has shown something, too."""
        load, checked = {"before": began, "after": os.getloadavg()}, goals(rows)
        write("losses", {**facts, "load": load, "rows": rows, "goals": checked})
        return checked

    for shape in SHAPES[:1] if given.small else SHAPES:
        for threads, kind in itertools.product(*asked[shape]):
            rows += measure(losses[shape], shape, kind, threads, given.seconds, given.rounds)
            keep()
    add_memory(rows)
    print("\nwith memory")
    for row in rows:
        show(row)
    print("\ngoals")
    for one in keep():
        met = "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>9.3f} ≤ {one['goal']:<6g} {one['name']}")


if __name__ == "__main__":
    main()
