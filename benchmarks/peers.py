"""The same simulated scores through our verdicts and those of other packages: false verdicts, and power.

The packages are in requirements-peers.lock, for an environment of their own (ours needs numpy and scipy):

    python -m venv /tmp/peers
    uv pip install --python /tmp/peers/bin/python --require-hashes -r requirements-peers.lock
    PYTHONPATH=. /tmp/peers/bin/python -m benchmarks.peers --families 2000 --seconds 2100

A baseline and three arms, eight seeds, normal scores of standard deviation 1 whose pairs correlate by 0, .5
and .8. A false verdict: some arm is said to differ from the baseline where none does. Power: an arm truly
1.5 standard deviations better is found. Each package is used as its documentation says, at its defaults
for a level of 5 %, on the same families; each gets ``--seconds`` at most, all packages side by side, and
every row says how many families it saw; ``--go-on`` adds further ones to a slow package's. ASO, which takes
105 CPU-seconds a family, is computed by benchmarks/aso.py, whose matrices are held against the package's own.
Writes benchmarks/results/peers.json.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from benchmarks.aso import multi_aso as quick_aso
from benchmarks.common import commit, machine, write
from benchmarks.simulation import BETTER, WORSE, decide
from lossbench.statistics.record import Verdict
from lossbench.statistics.verdict import Rules, compare

Array = np.ndarray[Any, Any]
ARMS, SEEDS, EFFECT, LEVEL = 4, 8, 1.5, 0.05
CORRELATIONS = (0.0, 0.5, 0.8)
MARGIN = 0.1
"""In our verdicts; a tenth of the standard deviation, so that no tie hides a false verdict."""
RESULT = Path(__file__).parent / "results" / "peers.json"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Eight scores want no pool of threads: beside other processes the threads wait for one another."""
FAST = "lossbench"
"""Judges many families at once."""
ASO = "deep-significance ASO"
HELD = 2
"""Matrices on which the quick ASO is held against the package's: a minute and a half each."""

Judge = Callable[[Array], list[int]]
"""(arms, seeds) scores, the baseline first → for every other arm 1 (better), -1 (worse) or 0."""


def ours(scores: Array) -> list[int]:
    named = {str(arm): values for arm, values in enumerate(scores)}
    word = {Verdict.BETTER: 1, Verdict.WORSE: -1}
    return [word.get(one.verdict, 0) for one in compare(named, "0", "score", Rules(LEVEL, MARGIN))]


def autorank_frequentist(scores: Array) -> list[int]:
    """ANOVA with Tukey, or Friedman with Nemenyi, as it chooses; groups that its report calls different."""
    from autorank import autorank

    frame = pd.DataFrame(scores.T, columns=[str(arm) for arm in range(len(scores))])
    found = autorank(frame, alpha=LEVEL, verbose=False)
    if found.pvalue >= LEVEL:
        return [0] * (len(scores) - 1)
    ranks = found.rankdf
    answers = []
    for arm in range(1, len(scores)):
        first, second = ranks.loc[str(arm)], ranks.loc["0"]
        if found.omnibus == "anova":
            apart = first["ci_lower"] > second["ci_upper"] or second["ci_lower"] > first["ci_upper"]
            better = first["mean"] > second["mean"]
        else:
            apart = abs(first["meanrank"] - second["meanrank"]) > found.cd
            better = first["meanrank"] < second["meanrank"]
        answers.append(int(apart) * (1 if better else -1))
    return answers


def autorank_bayesian(scores: Array) -> list[int]:
    """The Bayesian signed-rank test; its margin is a tenth of the observed effect size."""
    from autorank import autorank

    frame = pd.DataFrame(scores.T, columns=[str(arm) for arm in range(len(scores))])
    found = autorank(frame, alpha=LEVEL, verbose=False, approach="bayesian", nsamples=5000, random_state=0)
    return [_decision(found.decision_matrix, str(arm), "0") for arm in range(1, len(scores))]


def _decision(matrix: pd.DataFrame, arm: str, baseline: str) -> int:
    """The matrix says of the column whether it is smaller than the row."""
    return {"smaller": 1, "larger": -1}.get(matrix.loc[arm, baseline], 0)


def baycomp_signed_rank(scores: Array) -> list[int]:
    """A posterior above .95 for one side, no region of equivalence."""
    import baycomp

    answers = []
    for arm in scores[1:]:
        for_arm, for_baseline = baycomp.SignedRankTest.probs(
            arm, scores[0], rope=0, nsamples=5000, random_state=0
        )
        answers.append(int(for_arm > 1 - LEVEL) - int(for_baseline > 1 - LEVEL))
    return answers


def aso(scores: Array) -> list[int]:
    """Almost stochastic order with its Bonferroni correction; ε below .5 says that one dominates."""
    return _dominates(_packages_aso(scores))


