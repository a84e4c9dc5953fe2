"""How often the verdicts are wrong, and how often they are right: `python -m benchmarks.statistics`.

Simulated scores with a known truth go through the verdict rule of lossbench.statistics, vectorised in
benchmarks/simulation.py, which holds it against the product's in every cell. Prints a table and writes
benchmarks/results/statistics.json. With `--pool FILE` (experiment, loss, metric, seed, value; written by
benchmarks/aa_pool.py) the A/A runs over real replicates too, of the wild losses as of the tame.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import simulation as sim
from benchmarks.common import RESULTS, commit, machine, stored, write
from benchmarks.simulation import LEVEL, TIE, Array, Row, claimed, decide, holm, rate
from lossbench.statistics.equivalence import tie_power, tost_ps
from lossbench.statistics.examples import seeds_by_examples
from lossbench.statistics.family import seeds_needed
from lossbench.statistics.hypotheses import Claim, Outcome, answer
from lossbench.statistics.looks import nominal_levels, stage_of
from lossbench.statistics.record import Plan
from lossbench.statistics.trained import seeds_to_exclude, share_interval

FAMILIES = 10_000
FEWER = 4_000
DESIGNS = ((8, 3), (20, 9))  # (seeds, contrasts): the default comparison, and ten losses
FOLDS = 5
Part = Callable[[np.random.Generator], Iterator[Row]]
LATER = 100
"""Seed of the first part that came later: the others keep theirs."""
UNDECLARED = tuple(range(8, 33, 4))
"""After "undecided" four more seeds, from 8 to 32, and nobody said so before."""
LOOKS = ((8, 12, 16, 24, 32), (8, 16, 32), (5, 10, 20), (8, 12, 16, 20, 24, 28, 32))


def aa_scores(rng: np.random.Generator) -> Iterator[Row]:
    """The same loss under several names on disjoint seeds: scores alike in every respect."""
    for shape in sim.EXCHANGEABLE:
        for n in (3, 5, 8, 20):
            for contrasts in (1, 3, 9):
                scores = shape(rng, (FAMILIES, contrasts + 1, n))
                found = decide(scores[:, 1:] - scores[:, :1])
                row = {"what": "A/A", "shape": shape.__name__, "n": n, "contrasts": contrasts}
                yield {**row, **rate(claimed(found).any(axis=1))}


def equal_means(rng: np.random.Generator) -> Iterator[Row]:
    """Arms of equal mean and unequal shape: differences are skewed; no A/A, and harder."""
    for shape in (sim.t3, *sim.UNEQUAL):
        for n, contrasts in DESIGNS:
            differences = shape(rng, (FAMILIES, contrasts, n))
            before = claimed(decide(differences, hall=False)).any(axis=1)
            row = {
                "what": "equal means, unequal shapes",
                "shape": shape.__name__,
                "n": n,
                "contrasts": contrasts,
            }
            hits = claimed(decide(differences)).any(axis=1)
            yield {**row, **rate(hits), "sign_flip_alone": float(before.mean())}


def power(rng: np.random.Generator) -> Iterator[Row]:
    """One arm is truly better, the others are not: the hardest place for Holm."""
    for n, contrasts, effect in ((8, 3, 1.0), (20, 9, 1.0), (8, 3, 2.0)):
        scores = sim.normal(rng, (FEWER, contrasts + 1, n)) / np.sqrt(2)
        differences = (
            scores[:, 1:] - scores[:, :1]
        )  # of standard deviation 1, correlated through the baseline
        differences[:, 0] += effect
        before = decide(differences, hall=False)[:, 0] == sim.BETTER
        row = {"what": "power", "shape": "normal", "n": n, "contrasts": contrasts, "effect_sd": effect}
        hits = decide(differences)[:, 0] == sim.BETTER
        yield {**row, **rate(hits), "sign_flip_alone": float(before.mean())}


def wrong_ties(rng: np.random.Generator) -> Iterator[Row]:
    """Some tie found where every true difference is the margin itself; and ties found where all are 0."""
    for shape in (sim.normal, sim.t3, sim.gamma4, sim.stepped):
        for n in (8, 20):
            for contrasts in (1, 3, 9):
                differences = 2 + shape(rng, (FAMILIES, contrasts, n))
                found = (decide(differences, 2.0) == TIE).any(axis=1)
                before = (decide(differences, 2.0, holm_ties=False) == TIE).any(axis=1)
                row = {"what": "wrong ties", "shape": shape.__name__, "n": n, "contrasts": contrasts}
                yield {**row, **rate(found), "without_holm": float(before.mean())}
    for n in (8, 11, 20):
        found = decide(sim.normal(rng, (FAMILIES, 1, n)), 1.0)[:, 0] == TIE
        row = {"what": "right ties", "shape": "normal", "n": n, "contrasts": 1}
        yield {**row, **rate(found), "expected": tie_power(1.0, n, LEVEL)}


def looks(rng: np.random.Generator) -> Iterator[Row]:
    """Declared looks with racing: A/A, wrong ties at the margin, power; and the same looks undeclared."""
    for design in LOOKS:
        for contrasts in (1, 3):
            plan = Plan(tuple(range(design[-1])), design)
            stages = [stage_of(plan, look, contrasts) for look in range(len(design))]
            base = {"looks": list(design), "contrasts": contrasts}
            for shape in (sim.normal, sim.t3, sim.log_normal, sim.stepped, sim.bimodal):
                scores = shape(rng, (FEWER, contrasts + 1, design[-1]))
                found, _ = sim.looks_until_decided(scores[:, 1:] - scores[:, :1], design, stages)
                yield {
                    "what": "A/A, looks",
                    "shape": shape.__name__,
                    **base,
                    **rate(claimed(found).any(axis=1)),
                }
            for shape in (sim.normal, sim.t3):
                differences = 1 + shape(rng, (FEWER, contrasts, design[-1]))
                found, _ = sim.looks_until_decided(differences, design, stages, 1.0)
                hits = (found == TIE).any(axis=1)
                yield {"what": "wrong ties, looks", "shape": shape.__name__, **base, **rate(hits)}
            differences = 1 + sim.normal(rng, (FEWER // 2, contrasts, design[-1]))
            found, used = sim.looks_until_decided(differences, design, stages)
            row = {"what": "power, looks", "shape": "normal", **base, "effect_sd": 1.0}
            yield {**row, **rate(found[:, 0] == sim.BETTER), "mean_n": float(used[:, 0].mean())}
    for contrasts in (1, 3):
        scores = sim.normal(rng, (FEWER, contrasts + 1, 32))
        none = [None] * len(UNDECLARED)
        found, _ = sim.looks_until_decided(scores[:, 1:] - scores[:, :1], UNDECLARED, none)
        row = {"what": "A/A, looks that nobody declared", "shape": "normal", "looks": list(UNDECLARED)}
        yield {**row, "contrasts": contrasts, **rate(claimed(found).any(axis=1))}
    found, _ = sim.looks_until_decided(1 + sim.normal(rng, (FEWER, 1, 32)), UNDECLARED, [None] * 7, 1.0)
    row = {"what": "wrong ties, looks that nobody declared", "shape": "normal", "looks": list(UNDECLARED)}
    yield {**row, "contrasts": 1, **rate((found == TIE).any(axis=1))}


def not_used(rng: np.random.Generator) -> Iterator[Row]:
    """What percentile bootstrap over seeds and ± 1.96 standard errors would claim where nothing differs."""
    for n in (5, 10, 20):
        values = sim.normal(rng, (FEWER, n))
        weights = rng.multinomial(n, np.full(n, 1 / n), 1000) / n
        low, high = np.quantile(values @ weights.T, (0.025, 0.975), axis=1)
        yield {"what": "percentile bootstrap", "shape": "normal", "n": n, **rate((low > 0) | (high < 0))}
        beyond = np.abs(values.mean(1)) > 1.96 * values.std(1, ddof=1) / np.sqrt(n)
        yield {"what": "± 1.96 standard errors", "shape": "normal", "n": n, **rate(beyond)}


def coverage(rng: np.random.Generator) -> Iterator[Row]:
    for shape in (sim.normal, sim.t3, sim.gamma4, sim.exponential):
        for n in (5, 10, 20):
            values = shape(rng, (FAMILIES, n))
            half = stats.t.ppf(1 - LEVEL / 2, n - 1) * values.std(1, ddof=1) / np.sqrt(n)
            yield {
                "what": "coverage",
                "shape": shape.__name__,
                "n": n,
                **rate(np.abs(values.mean(1)) <= half),
            }


def population(rng: np.random.Generator) -> Iterator[Row]:
    """Coverage of the seeds × examples interval: hits whose logit has seed, example and pair effects."""
    repeats, examples = 400, 300
    for n in (5, 8, 20):
        hits = []
        for repeat in range(repeats):
            easy = rng.normal(1.5, 1.5, examples)
            liking = rng.normal(0, 0.7, examples)  # the arms find different examples hard
            arms = [
                _hits(easy + side * liking + rng.normal(0, 0.3, (n, 1)) + rng.normal(0, 0.5, (n, examples)))
                for side in (1, -1)
            ]
            interval = seeds_by_examples(
                *arms, lambda total: total[..., 0] / total[..., 1], LEVEL, repeat, 200
            )
            hits.append(interval.low <= 0 <= interval.high)
        yield {"what": "coverage, seeds × examples", "shape": "hits", "n": n, **rate(np.asarray(hits))}


def _hits(logits: Array) -> Array:
    hit = (logits > 0).astype(np.float64)
    return np.stack([hit, np.ones_like(hit)], axis=-1)


def tuned_aa(rng: np.random.Generator) -> Iterator[Row]:
    """The same loss tuned apart: four points whose true scores spread as seeds do."""
    for n in (8, 20):
        for tuning_seeds in (1, 3, 8):
            truth = sim.normal(rng, (FAMILIES, 4))  # one loss, hence the same for both arms
            arms = []
            for _ in range(2):
                seen = truth + sim.normal(rng, truth.shape) / np.sqrt(tuning_seeds)
                chosen = np.take_along_axis(truth, seen.argmax(1)[:, None], axis=1)
                arms.append(chosen + sim.normal(rng, (FAMILIES, n)))
            row = {"what": "tuned A/A, scope arm", "shape": "normal", "n": n, "tuning_seeds": tuning_seeds}
            yield {**row, "contrasts": 1, **rate(_one_contrast(*arms))}
        truth = sim.normal(rng, (FAMILIES, 1, 4))
        arms = []
        for _ in range(2):
            seen = truth + sim.normal(rng, (FAMILIES, n, 4))
            points = np.broadcast_to(truth, seen.shape)
            chosen = np.take_along_axis(points, seen.argmax(2)[..., None], axis=2)[..., 0]
            arms.append(chosen + sim.normal(rng, (FAMILIES, n)))
        row = {"what": "tuned A/A, scope replicate", "shape": "normal", "n": n, "contrasts": 1}
        yield {**row, **rate(_one_contrast(*arms))}
    # Four points alike in truth; the arm's is the best on the very seeds that its replicates then use again.
    trials = sim.normal(rng, (FAMILIES, 4, 8))
    arm = np.take_along_axis(trials, trials.mean(2).argmax(1)[:, None, None], axis=1)[:, 0]
    found = decide((arm - sim.normal(rng, (FAMILIES, 8)))[:, None])
    row = {"what": "tuned on the replicates' own seeds, one-sided", "shape": "normal", "n": 8, "contrasts": 1}
    yield {**row, **rate(found[:, 0] == sim.BETTER)}


def reused_seeds(rng: np.random.Generator) -> Iterator[Row]:
    """A loss of several points alike in truth, the best on the very seeds that its replicates use again.

    What it is worth depends on how many points there were to choose among.
    """
    for n in (8, 20):
        for points in (2, 4, 6, 9, 12, 20):
            trials = sim.normal(rng, (FEWER, points, n))
            best = trials.mean(2).argmax(1)[:, None, None]
            arm = np.take_along_axis(trials, best, axis=1)
            found = decide(arm - sim.normal(rng, (FEWER, 1, n)))
            row = {"what": "best of several points on the same seeds, one-sided", "shape": "normal", "n": n}
            yield {**row, "points": points, "contrasts": 1, **rate(found[:, 0] == sim.BETTER)}


def ties_sought(rng: np.random.Generator) -> Iterator[Row]:
    """Wrong ties at the margin over undeclared looks where nothing but a tie ends the search.

    Where a difference ends it too, as in `looks`, most searches end there before they could err.
    """
    for margin in (0.5, 1.0, 2.0):
        for contrasts in (1, 3):
            differences = margin + sim.normal(rng, (FEWER, contrasts, UNDECLARED[-1]))
            looked = [differences[..., :look] for look in UNDECLARED]
            tied = [(holm(tost_ps(one, margin)) <= LEVEL).any(axis=1) for one in looked]
            row = {"what": "wrong ties, undeclared looks that ties alone end", "shape": "normal"}
            yield {**row, "margin_sd": margin, "contrasts": contrasts, **rate(np.any(tied, axis=0))}


def _one_contrast(arm: Array, baseline: Array) -> Array:
    return claimed(decide((arm - baseline)[:, None]))[:, 0]


def whole_report(rng: np.random.Generator) -> Iterator[Row]:
    """Two experiments of three contrasts each and three claims, nothing different: any false statement."""
    families, n = 2_000, 8
    for by in (0.0, 1.0):
        wrong = np.zeros(families, dtype=bool)
        scores = sim.normal(rng, (families, 2, 4, n)) / np.sqrt(2)
        differences = scores[:, :, 1:] - scores[:, :, :1]
        for experiment in range(2):
            wrong |= claimed(decide(differences[:, experiment], 1.0)).any(axis=1)
        for family in range(families):
            picked = (differences[family, 1, 0], differences[family, 1, 1], differences[family, 0, 2])
            claims = [Claim(str(i), "a", "b", "score", by, True, values) for i, values in enumerate(picked)]
            found = [one.answer for one in answer(claims, LEVEL)]
            wrong[family] |= Outcome.SUPPORTED in found or (by == 0 and Outcome.REFUTED in found)
        row = {
            "what": "whole report, any false statement",
            "shape": "normal",
            "n": n,
            "contrasts": 3,
            "by": by,
        }
        yield {**row, **rate(wrong)}


def planning(rng: np.random.Generator) -> Iterator[Row]:
    """How noisy "seeds needed" is: a true effect of half a standard deviation, three contrasts."""

    @cache
    def needed(effect: float) -> float:
        return seeds_needed(effect, 1.0, 3, LEVEL, 0.8) or np.inf

    truth = needed(0.5)
    for n in (8, 20):
        values = 0.5 + sim.normal(rng, (FEWER, n))
        found = [needed(round(float(one), 2)) for one in values.mean(1) / values.std(1, ddof=1)]
        low, middle, high = np.quantile(found, (0.25, 0.5, 0.75), method="lower")
        row = {"what": "seeds needed", "shape": "normal", "n": n, "contrasts": 3, "truth": truth}
        quartiles = [float(low), float(middle), float(high)]
        yield {**row, "quartiles": quartiles, **rate(np.asarray(found) >= truth)}


def collapse(rng: np.random.Generator) -> Iterator[Row]:
    """One replicate in ten collapses: how often eight seeds show none; and what none of eight excludes."""
    none = rng.random((FAMILIES, 8)).min(axis=1) >= 0.1
    row = {"what": "no collapse seen of one in ten", "shape": "bernoulli", "n": 8, **rate(none)}
    yield {
        **row,
        "excluded_above": share_interval(0, 8)[1],
        "seeds_to_exclude_a_tenth": seeds_to_exclude(0.1),
    }


def near_duplicates(rng: np.random.Generator) -> Iterator[Row]:
    """A gate's one-sided test where every test example stands four times, and where groups are resampled."""
    for copies in (1, 4):
        pairs = sim.normal(rng, (FAMILIES, 100))
        repeated = np.repeat(pairs, copies, axis=1)
        t = repeated.mean(1) / (repeated.std(1, ddof=1) / np.sqrt(repeated.shape[1]))
        row = {"what": "gate, near-duplicates", "shape": "normal", "n": 100, "copies": copies}
        yield {**row, **rate(t > stats.t.isf(LEVEL, repeated.shape[1] - 1))}


