"""What looks with racing save: `python -m benchmarks.racing` (simulated; goal: ≤ 0.65 of the trainings).

A baseline and seven arms: three losers at −2 standard deviations of the paired differences, a winner at +1.5,
three that are equal. Looks at 8, 12, 16, 24 and 32 seeds, a contrast once decided stops, against 32 seeds for
all, judged once with Holm. Writes benchmarks/results/racing.json.
"""

import argparse

import numpy as np

from benchmarks import simulation as sim
from benchmarks.common import commit, machine, write
from lossbench.statistics import Plan
from lossbench.statistics.looks import stage_of

LOOKS = (8, 12, 16, 24, 32)
TRUTH = np.array([-2.0, -2.0, -2.0, 1.5, 0.0, 0.0, 0.0])
MARGINS = (0.5, sim.TINY)
"""In standard deviations of the differences; with the second nothing ties, and equal arms run to the end."""

COMPARED = 400
"""Families judged once with all seeds too: exact sign flips of 32 seeds take milliseconds a contrast."""


def raced(rng: np.random.Generator, families: int, margin: float) -> dict[str, object]:
    scores = sim.normal(rng, (families, len(TRUTH) + 1, LOOKS[-1])) / np.sqrt(2)
    differences = scores[:, 1:] - scores[:, :1] + TRUTH[:, None]
    plan = Plan(tuple(range(LOOKS[-1])), LOOKS)
    stages = [stage_of(plan, look, len(TRUTH)) for look in range(len(LOOKS))]
    found, used = sim.looks_until_decided(differences, LOOKS, stages, margin)
    trainings = used.sum(axis=1) + used.max(axis=1)  # the baseline goes as far as the last arm that is open
    at_once = sim.decide(differences[:COMPARED], margin)
    both = (found[:COMPARED] != sim.UNDECIDED) & (at_once != sim.UNDECIDED)
    wrong = np.where(
        TRUTH == 0, sim.claimed(found), (found == sim.TIE) | (sim.claimed(found) & (found != _right()))
    )
    all_of_them = LOOKS[-1] * (len(TRUTH) + 1)
    return {
        "margin_sd": margin,
        "looks": list(LOOKS),
        "truth_sd": TRUTH.tolist(),
        "trainings": float(trainings.mean()),
        "of": all_of_them,
        "share": float(trainings.mean() / all_of_them),
        "same_verdict_where_both_decide": float((found[:COMPARED] == at_once)[both].mean()),
        "decided_racing": float((found != sim.UNDECIDED).mean()),
        "decided_at_once": float((at_once != sim.UNDECIDED).mean()),
        "any_false_verdict": sim.rate(wrong.any(axis=1)),
    }


def _right() -> sim.Array:
    return np.where(TRUTH > 0, sim.BETTER, sim.WORSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=2000)
    families = parser.parse_args().families
    rows = [raced(np.random.default_rng(seed), families, margin) for seed, margin in enumerate(MARGINS)]
    for row in rows:
        print(row)
    goal = {
        "name": "trainings with racing",
        "goal": "share ≤ 0.65",
        "measured": rows[0]["share"],
        "met": rows[0]["share"] <= 0.65,
    }
    write("racing", {"machine": machine("numpy", "scipy"), "commit": commit(), "rows": rows, "goals": [goal]})


if __name__ == "__main__":
    main()
