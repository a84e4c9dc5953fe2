"""How often the verdicts are wrong, and how often they are right: `python -m benchmarks.statistics`.

Simulated scores with a known truth go through the verdict rule of lossbench.statistics. Prints a table and
writes benchmarks/results/statistics.json. With `--pool FILE` (columns experiment, metric, seed, value; one
loss per experiment, written by benchmarks/aa_pool.py) the A/A runs over real replicates too.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from benchmarks.common import commit, machine
from lossbench.statistics import (
    Interval,
    Rules,
    Verdict,
    compare,
    holm,
    seeds_by_examples,
    sign_flip_p,
    tie_power,
)
from lossbench.statistics.verdict import FEWEST_FOR_TIE, decide

Array = npt.NDArray[Any]
Row = dict[str, Any]
HERE = Path(__file__).parent
LEVEL = 0.05
FAMILIES = 10_000
TINY = 1e-9  # a margin so small that no tie hides a false verdict
DESIGNS = ((8, 3), (20, 9))  # (seeds, contrasts): the default comparison, and ten losses
CHECKED = 10  # families per row whose verdicts are compared with those of lossbench.statistics.compare

# Noise of mean 0 and standard deviation 1.
Shape = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return rng.normal(size=size)


def heavy_tailed(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    return rng.standard_t(3, size) / np.sqrt(3)


def mildly_skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Gamma of shape 4: skewness 1."""
    return (rng.gamma(4.0, size=size) - 4) / 2


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Exponential: skewness 2."""
    return rng.exponential(size=size) - 1


def very_skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Log-normal with σ = 1: skewness 6.2."""
    return (rng.lognormal(size=size) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


def intervals(differences: Array, level: float) -> tuple[Array, Array]:
    """Intervals (paired t) of the mean over the last axis; `mean_interval` for many at once."""
    n = differences.shape[-1]
    center = differences.mean(-1)
    half = stats.t.ppf(1 - level / 2, n - 1) * differences.std(-1, ddof=1) / np.sqrt(n)
    return center - half, center + half


def verdicts(differences: Array, margin: float = TINY) -> Array:
    """Verdicts by the product's rule on (families, contrasts, n) differences; better is positive.

    Sign flips are only counted for families in which some interval excludes 0: the rule wants both, so
    the others hold no better and no worse.
    """
    low, high = intervals(differences, LEVEL)
    narrow = intervals(differences, 2 * LEVEL)
    rules = Rules(LEVEL, margin)
    found = np.full(low.shape, Verdict.UNDECIDED, dtype=object)
    found[(narrow[0] > -margin) & (narrow[1] < margin)] = Verdict.TIE
    for family in np.flatnonzero(((low > 0) | (high < 0)).any(axis=1)):
        adjusted = holm([sign_flip_p(one) for one in differences[family]])
        for contrast, p in enumerate(adjusted):
            at = family, contrast
            found[at] = decide(
                float(differences[at].mean()),
                Interval(float(low[at]), float(high[at])),
                Interval(float(narrow[0][at]), float(narrow[1][at])),
                p,
                rules,
            )
    _check_against_compare(differences, found, rules)
    return found


def _check_against_compare(differences: Array, found: Array, rules: Rules) -> None:
    for family in range(min(CHECKED, len(differences))):
        scores = {str(arm): values for arm, values in enumerate(differences[family])}
        contrasts = compare(
            {"baseline": np.zeros(differences.shape[-1]), **scores}, "baseline", "score", rules
        )
        product = [contrast.verdict for contrast in contrasts]
        if product != list(found[family]):
            raise AssertionError(f"this script's verdicts {list(found[family])} are not compare's {product}")


def claimed(found: Array) -> Array:
    """Whether a verdict says that the arms differ."""
    return (found == Verdict.BETTER) | (found == Verdict.WORSE)


def rate(hits: Array) -> Row:
    """Share of true values with its exact (Clopper–Pearson) one-sided 95 % upper and lower bounds."""
    test = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(0.9, "exact")
    return {"rate": float(hits.mean()), "lower": float(test.low), "upper": float(test.high), "of": len(hits)}


def aa_scores(rng: np.random.Generator) -> Iterator[Row]:
    """The same loss under several names on disjoint seeds: scores alike in every respect."""
    for shape in (normal, very_skewed, heavy_tailed):
        for n, contrasts in DESIGNS:
            scores = shape(rng, (FAMILIES, contrasts + 1, n))
            hits = claimed(verdicts(scores[:, 1:] - scores[:, :1])).any(axis=1)
            yield {
                "what": "A/A, scores",
                "shape": shape.__name__,
                "n": n,
                "contrasts": contrasts,
                **rate(hits),
            }


def equal_means(rng: np.random.Generator) -> Iterator[Row]:
    """Different losses of equal mean whose differences are skewed; no A/A, and harder.

    Beside the product's rule stands the rate if p were the larger of the sign-flip p and Hall's
    skewness-corrected one.
    """
    for shape in (heavy_tailed, mildly_skewed, skewed, very_skewed):
        for n, contrasts in DESIGNS:
            differences = shape(rng, (FAMILIES, contrasts, n))
            found = verdicts(differences)
            row = {
                "what": "equal means, differences",
                "shape": shape.__name__,
                "n": n,
                "contrasts": contrasts,
            }
            yield {**row, **rate(claimed(found).any(axis=1)), "corrected": _corrected(differences, found)}


def _corrected(differences: Array, found: Array) -> float:
    """Share of families with a claim left if p is no smaller than Hall's (1992, the cubic transform)."""
    families = np.flatnonzero(claimed(found).any(axis=1))
    left = 0
    for family in families:
        values = differences[family]
        n = values.shape[-1]
        ratio = values.mean(-1) / values.std(-1, ddof=1)
        skew = stats.skew(values, axis=-1)
        statistic = np.sqrt(n) * (ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / (6 * n))
        hall = 2 * stats.t.sf(np.abs(statistic), n - 1)
        both = holm([max(sign_flip_p(one), float(p)) for one, p in zip(values, hall, strict=True)])
        left += bool((claimed(found[family]) & (np.asarray(both) <= LEVEL)).any())
    return left / len(found)


def coverage(rng: np.random.Generator) -> Iterator[Row]:
    for shape in (normal, heavy_tailed, mildly_skewed, skewed):
        for n in (5, 10, 20):
            low, high = intervals(shape(rng, (100_000, n)), LEVEL)
            yield {"what": "coverage", "shape": shape.__name__, "n": n, **rate((low <= 0) & (high >= 0))}


def power(rng: np.random.Generator) -> Iterator[Row]:
    """One arm is truly better, the others are not: the hardest place for Holm."""
    for n, contrasts, effect in ((20, 9, 1.0), (8, 3, 1.0), (8, 3, 2.0)):
        baseline, arms = (normal(rng, (2500, arms, n)) / np.sqrt(2) for arms in (1, contrasts))
        differences = arms - baseline  # of standard deviation 1, correlated through the baseline
        differences[:, 0] += effect
        hits = verdicts(differences)[:, 0] == Verdict.BETTER
        yield {
            "what": "power",
            "shape": "normal",
            "n": n,
            "contrasts": contrasts,
            "effect_sd": effect,
            **rate(hits),
        }


def wrong_ties(rng: np.random.Generator) -> Iterator[Row]:
    """Ties found where the true difference is the margin itself, and where it is 0."""
    for shape in (normal, heavy_tailed, mildly_skewed):
        for n in (8, 11, 20):
            differences = 1 + shape(rng, (50_000, n))
            yield {"what": "wrong ties", "shape": shape.__name__, "n": n, **rate(_tied(differences, 1.0))}
    for n in (2, 3, 5, 8):  # accuracies over 360 test samples: few distinct differences
        differences = np.round(360 * (0.01 + 0.004 * normal(rng, (50_000, n)))) / 360
        yield {"what": "wrong ties", "shape": "steps of 1/360", "n": n, **rate(_tied(differences, 0.01))}
    for n in (8, 11, 20):
        row = rate(_tied(normal(rng, (50_000, n)), 1.0))
        yield {"what": "right ties", "shape": "normal", "n": n, "expected": tie_power(1.0, n, LEVEL), **row}


def _tied(differences: Array, margin: float) -> Array:
    low, high = intervals(differences, 2 * LEVEL)
    return (low > -margin) & (high < margin) & (differences.shape[-1] >= FEWEST_FOR_TIE)


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
    """The same loss tuned apart: four points whose true scores spread as seeds do, one tuning seed each."""
    for n in (8, 20):
        truth = normal(rng, (FAMILIES, 4))
        chosen = [
            np.take_along_axis(truth, (truth + normal(rng, truth.shape)).argmax(1)[:, None], axis=1)
            for _ in range(2)
        ]
        arm, baseline = (one + normal(rng, (FAMILIES, n)) for one in chosen)
        hits = claimed(verdicts((arm - baseline)[:, None])).any(axis=1)
        yield {"what": "tuned A/A, for information", "shape": "normal", "n": n, "contrasts": 1, **rate(hits)}


def real_aa(pool: Path, rng: np.random.Generator) -> Iterator[Row]:
    """Replicates of one loss dealt to several names; families share replicates, as the pool is finite."""
    replicates = pd.read_csv(pool)
    for (experiment, metric), group in replicates.groupby(["experiment", "metric"], sort=True):
        values = group.sort_values("seed")["value"].to_numpy(np.float64)
        for n in (8, 20):
            arms = min(4, len(values) // n)
            if arms < 2:
                continue
            dealt = np.stack([rng.permutation(values)[: arms * n] for _ in range(FAMILIES)])
            scores = dealt.reshape(FAMILIES, arms, n)
            hits = claimed(verdicts(scores[:, 1:] - scores[:, :1])).any(axis=1)
            row = {
                "what": "A/A, real replicates",
                "shape": f"{experiment} {metric}",
                "n": n,
                "contrasts": arms - 1,
            }
            yield {**row, "pool": len(values), **rate(hits)}


def goals(rows: list[Row]) -> list[Row]:
    """What was promised, and whether it held."""

    def of(what: str, *shapes: str) -> list[Row]:
        return [row for row in rows if row["what"] == what and (not shapes or row["shape"] in shapes)]

    def most(name: str, chosen: list[Row], key: str, limit: float) -> Row:
        worst = max((row[key] for row in chosen), default=None)
        met = None if worst is None else worst <= limit
        return {"name": name, "goal": f"{key} ≤ {limit}", "measured": worst, "met": met}

    def least(name: str, chosen: list[Row], limit: float) -> Row:
        worst = min(row["rate"] for row in chosen)
        return {"name": name, "goal": f"rate ≥ {limit}", "measured": worst, "met": worst >= limit}

    family = "family-wise false verdicts"
    found = [
        most(f"{family}, A/A, {shape} scores", of("A/A, scores", shape), "upper", 0.07)
        for shape in ("normal", "very_skewed", "heavy_tailed")
    ]
    found += [
        most(
            f"{family}, equal means, {shape} differences",
            of("equal means, differences", shape),
            "upper",
            0.07,
        )
        for shape in ("heavy_tailed", "mildly_skewed", "skewed", "very_skewed")
    ]
    covered = [row["rate"] for row in of("coverage", "normal")]
    plain = [row for row in of("power") if row["n"] == 20]
    return [
        *found,
        most(f"{family}, A/A, real replicates", of("A/A, real replicates"), "upper", 0.07),
        {
            "name": "coverage of 95 % intervals, normal, n = 5, 10, 20",
            "goal": "0.93 ≤ rate ≤ 0.97",
            "measured": [min(covered), max(covered)],
            "met": min(covered) >= 0.93 and max(covered) <= 0.97,
        },
        least("power, 1 SD, n = 20, one of 9 contrasts", plain, 0.8),
        # 50 000 repeats: the exact rate is the level itself, so it is the lower bound that may not pass it
        most("wrong ties at the margin, normal", of("wrong ties", "normal"), "lower", LEVEL),
        most("wrong ties at the margin, heavy-tailed", of("wrong ties", "heavy_tailed"), "lower", LEVEL),
        most("wrong ties at the margin, mildly skewed", of("wrong ties", "mildly_skewed"), "lower", LEVEL),
        most("wrong ties at the margin, steps of 1/360", of("wrong ties", "steps of 1/360"), "lower", LEVEL),
    ]


def show(row: Row) -> None:
    extra = "  ".join(
        f"{key} {row[key]:.3g}" for key in ("effect_sd", "expected", "corrected", "pool") if key in row
    )
    design = f"n={row['n']:<3}" + (f"m={row['contrasts']}" if "contrasts" in row else "   ")
    bounds = f"{row['rate']:.4f}  [{row['lower']:.4f}, {row['upper']:.4f}] of {row['of']}"
    print(f"{row['what']:28} {row['shape']:16} {design}  {bounds}  {extra}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=HERE / "results" / "aa_pool.csv")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "statistics.json")
    options = parser.parse_args()
    rows = []
    parts = (aa_scores, equal_means, coverage, power, wrong_ties, population, tuned_aa)
    for seed, part in enumerate(parts):
        for row in part(np.random.default_rng(seed)):
            show(row)
            rows.append(row)
    if options.pool.exists():
        for row in real_aa(options.pool, np.random.default_rng(len(parts))):
            show(row)
            rows.append(row)
    else:
        print(f"A/A, real replicates: not measured, no {options.pool.name} (benchmarks/aa_pool.py writes it)")
    reached = goals(rows)
    for goal in reached:
        word = {True: "met", False: "UNMET", None: "not measured"}[goal["met"]]
        print(f"{word:12} {goal['name']}: {goal['goal']}, measured {goal['measured']}")
    result = {"machine": machine("numpy", "scipy"), "commit": commit(), "rows": rows, "goals": reached}
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