def aso_quickly(scores: Array) -> list[int]:
    """Judge as :func:`aso` does, from the matrix that benchmarks/aso.py computes."""
    return _dominates(quick_aso(scores, LEVEL))


def _packages_aso(scores: Array) -> Array:
    from deepsig import multi_aso

    return np.asarray(multi_aso(scores, confidence_level=1 - LEVEL, show_progress=False, seed=0))


def hold_aso(count: int) -> None:
    """Hold the quick ASO against the package's on so many matrices.

    Raises:
        AssertionError: if a matrix differs by more than rounding.

    """
    for scores in list(cells(0).values())[:count]:
        if not np.allclose(quick_aso(scores, LEVEL), _packages_aso(scores), rtol=0, atol=1e-12):
            raise AssertionError("the quick ASO is not the package's")


def _dominates(matrix: Array) -> list[int]:
    return [int(matrix[arm, 0] < 0.5) - int(matrix[0, arm] < 0.5) for arm in range(1, len(matrix))]


def ictonyx(scores: Array) -> list[int]:
    """Kruskal-Wallis, then Mann-Whitney for each pair, Holm: what it does with three models or more."""
    from ictonyx.analysis import compare_multiple_models

    series = {f"arm{arm}": pd.Series(values) for arm, values in enumerate(scores)}
    found = compare_multiple_models(series, alpha=LEVEL, random_state=0)
    answers = []
    for arm in range(1, len(scores)):
        apart = any(
            set(name.split("_vs_")) == {"arm0", f"arm{arm}"} for name in found.significant_comparisons
        )
        answers.append(int(apart) * (1 if scores[arm].mean() > scores[0].mean() else -1))
    return answers


JUDGES: dict[str, Judge] = {
    "lossbench": ours,
    "autorank frequentist": autorank_frequentist,
    "autorank bayesian": autorank_bayesian,
    "baycomp signed rank": baycomp_signed_rank,
    "ictonyx": ictonyx,
    ASO: aso,
}
QUICK: dict[str, Judge] = {ASO: aso_quickly}
"""The same answers sooner."""


def simulated(rng: np.random.Generator, correlation: float, effect: float) -> Array:
    shared = np.sqrt(correlation) * rng.normal(size=SEEDS)
    scores = shared + np.sqrt(1 - correlation) * rng.normal(size=(ARMS, SEEDS))
    scores[1] += effect
    return scores


def quietly(judge: Judge, scores: Array) -> list[int]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return judge(scores)


def cells(family: int) -> dict[tuple[float, float], Array]:
    """Scores of one family for every correlation, without and with an effect; the same for every package."""
    return {
        (correlation, effect): simulated(
            np.random.default_rng([family, int(100 * correlation), int(effect > 0)]), correlation, effect
        )
        for correlation in CORRELATIONS
        for effect in (0.0, EFFECT)
    }


def rates(name: str, families: range, seconds: float) -> list[dict[str, Any]]:
    """Judge families until they are done or time is up.

    Args:
        name: the package's.
        families: by number; the same number is the same scores.
        seconds: at most; the family begun last is finished.

    Returns:
        A row per correlation: how many families, how often a false verdict fell and the effect was found.

    """
    judge = QUICK.get(name, JUDGES[name])
    ends = time.monotonic() + seconds
    said: dict[tuple[float, float], list[list[int]]] = {}
    for family in families:
        if time.monotonic() > ends:
            break
        for cell, scores in cells(family).items():
            said.setdefault(cell, []).append(quietly(judge, scores))
    return [
        _row(name, correlation, said[correlation, 0.0], said[correlation, EFFECT])
        for correlation in CORRELATIONS
    ]


def ours_at_once(families: int) -> list[dict[str, Any]]:
    """Give our own rates by the rule for many families at once, held against `compare` on some."""
    made = [cells(family) for family in range(families)]
    said: dict[tuple[float, float], list[list[int]]] = {}
    for cell in made[0]:
        scores = np.stack([one[cell] for one in made])
        found = decide(scores[:, 1:] - scores[:, :1], MARGIN)
        if any(ours(one) != _signs(codes) for one, codes in zip(scores[:20], found[:20], strict=True)):
            raise AssertionError("the rule for many families at once is not compare's")
        said[cell] = [_signs(one) for one in found]
    return [
        _row(FAST, correlation, said[correlation, 0.0], said[correlation, EFFECT])
        for correlation in CORRELATIONS
    ]