def folds(rng: np.random.Generator) -> Iterator[Row]:
    """Two losses of equal mean whose true difference varies over five folds; seeds go round the folds."""
    for shape in (sim.normal, sim.log_normal):
        for n in (10, 20):
            for scatter in (0.0, 1.0, 2.0):
                scores = shape(rng, (FEWER, 2, n))
                differences = scores[:, 1:] - scores[:, :1]
                of_fold = rng.standard_normal((FEWER, 1, FOLDS))
                of_fold -= of_fold.mean(axis=2, keepdims=True)
                of_fold *= scatter * differences.std() / of_fold.std()
                found = decide(differences + of_fold[:, :, np.arange(n) % FOLDS])
                row = {"what": "folds", "shape": shape.__name__, "n": n, "contrasts": 1, "folds": FOLDS}
                yield {**row, "scatter": scatter, **rate(claimed(found).any(axis=1))}


def real_aa(pool: Path, rng: np.random.Generator) -> Iterator[Row]:
    """Replicates of one loss dealt to several names; families share replicates, as the pool is finite."""
    replicates = pd.read_csv(pool)
    for (experiment, loss, metric), group in replicates.groupby(["experiment", "loss", "metric"], sort=True):
        values = group.sort_values("seed")["value"].to_numpy(np.float64)
        for n in (8, 20):
            arms = min(4, len(values) // n)
            if arms < 2:
                continue
            dealt = np.stack([rng.permutation(values)[: arms * n] for _ in range(FAMILIES)])
            scores = dealt.reshape(FAMILIES, arms, n)
            hits = claimed(decide(scores[:, 1:] - scores[:, :1])).any(axis=1)
            row = {"what": "A/A, real replicates", "shape": f"{experiment} {loss} {metric}", "n": n}
            yield {**row, "contrasts": arms - 1, "pool": len(values), **rate(hits)}


def goals(rows: list[Row]) -> list[Row]:
    """What was promised, and whether it held."""

    def of(what: str, **wanted: object) -> list[Row]:
        return [
            row
            for row in rows
            if row["what"] == what and all(row[key] == value for key, value in wanted.items())
        ]

    def most(name: str, chosen: list[Row], key: str, limit: float) -> Row:
        worst = max((row[key] for row in chosen), default=None)
        met = None if worst is None else worst <= limit
        return {"name": name, "goal": f"{key} ≤ {limit}", "measured": worst, "met": met}

    shapes = [shape.__name__ for shape in sim.EXCHANGEABLE]
    found = [
        most(f"A/A, {shape}, n 3 to 20, 1 to 9 contrasts", of("A/A", shape=shape), "upper", 0.06)
        for shape in shapes
    ]
    found += [
        most(
            f"equal means, {shape.__name__} differences",
            of("equal means, unequal shapes", shape=shape.__name__),
            "upper",
            0.07,
        )
        for shape in (sim.t3, *sim.UNEQUAL)
    ]
    found += [
        most(f"A/A with looks at {list(design)}", of("A/A, looks", looks=list(design)), "upper", 0.06)
        for design in LOOKS
    ]
    # the exact rate at the margin is the level itself, so it is the lower bound that may not pass it
    found += [
        most(
            f"wrong ties, {m} contrast{'s' * (m > 1)}, {shape}",
            of("wrong ties", contrasts=m, shape=shape),
            "lower",
            LEVEL,
        )
        for m in (1, 3, 9)
        for shape in ("normal", "t3", "gamma4", "stepped")
    ]
    found += [most("wrong ties with looks", of("wrong ties, looks"), "lower", LEVEL)]
    for row in of("power"):
        cost = row["sign_flip_alone"] - row["rate"]
        name = f"power given up for Hall, n = {row['n']}, {row['contrasts']} contrasts, {row['effect_sd']} SD"
        found.append({"name": name, "goal": "≤ 0.06", "measured": cost, "met": cost <= 0.06})
    found.append(most("folds that differ", of("folds"), "upper", 0.06))
    found.append(most("A/A, real replicates", of("A/A, real replicates"), "upper", 0.06))
    return found


def parts(pool: Path) -> dict[str, tuple[int, Part]]:
    """Name every part, with the seed of its own that it keeps whatever else is computed."""
    first: dict[str, Part] = {
        "aa_scores": aa_scores, "equal_means": equal_means, "power": power, "wrong_ties": wrong_ties,
        "not_used": not_used, "coverage": coverage, "tuned_aa": tuned_aa, "planning": planning,
        "collapse": collapse, "near_duplicates": near_duplicates, "whole_report": whole_report,
        "population": population, "looks": looks,
    }  # fmt: skip
    later: dict[str, Part] = {"folds": folds, "reused_seeds": reused_seeds, "ties_sought": ties_sought}
    named = {name: (seed, part) for seed, (name, part) in enumerate(first.items())}
    if pool.exists():
        named["real_aa"] = (len(first), lambda rng: real_aa(pool, rng))
    for number, (name, part) in enumerate(later.items()):
        named[name] = (LATER + number, part)
    return named


def show(row: Row) -> None:
    fixed = ("what", "shape", "rate", "lower", "upper", "of")
    extra = "  ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key not in fixed
    )
    print(
        f"{row['what']:34} {row['shape']:24} {row['rate']:.4f} [{row['lower']:.4f}, {row['upper']:.4f}] "
        f"of {row['of']}  {extra}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=RESULTS / "aa_pool.csv")
    parser.add_argument("--only", action="append", help="compute this part (a function)")
    options = parser.parse_args()
    if not options.pool.exists():
        print(f"A/A, real replicates: not measured, no {options.pool.name} (benchmarks/aa_pool.py writes it)")
    rows = []
    for name, (seed, part) in parts(options.pool).items():
        if options.only is None or name in options.only:
            for row in part(np.random.default_rng(seed)):
                show(row)
                rows.append(row)
    if options.only:
        anew = {row["what"] for row in rows}
        rows = [row for row in stored("statistics")["rows"] if row["what"] not in anew] + rows
    reached = goals(rows)
    for goal in reached:
        word = {True: "met", False: "UNMET", None: "not measured"}[goal["met"]]
        print(f"{word:12} {goal['name']}: {goal['goal']}, measured {goal['measured']}")
    nominal = {str(list(design)): nominal_levels(design, LEVEL) for design in LOOKS}
    measured = {"machine": machine("numpy", "scipy"), "commit": commit(), "nominal_levels": nominal}
    write("statistics", {**measured, "rows": rows, "goals": reached})


if __name__ == "__main__":
    main()
