"""Time and memory of the losses beside other libraries': `python -m benchmarks.losses`.

Forward + backward on random input. Within a row all libraries take turns, round after round, and the median
counts, so that a busy machine slows all of them alike. Memory is the growth of the process's resident peak
over one forward + backward. Prints a table and writes benchmarks/results/losses.json. Linux only (/proc).
"""

import argparse
import ctypes
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
SHAPES = ((4, 21, 256, 256), (8, 21, 512, 512))


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


def step(loss: Loss, logits: Tensor, target: Tensor) -> float:
    """Milliseconds of one forward + backward."""
    logits.grad = None
    start = time.perf_counter()
    loss(logits, target).backward()
    return (time.perf_counter() - start) * 1e3


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


def measure(shape: tuple[int, ...], budget: float, rounds: int) -> list[dict[str, Any]]:
    """Time all rows at one shape, in at least three rounds a row and more while ``budget`` seconds last."""
    logits, target = random_input(shape)
    rows = []
    for row, losses in contenders().items():
        for loss in losses.values():
            step(loss, logits, target)  # what is checked or built on the first call
        times: dict[str, list[float]] = {name: [] for name in losses}
        end = time.perf_counter() + budget
        while len(times[OURS]) < 3 or (len(times[OURS]) < rounds and time.perf_counter() < end):
            for name, loss in losses.items():
                times[name].append(step(loss, logits, target))
        for name, found in times.items():
            facts = {"loss": row, "library": name, "shape": list(shape), "rounds": len(found)}
            rows.append({**facts, "milliseconds": round(statistics.median(found), 2)})
            print(f"{row:<9}{name:<14}{shape!s:<20}{rows[-1]['milliseconds']:>10.1f} ms", flush=True)
    return rows


def add_memory(rows: list[dict[str, Any]]) -> None:
    """Add the peak memory to each row.

    After all timings: large blocks now come from the system and go back to it, so that what is resident is
    what is in use, and that costs time.
    """
    ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD
    losses = contenders()
    for shape in dict.fromkeys(tuple(row["shape"]) for row in rows):
        logits, target = random_input(shape)
        for row in rows:
            if tuple(row["shape"]) == shape:
                loss = losses[row["loss"]][row["library"]]
                step(loss, logits[:1, :, :8, :8].detach().requires_grad_(), target[:1, :8, :8])
                row["mebibytes"] = round(memory(loss, logits, target), 1)


def random_input(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return torch.randn(shape, generator=generator).requires_grad_(), target


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['loss']:<9}{row['library']:<14}{row['shape']!s:<20}{row['milliseconds']:>10.1f} ms"
        f"{row['mebibytes']:>9.0f} MiB   n={row['rounds']}",
        flush=True,
    )


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals: nobody faster or smaller on any row, and three ratios."""
    by = {(row["loss"], tuple(row["shape"]), row["library"]): row for row in rows}
    found = []

    def goal(name: str, bound: float, measured: float) -> None:
        found.append({"name": name, "goal": bound, "measured": round(measured, 3), "met": measured <= bound})

    for loss, shape in dict.fromkeys((row["loss"], tuple(row["shape"])) for row in rows):
        ours = by[loss, shape, OURS]
        others = [row for key, row in by.items() if key[:2] == (loss, shape) and key[2] != OURS]
        for unit, word in (("milliseconds", "time"), ("mebibytes", "memory")):
            best = min(others, key=lambda row: float(row[unit]))
            name = f"{loss} {shape}: {word} relative to {best['library']}, the best other"
            goal(name, 1.0, ours[unit] / best[unit])
        for wanted, rival, bound in (("CE+Dice", "torch+kornia", 0.65), ("Lovász", "kornia", 0.8)):
            if loss == wanted:
                ratio = ours["milliseconds"] / by[loss, shape, rival]["milliseconds"]
                goal(f"{loss} {shape}: time relative to {rival}", bound, ratio)
        if loss == "Dice" and shape == SHAPES[1]:
            goal(f"Dice {shape}: MiB", 600, ours["mebibytes"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the small shape only")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the rounds of a row")
    parser.add_argument("--rounds", type=int, default=25, help="most rounds a row")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    chosen = SHAPES[:1] if given.small else SHAPES
    rows = [row for shape in chosen for row in measure(shape, given.seconds, given.rounds)]
    add_memory(rows)
    print("\nwith memory")
    for row in rows:
        show(row)
    checked = goals(rows)
    print("\ngoals")
    for one in checked:
        met = "met" if one["met"] else "MISSED"
        print(f"{met:<7}{one['measured']:>9.3f} ≤ {one['goal']:<6g} {one['name']}")
    packages = ("torch", "torchvision", "segmentation-models-pytorch", "monai", "kornia")
    result = {
        "machine": f"{machine(*packages)}; {given.threads} threads",
        "commit": commit(),
        "rows": rows,
        "goals": checked,
    }
    print(f"written: {write('losses' if not given.small else 'losses-small', result)}")


if __name__ == "__main__":
    main()
