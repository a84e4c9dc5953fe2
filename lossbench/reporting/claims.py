"""``reports/claims.html``: each claim with its hypothesis, its evidence, its answer and its limits."""

from typing import Any

import numpy as np

from lossbench.execution.declared import plan_of
from lossbench.reporting.inputs import Study
from lossbench.reporting.tables import higher_is_better, paired_scores
from lossbench.statistics.hypotheses import Answer
from lossbench.statistics.writing import digits, metric_name, p_value, with_bounds

WORDS = {
    "supported": "The evidence supports the claim.",
    "refuted": "The evidence refutes the claim.",
    "undecided": "The evidence does not suffice either way.",
    "not trained": "A loss was not trained to where its scores mean anything.",
}


def shown(one: Answer, study: Study) -> dict[str, Any]:
    """Write an answer as people read it."""
    claim = study.params.hypotheses[one.name]
    half = (one.ci_high - one.ci_low) / 2
    other = claim.than_experiment or claim.experiment
    better, than = claim.better, claim.than
    if other != claim.experiment:
        better, than = f"{better} in {claim.experiment}", f"{than} in {other}"
    evaluated = study.evaluated[claim.experiment]
    way = "higher" if higher_is_better(evaluated, claim.on) else "lower"
    compared = paired_scores(
        evaluated, claim.better, study.evaluated[other], claim.than, claim.on, plan_of(study.params)
    )
    means = [float(np.mean(scores)) for scores in compared]
    return {
        "name": one.name,
        "claim": claim.claim or one.name,
        "means": f"{better} {digits(means[0], half)}, {than} {digits(means[1], half)}",
        "test": f"{better} better than {than} on {metric_name(claim.on)} ({way} is better)"
        + ("" if other != claim.experiment else f", {claim.experiment}")
        + (f", by more than {one.by:g}" if one.by else ""),
        "answer": one.answer,
        "meaning": WORDS[one.answer],
        "gain": with_bounds(one.difference, one.ci_low, one.ci_high),
        "p": p_value(one.p_holm, study.params.comparison.level),
        "n": one.n,
        "seeds_needed": one.seeds_needed,
        "limits": claim.limits,
        "section": claim.experiment,
    }


def claims_page(study: Study, answered: list[Answer]) -> str:
    """Render the page; without hypotheses it says how to declare one."""
    from lossbench.reporting.page import environment

    groups: dict[str, list[dict[str, Any]]] = {}
    for one in answered:
        test = shown(one, study)
        groups.setdefault(test["claim"], []).append(test)
    return environment().get_template("claims.html.j2").render(
        groups=groups,
        count=len(answered),
        percent=f"{100 * (1 - study.params.comparison.level):g} %",
        declared=len(study.params.hypotheses),
    ) + "\n"  # fmt: skip
