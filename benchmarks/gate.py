"""Does the gate hold? `python -m benchmarks.gate`: simulated retrainings on real replicates of the digits.

A pool of replicates of one recipe (and of one trained far too short) is trained once. Each simulated
retraining draws champion and challenger from it and a test and a reference split from the samples that
nobody trained on, and asks the gate as `lossbench retrain` does:

- A/A: same recipe, another seed: how often is the challenger promoted?
- A/A in fours: the same, each test sample four times over (frames of a video), as groups of four.
- better: the champion is of the short recipe: how often is the challenger promoted?
- regression: as before, but the challenger never finds one class that the champion finds: is it kept out?

Every look is the first one at its test split, with the level that a first look gets. Beside that, two hundred
retrainings in a row on one test split, each with a challenger of the same recipe: how much better does the
last champion look on that split than it is?

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
from lossbench.retraining.looks import share
from lossbench.retraining.scoring import Scored
from lossbench.tasks import task_class
from lossbench.tasks.base import Task
from lossbench.training.fitting import fit
from lossbench.training.member import Member
from lossbench.training.prediction import predicting
from lossbench.training.setting import prepare

ROOT = Path(__file__).parent.parent
FIRST_SEED = 500
SHORT = (2, 5)
"""Epochs of the champions that are planted to be worse: far too few, and too few."""
SERIES = 200
"""Retrainings in a row on one test split."""
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
    for one in fit(made, members):
        with predicting(task, chosen.model, one.state, split.inputs, params.compute) as predictor:
            found.append(predictor.digests(split)[0])
    return found


def inflation(
    task: Task, good: list[Array], targets: Array, rows: Array, rules: Any, rng: Any, length: int
) -> float:
    """Retrain ``length`` times on one test split; the last champion's score there minus its true one."""
    drawn = targets[rows]
    scores = [scored(task, one[rows], drawn) for one in good]
    champion, looks = int(rng.integers(len(good))), set()
    for challenger in rng.integers(len(good), size=length):
        if challenger == champion:
            continue  # the same weights: no look
        looks.add((champion, int(challenger)))
        held, asked = {"test": scores[champion]}, {"test": scores[challenger]}
        level = rules.level * share(len(looks))
        if judge(held, asked, {"test": drawn}, task, "accuracy", rules, level=level).promote:
            champion = int(challenger)
    found = [scored(task, good[champion][some], targets[some]) for some in (rows, np.arange(len(targets)))]
    seen, true = (one.scores.metrics["accuracy"] for one in found)
    return float(seen - true)


def scored(task: Task, digests: Array, targets: Array) -> Scored:
    return Scored(digests, True, task.score(digests, targets))


def blind(digests: Array, champion: Array, targets: Array) -> Array:
    """Have the challenger never say the class that the champion finds best."""
    recall = [(champion.argmax(1) == targets)[targets == label].mean() for label in range(champion.shape[1])]
    changed = digests.copy()
    changed[:, int(np.argmax(recall))] = -1e9
    return changed


def main(retrainings: int, replicates: int, series: int) -> None:
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
    promoted = {"A/A": 0, "A/A in fours": 0, **dict.fromkeys(better.values(), 0), "regression": 0}
    gains: dict[str, list[float]] = {name: [] for name in promoted}
    level = params.retraining.level * share(1)
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
            decision = judge(held, asked, drawn, task, "accuracy", params.retraining, level=level)
            promoted[name] += decision.promote
            gains[name].append(decision.evidence["test"].gain)
        fours = {part: np.repeat(some[: max(1, len(some) // 4)], 4) for part, some in rows.items()}
        drawn = {part: targets[some] for part, some in fours.items()}
        groups = {part: np.arange(len(some)) // 4 for part, some in fours.items()}
        held, asked = (
            {part: scored(task, good[one][some], drawn[part]) for part, some in fours.items()}
            for one in (first, second)
        )
        decision = judge(held, asked, drawn, task, "accuracy", params.retraining, groups=groups, level=level)
        promoted["A/A in fours"] += decision.promote
        gains["A/A in fours"].append(decision.evidence["test"].gain)
    inflated = [
        inflation(task, good, targets, rng.integers(len(targets), size=sizes["test"]), params.retraining, rng,
                  SERIES)
        for _ in range(series)
    ]  # fmt: skip
    report(promoted, gains, inflated, retrainings, replicates, sizes)


def report(
    promoted: dict[str, int],
    gains: dict[str, list[float]],
    inflated: list[float],
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
        part = count / retrainings
        high = float(binomtest(count, retrainings).proportion_ci(0.95, "wilson").high)
        if name == "A/A":
            goals.append(_goal("A/A promoted, upper bound, at most", 0.05, high, high <= 0.05))
        elif name == "A/A in fours":
            goals.append(_goal("A/A in fours promoted at most", 0.05, part, part <= 0.05))
        elif name == "regression":
            goals.append(_goal("planted regression let in at most", 0.0, part, part == 0))
        else:
            goals.append(_goal(f"{name} promoted at least", 0.9, part, part >= 0.9))
    mean = 100 * float(np.mean(inflated))
    error = 100 * float(np.std(inflated, ddof=1) / len(inflated) ** 0.5)
    print(f"last champion of {SERIES} retrainings: {mean:+.2f} points better than it is (SE {error:.2f}, "
          f"{len(inflated)} series)")  # fmt: skip
    goals.append(_goal(f"points of inflation over {SERIES} retrainings at most", 0.3, mean, mean <= 0.3))
    for goal in goals:
        print(f"{'met' if goal['met'] else 'MISSED':<8}{goal['name']} {goal['goal']}: {goal['measured']:.3f}")
    result = {
        "machine": machine("torch", "numpy", "scipy"),
        "commit": commit(),
        "replicates": replicates,
        "sizes": sizes,
        "inflation": {"retrainings": SERIES, "series": len(inflated), "points": mean, "se": error},
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
    parser.add_argument("--retrainings", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=32)
    parser.add_argument("--series", type=int, default=40, help=f"of {SERIES} retrainings in a row")
    arguments = parser.parse_args()
    main(arguments.retrainings, arguments.replicates, arguments.series)
