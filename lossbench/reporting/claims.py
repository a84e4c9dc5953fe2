"""``reports/claims.html``: each claim with its hypothesis, its evidence, its answer and its limits."""

from typing import Any

from lossbench.reporting.inputs import Study
from lossbench.statistics import Answer, digits
from lossbench.statistics.sentences import metric_name, p_value

WORDS = {
    "supported": "The evidence supports the claim.",
    "refuted": "The evidence refutes the claim.",
    "undecided": "The evidence does not suffice either way.",
}


def shown(one: Answer, study: Study) -> dict[str, Any]:
    """Write an answer as people read it."""
    claim = study.params.hypotheses[one.name]
    half = (one.ci_high - one.ci_low) / 2
    other = claim.than_experiment or claim.experiment
    better, than = claim.better, claim.than
    if other != claim.experiment:
        better, than = f"{better} in {claim.experiment}", f"{than} in {other}"
    return {
        "name": one.name,
        "claim": claim.claim or one.name,
        "test": f"{better} > {than} on {metric_name(claim.on)}"
        + ("" if other != claim.experiment else f", {claim.experiment}")
        + (f", by {claim.by:g}" if claim.by else ""),
        "answer": one.answer,
        "meaning": WORDS[one.answer],
        "gain": f"{digits(one.difference, half)} ({digits(one.ci_low, half)} to {digits(one.ci_high, half)})",
        "p": p_value(one.p_holm),
        "n": one.n,
        "seeds_needed": one.seeds_needed,
        "limits": claim.limits,
        "section": claim.experiment,
    }


def claims_page(study: Study, answered: list[Answer]) -> str:
    """Render the page; without hypotheses it says how to declare one."""
    from lossbench.reporting.page import environment

    return environment().get_template("claims.html.j2").render(
        answers=[shown(one, study) for one in answered],
        percent=f"{100 * (1 - study.params.comparison.level):g} %",
        declared=len(study.params.hypotheses),
    ) + "\n"  # fmt: skip
