"""Does the gate hold? `python -m benchmarks.gate`: simulated retrainings on real replicates of the digits.

A pool of replicates of one recipe (and of one trained far too short) is trained once. Each simulated
retraining draws champion and challenger from it and a test and a reference split from the samples that
nobody trained on, and asks the gate as `lossbench retrain` does:

- A/A: same recipe, another seed: how often is the challenger promoted?
- better: the champion is of the short recipe: how often is the challenger promoted?
- regression: as before, but the challenger never finds one class that the champion finds: is it kept out?

Prints a table and writes benchmarks/results/gate.json.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks.common import commit, machine, write
from lossbench.data.dataset import Dataset, Split
from lossbench.data.fetching import fetch
from lossbench.params import load_params
from lossbench.retraining.gate import judge
from lossbench.retraining.scoring import Scored
from lossbench.tasks import task_class
from lossbench.tasks.base import Task
from lossbench.training import Member, fit, prepare
from lossbench.training.prediction import predicting

ROOT = Path(__file__).parent.parent
FIRST_SEED = 500
SHORT = (2, 5)
"""Epochs of the champions that are planted to be worse: far too few, and too few."""
Array = np.ndarray[Any, Any]


def held_out(data: Dataset) -> Split:
    """All samples that no replicate was trained on, nor chosen by."""
    parts = [data.split(name) for name in ("test", "reference")]
    return Split(
        np.concatenate([part.inputs for part in parts]), np.concatenate([part.targets for part in parts])
    )


def pool(data: Dataset, task: Task, params: Any, epochs: int | None, count: int, split: Split) -> list[Array]:
    """Digests of ``count`` replicates on the held-out samples."""
    chosen = params.experiments["digits"]
    recipe = chosen.recipe if epochs is None else chosen.recipe.model_copy(update={"epochs": epochs})
    loss = params.losses[params.comparison.baseline]
    made = prepare(task, data, chosen.model, recipe, loss, params.compute)
    members = [Member(FIRST_SEED + index) for index in range(count)]
    found = []
    for one in fit(made, members, label=f"{recipe.epochs} epochs"):
        with predicting(task, chosen.model, one.state, split.inputs, params.compute) as predictor:
            found.append(predictor.digests(split)[0])
    return found


def scored(task: Task, digests: Array, targets: Array) -> Scored:
    return Scored(digests, True, task.score(digests, targets))


def blind(digests: Array, champion: Array, targets: Array) -> Array:
    """Have the challenger never say the class that the champion finds best."""
    recall = [(champion.argmax(1) == targets)[targets == label].mean() for label in range(champion.shape[1])]
    changed = digests.copy()
    changed[:, int(np.argmax(recall))] = -1e9
    return changed


def main(retrainings: int, replicates: int) -> None:
    params = load_params(ROOT / "params.yaml")
    rng = np.random.Generator(np.random.PCG64(7))
    with tempfile.TemporaryDirectory() as scratch:
        fetch(params.datasets["digits"], "digits", Path(scratch) / "data")
        data = Dataset.open(Path(scratch) / "data")
        task = task_class("classification")(data.info)
        split = held_out(data)
        good = pool(data, task, params, None, replicates, split)
        short = {epochs: pool(data, task, params, epochs, replicates, split) for epochs in SHORT}
    targets = np.asarray(split.targets)
    sizes = {name: data.info.sizes[name] for name in ("test", "reference")}
    better = {epochs: f"better than {epochs} epochs" for epochs in SHORT}
    promoted = {"A/A": 0, **dict.fromkeys(better.values(), 0), "regression": 0}
    gains: dict[str, list[float]] = {name: [] for name in promoted}
    for _ in range(retrainings):
        first, second = rng.choice(replicates, size=2, replace=False)
        rows = {name: rng.integers(len(targets), size=size) for name, size in sizes.items()}
        drawn = {name: targets[some] for name, some in rows.items()}
        cases = {
            "A/A": (good[first], good[second]),
            "regression": (short[SHORT[0]][first], blind(good[second], short[SHORT[0]][first], targets)),
            **{name: (short[epochs][first], good[second]) for epochs, name in better.items()},
        }
        for name, (champion, challenger) in cases.items():
            held = {part: scored(task, champion[some], drawn[part]) for part, some in rows.items()}
            asked = {part: scored(task, challenger[some], drawn[part]) for part, some in rows.items()}
            decision = judge(held, asked, drawn, task, "accuracy", params.retraining)
            promoted[name] += decision.promote
            gains[name].append(decision.evidence["test"].gain)
    report(promoted, gains, retrainings, replicates, sizes)


def report(
    promoted: dict[str, int],
    gains: dict[str, list[float]],
    retrainings: int,
    replicates: int,
    sizes: dict[str, int],
) -> None:
    rows = []
    for name, count in promoted.items():
        interval = binomtest(count, retrainings).proportion_ci(0.95, "wilson")
        gain = float(np.mean(gains[name]))
        row = {"case": name, "retrainings": retrainings, "promoted": count, "share": count / retrainings}
        rows.append({**row, "low": float(interval.low), "high": float(interval.high), "mean_gain": gain})
        bounds = f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
        print(f"{name:<22}{count:>5} of {retrainings} promoted ({bounds}), mean gain {gain:+.4f}")
    goals = []
    for name, count in promoted.items():
        share = count / retrainings
        if name == "A/A":
            goals.append(_goal("A/A promoted at most", 0.05, share, share <= 0.05))
        elif name == "regression":
            goals.append(_goal("planted regression let in at most", 0.0, share, share == 0))
        else:
            goals.append(_goal(f"{name} promoted at least", 0.9, share, share >= 0.9))
    for goal in goals:
        print(f"{'met' if goal['met'] else 'MISSED':<8}{goal['name']} {goal['goal']}: {goal['measured']:.3f}")
    result = {
        "machine": machine("torch", "numpy", "scipy"),
        "commit": commit(),
        "replicates": replicates,
        "sizes": sizes,
        "rows": rows,
        "goals": goals,
    }
    print(f"written: {write('gate', result)}")


def _goal(name: str, goal: float, measured: float, met: bool) -> dict[str, Any]:
    return {"name": name, "goal": goal, "measured": measured, "met": met}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--retrainings", type=int, default=400)
    parser.add_argument("--replicates", type=int, default=32)
    arguments = parser.parse_args()
    main(arguments.retrainings, arguments.replicates)