def _row(name: str, correlation: float, none: list[list[int]], some: list[list[int]]) -> dict[str, Any]:
    false, found = [any(one) for one in none], [one[0] == 1 for one in some]
    row = {
        "package": name,
        "correlation": correlation,
        "families": len(false),
        "false": float(np.mean(false)),
        "false_interval": _share(sum(false), len(false)),
        "power": float(np.mean(found)),
        "power_interval": _share(sum(found), len(found)),
    }
    print(
        "{package:24} r = {correlation:.1f}  false {false:.3f}  power {power:.3f}  of {families}".format(
            **row
        ),
        flush=True,
    )
    return row


def together(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """One row of two runs over different families."""
    families = first["families"] + then["families"]
    joined = {**then, "families": families}
    for what in ("false", "power"):
        hits = round(first[what] * first["families"] + then[what] * then["families"])
        joined |= {what: hits / families, f"{what}_interval": _share(hits, families)}
    return joined


def _share(hits: int, families: int) -> list[float]:
    """Clopper and Pearson's 95 % interval of a share."""
    interval = binomtest(hits, families).proportion_ci(0.95)
    return [round(float(interval.low), 4), round(float(interval.high), 4)]


def _signs(codes: Array) -> list[int]:
    return [{BETTER: 1, WORSE: -1}.get(int(code), 0) for code in codes]


NASTY: dict[str, Array] = {
    "two seeds": np.array([[0.70, 0.71], [0.80, 0.82], [0.70, 0.72], [0.71, 0.70]]),
    "a NaN": np.array(
        [[0.7, 0.71, 0.72, 0.7, 0.69, 0.7, 0.71, 0.7], [0.8, 0.82, np.nan, 0.81, 0.8, 0.79, 0.8, 0.82]] * 2
    ),
    "one value on all seeds": np.array([[0.7, 0.71, 0.72, 0.7, 0.69, 0.7, 0.71, 0.7], [0.75] * 8] * 2),
}


def nasty() -> list[dict[str, Any]]:
    """What each says of scores that allow no verdict: an answer, or a refusal in whose words."""
    rows = []
    for what, scores in NASTY.items():
        for name, judge in JUDGES.items():
            try:
                said = str(
                    (foreign if name == "lossbench" else lambda one, judge=judge: quietly(judge, one))(scores)
                )
            except Exception as error:  # whatever a package raises is its answer
                said = f"{type(error).__name__}: {error}"
            rows.append({"input": what, "package": name, "said": said[:200]})
            print(f"{what:24} {name:24} {said[:100]}", flush=True)
    return rows


def foreign(scores: Array) -> list[str]:
    """Ours as a user calls it, on a table."""
    from lossbench import verdict

    table: dict[str, Any] = {"seed": list(range(scores.shape[1]))}
    table |= {f"arm{arm}": list(values) for arm, values in enumerate(scores)}
    return [str(one.verdict) for one in verdict(table, "arm0", MARGIN, "accuracy")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=2100, help="for each package, side by side (2100)")
    parser.add_argument(
        "--go-on", action="store_true", help="add further families to the rows that are there"
    )
    parser.add_argument(
        "--held", type=int, default=HELD, help=f"matrices of ASO held against its own ({HELD})"
    )
    parser.add_argument("--only", choices=list(JUDGES), action="append", help="keep the others' rows")
    chosen = parser.parse_args()
    names = chosen.only or list(JUDGES)
    conditions = {"arms": ARMS, "seeds": SEEDS, "effect_sd": EFFECT, "level": LEVEL}
    made = machine("numpy", "scipy", "autorank", "deepsig", "baycomp", "ictonyx")
    said = {"machine": made, "commit": commit(), "conditions": conditions}
    kept = json.loads(RESULT.read_bytes()) if (chosen.only or chosen.go_on) and RESULT.exists() else {}
    said["nasty"] = kept.get("nasty") or nasty()
    before = {
        (row["package"], row["correlation"]): row
        for row in kept.get("rows", ())
        if chosen.go_on and row["package"] in names and row["package"] != FAST
    }
    begin = {name: before[name, 0.0]["families"] if (name, 0.0) in before else 0 for name in names}
    rows = [row for row in kept.get("rows", ()) if row["package"] not in names]
    rows += ours_at_once(chosen.families) if FAST in names else []
    if ASO in names:
        hold_aso(chosen.held)
    os.environ.update(ONE_THREAD)  # read where a worker imports numpy, hence new processes, no forks
    with ProcessPoolExecutor(len(names), multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(rates, name, range(begin[name], begin[name] + chosen.families), chosen.seconds)
            for name in names
            if name != FAST
        ]
        for one in as_completed(waiting):  # what is there is kept
            for row in one.result():
                first = before.pop((row["package"], row["correlation"]), None)
                rows.append(row if first is None else together(first, row))
            write("peers", {**said, "rows": [*rows, *before.values()]})


if __name__ == "__main__":
    main()
