"""What looks with racing save: `python -m benchmarks.racing` (goal: ≤ 0.65 of the trainings).

Simulated: a baseline and seven arms: three losers at −2 standard deviations of the paired differences, a
winner at +1.5,
three that are equal. Looks at 8, 12, 16, 24 and 32 seeds, a contrast once decided stops, against 32 seeds for
all, judged once with Holm. With `--real` also on real trainings: seven arms of the default comparison's
digits,
`lossbench run --looks` against `lossbench run` with all seeds for all, each in a checkout of its own, with an
empty store; about a quarter of an hour on two processors. Writes benchmarks/results/racing.json.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from benchmarks import simulation as sim
from benchmarks.common import commit, machine, stored, write
from benchmarks.overhead import BIN, ROOT, checkout, replicates, run, seconds_of
from lossbench.statistics.family import smallest_p
from lossbench.statistics.looks import stage_of
from lossbench.statistics.record import Plan
from lossbench.system import processors

LOOKS = (8, 12, 16, 24, 32)
OTHER_LOOKS = ((10, 12, 16, 24, 32), tuple(range(10, 33, 2)))
"""The first at which seven contrasts can be decided: their two-sided sign-flip p is 2/2^n at least."""
TRUTH = np.array([-2.0, -2.0, -2.0, 1.5, 0.0, 0.0, 0.0])
MARGINS = (0.5, sim.TINY, 1.0, 1.5)
"""In standard deviations of the differences; with the first two nothing ties: equal arms run to the end."""

COMPARED, FEWER_COMPARED = 400, 50
"""Families judged once with all seeds too: exact sign flips of 32 seeds take milliseconds a contrast."""


def raced(
    rng: np.random.Generator,
    families: int,
    margin: float,
    looks: tuple[int, ...] = LOOKS,
    compared: int = COMPARED,
) -> dict[str, object]:
    scores = sim.normal(rng, (families, len(TRUTH) + 1, looks[-1])) / np.sqrt(2)
    differences = scores[:, 1:] - scores[:, :1] + TRUTH[:, None]
    plan = Plan(tuple(range(looks[-1])), looks)
    stages = [stage_of(plan, look, len(TRUTH)) for look in range(len(looks))]
    found, used = sim.looks_until_decided(differences, looks, stages, margin)
    trainings = used.sum(axis=1) + used.max(axis=1)  # the baseline goes as far as the last arm that is open
    at_once = sim.decide(differences[:compared], margin)
    both = (found[:compared] != sim.UNDECIDED) & (at_once != sim.UNDECIDED)
    wrong = np.where(
        TRUTH == 0, sim.claimed(found), (found == sim.TIE) | (sim.claimed(found) & (found != _right()))
    )
    all_of_them = looks[-1] * (len(TRUTH) + 1)
    soonest = next(
        n for n, stage in zip(looks, stages, strict=True) if stage and smallest_p(n) <= stage.difference
    )
    least = looks[-1] * (1 + np.count_nonzero(TRUTH == 0)) + soonest * np.count_nonzero(TRUTH)
    return {
        "margin_sd": margin,
        "looks": list(looks),
        "truth_sd": TRUTH.tolist(),
        "trainings": float(trainings.mean()),
        "of": all_of_them,
        "share": float(trainings.mean() / all_of_them),
        "share_at_least_where_equal_arms_run_to_the_end": float(least / all_of_them),
        "same_verdict_where_both_decide": float((found[:compared] == at_once)[both].mean()),
        "decided_racing": float((found != sim.UNDECIDED).mean()),
        "decided_at_once": float((at_once != sim.UNDECIDED).mean()),
        "any_false_verdict": sim.rate(wrong.any(axis=1)),
    }


LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"name": "cross_entropy"},
    "focal": {"name": "focal", "gamma": 2.0},
    "label_smoothing": {"name": "cross_entropy", "label_smoothing": 0.1},
    "hinge": {"name": "hinge"},
    "gce": {"name": "generalized_cross_entropy", "q": 0.7},
    "brier": {"name": "brier"},
    "mae": {"name": "mae"},
}
"""Seven arms; the first is the baseline. Of the last it is known that it learns slowly."""
FIRST_SEED = 5000
"""Seeds that no other comparison of this repository uses."""


def params_of(looks: Sequence[int], epochs: int | None, subset: int | None, raced: bool) -> dict[str, Any]:
    """Params of the digits experiment alone, one rate for all: what is measured is the looks."""
    content = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    digits, dataset = content["experiments"]["digits"], content["datasets"]["digits"]
    digits["tuning"] = {"trials": 0}
    if epochs is not None:
        digits["recipe"]["epochs"] = epochs
    if subset is not None:
        dataset["subset"] = subset
    return {
        **{key: content[key] for key in ("root", "code", "compute", "tracking")},
        "datasets": {"digits": dataset},
        "experiments": {"digits": digits},
        "losses": LOSSES,
        "arms": {
            f"digits-{loss}": {"experiment": "digits", "dataset": "digits", "loss": loss} for loss in LOSSES
        },
        "seeds": list(range(FIRST_SEED, FIRST_SEED + looks[-1])),
        "tuning": {"trials": 0},
        "comparison": {"baseline": "cross_entropy", **({"looks": list(looks)} if raced else {})},
    }


def trained(folder: Path, content: dict[str, Any], raced: bool) -> dict[str, Any]:
    """Run a comparison to its end in a checkout of its own; what it took, and what it found."""
    folder.mkdir()
    params = folder.with_suffix(".yaml")
    with params.open("w", encoding="utf-8") as stream:
        YAML().dump(content, stream)
    checkout(folder, params)
    environment = {key: value for key, value in os.environ.items() if key != "LOSSBENCH_STORE"}
    environment |= {"DO_NOT_TRACK": "true", "PYTHONPATH": str(folder)}
    command = [str(BIN / "python"), "-m", "lossbench", "run", *["--looks"] * raced]
    seconds = run(command, folder, environment)
    told = json.loads((folder / "reports/verdicts.json").read_bytes())
    there = replicates(folder)
    return {
        "trainings": len(there),
        "seconds": round(seconds, 1),
        "training_seconds": round(seconds_of(there.values()), 1),
        "verdicts": {one["arm"]: {"verdict": one["verdict"], "n": one["n"]} for one in told["verdicts"]},
        "looks": {name: one["said"] for name, one in told["looks"].items()},
    }


def real(looks: Sequence[int], epochs: int | None, subset: int | None) -> dict[str, Any]:
    """Race real trainings, then train all seeds of all arms."""
    with tempfile.TemporaryDirectory() as place:
        racing, at_once = (
            trained(Path(place, name), params_of(looks, epochs, subset, raced), raced)
            for name, raced in (("racing", True), ("all", False))
        )
    pairs = [(one["verdict"], at_once["verdicts"][arm]["verdict"]) for arm, one in racing["verdicts"].items()]
    both = [first == second for first, second in pairs if "undecided" not in (first, second)]
    return {
        "looks": list(looks),
        "racing": racing,
        "all_seeds": at_once,
        "share_of_trainings": racing["trainings"] / at_once["trainings"],
        "share_of_seconds": racing["seconds"] / at_once["seconds"],
        "both_decide": len(both),
        "same_verdict_where_both_decide": sum(both),
    }


def _right() -> sim.Array:
    return np.where(TRUTH > 0, sim.BETTER, sim.WORSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=2000)
    parser.add_argument("--real", action="store_true", help="race real trainings too")
    parser.add_argument(
        "--looks", type=lambda text: [int(one) for one in text.split(",")], default=list(LOOKS)
    )
    parser.add_argument("--epochs", type=int, help="of the real trainings (default: the recipe's)")
    parser.add_argument("--subset", type=int, help="samples of the digits (default: all)")
    chosen = parser.parse_args()
    families = chosen.families
    cases: list[tuple[float, tuple[int, ...], int]] = [
        (margin, LOOKS, COMPARED if margin < 1 else FEWER_COMPARED) for margin in MARGINS
    ]
    cases += [(MARGINS[0], looks, FEWER_COMPARED) for looks in OTHER_LOOKS]
    rows = [raced(np.random.default_rng(seed), families, *case) for seed, case in enumerate(cases)]
    for row in rows:
        print(row)
    shares = {"simulated": rows[0]["share"]}
    if chosen.real:
        made = {"epochs": chosen.epochs, "machine": machine("numpy", "scipy", "torch"), "commit": commit()}
        measured = made | real(chosen.looks, chosen.epochs, chosen.subset)
        print(json.dumps(measured, indent=1))
    else:
        measured = stored("racing").get("real")
    if measured is not None:
        shares["real"] = measured["share_of_trainings"]
    goals = [
        {
            "name": f"trainings with racing, {name}",
            "goal": "share ≤ 0.65",
            "measured": share,
            "met": bool(float(str(share)) <= 0.65),
        }
        for name, share in shares.items()
    ]
    result = {"machine": machine("numpy", "scipy", "torch"), "commit": commit(), "rows": rows}
    write("racing", {**result, "real": measured, "processors": processors(), "goals": goals})


if __name__ == "__main__":
    main()
