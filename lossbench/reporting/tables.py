"""The numbers of the report: leaderboard, curves, verdicts and answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lossbench.execution.declared import against, is_compared, losses_of, plan_of
from lossbench.folds import folds_of
from lossbench.params import ScriptExperiment
from lossbench.reporting.budgets import Budgeted, budgeted
from lossbench.reporting.inputs import Evaluated, Study
from lossbench.statistics.examples import sample_weight, seeds_by_examples
from lossbench.statistics.hypotheses import Answer, Claim, Outcome, answer
from lossbench.statistics.looks import Progress, progress, stage_of
from lossbench.statistics.looks_file import block_of
from lossbench.statistics.metrics import known, within_bounds
from lossbench.statistics.paired import Interval, constant, less, mean_interval, rounding
from lossbench.statistics.record import Plan, standing
from lossbench.statistics.sentences import sentence
from lossbench.statistics.trained import Edge, Training, condition
from lossbench.statistics.verdict import Contrast, Rules, compare
from lossbench.tasks.base import CONSTANT

VERDICT_COLUMNS = (
    "experiment", "metric", "arm", "baseline", "difference", "median", "ci_low", "ci_high", "p",
    "p_holm", "margin", "p_tie", "p_tie_holm", "tie_low", "tie_high", "tie_level", "n", "ahead", "equal",
    "verdict", "seeds_needed", "seeds_needed_low", "seeds_needed_high", "seeds_for_tie", "correlation",
    "diverged", "collapsed", "baseline_collapsed", "step", "examples_low", "examples_high",
)  # fmt: skip


COUNTS = ("ahead", "equal", "seeds_needed", "seeds_needed_low", "seeds_needed_high", "seeds_for_tie")
"""Columns of whole numbers that may be empty."""


@dataclass(frozen=True)
class Finding:
    """One contrast with its sentence, its seeds × examples interval, and the seeds it was judged on."""

    experiment: str
    contrast: Contrast
    sentence: str
    examples: Interval | None
    level: float = 0.05
    seeds: tuple[int, ...] = ()
    budgets: Budgeted = field(default_factory=Budgeted)


def leaderboard(study: Study) -> pd.DataFrame:
    """One row per experiment, arm and metric: mean, sd, t interval over seeds, rank within the metric.

    Metrics of a task rank by its direction; NLL, Brier and ECE by the lowest. An arm with a replicate that
    has no such score (its outputs were not finite) has no mean and comes last: a mean over the others
    would reward it for diverging.
    """
    rows = []
    level = study.params.comparison.level
    for one in study.evaluated.values():
        for metric in dict.fromkeys(one.scores["metric"]):
            scores = one.by_arm(metric)
            means = {arm: float(np.mean(values)) for arm, values in scores.items()}
            sign = -1 if higher_is_better(one, metric) else 1
            worth = {arm: math.inf if math.isnan(mean) else sign * mean for arm, mean in means.items()}
            order = sorted(worth, key=worth.__getitem__)
            for arm in order:
                interval = within_bounds(mean_interval(scores[arm], level), metric)
                n = len(scores[arm])
                rows.append(
                    {
                        "experiment": one.name,
                        "arm": arm,
                        "loss": one.loss_of(arm),
                        "metric": metric,
                        "mean": means[arm],
                        "sd": float(np.std(scores[arm], ddof=1)) if n > 1 else math.nan,
                        "ci_low": interval.low,
                        "ci_high": interval.high,
                        "n": n,
                        "rank": 1 + sum(other < worth[arm] for other in worth.values()),
                    }
                )
    return pd.DataFrame(rows)


def records(board: pd.DataFrame, experiment: str, **wanted: str) -> list[dict[str, Any]]:
    """Rows of the leaderboard of one experiment, as dicts, narrowed by further columns."""
    chosen = board[board["experiment"] == experiment]
    for column, value in wanted.items():
        chosen = chosen[chosen[column] == value]
    return [{str(column): value for column, value in row.items()} for row in chosen.to_dict("records")]


def higher_is_better(one: Evaluated, metric: str) -> bool:
    """Direction of a metric: the task's, or lower for the calibration metrics."""
    metric = metric.removesuffix("_at_threshold")
    return next((known.higher_is_better for known in one.task.metrics if known.name == metric), False)


CURVE = ["arm", "loss", "split", "metric", "epoch"]
"""What names a point of a learning curve within its experiment."""


def curves(study: Study) -> pd.DataFrame:
    """Learning curves: mean and t interval over seeds per experiment, arm, split, metric and epoch."""
    level = study.params.comparison.level
    rows = []
    for one in study.evaluated.values():
        for key, values in one.history.groupby(CURVE, sort=False)["value"]:
            interval = within_bounds(mean_interval(values.to_numpy(), level), str(key[3]))
            mean = float(values.mean())
            bounds = (interval.low, interval.high) if len(values) > 1 else (mean, mean)
            rows.append(
                {
                    "experiment": one.name,
                    **dict(zip(CURVE, key, strict=True)),
                    "mean": mean,
                    "low": bounds[0],
                    "high": bounds[1],
                }
            )
    # A script may write no history, nor may any of a study: the columns are there all the same.
    return pd.DataFrame(rows, columns=["experiment", *CURVE, "mean", "low", "high"])


def findings(study: Study) -> list[Finding]:
    """Give the verdicts of all experiments that have a baseline (or compare all pairs) and two seeds."""
    found: list[Finding] = []
    for one in study.evaluated.values():
        found += _findings(one, study)
    return found


def _findings(one: Evaluated, study: Study) -> list[Finding]:
    if len(study.params.seeds) < 2 or not is_compared(study.params, one.name):
        return []
    training = {arm: training_of(one, arm, study) for arm in one.arms}
    plan, rules, floors = plan_of(study.params), rules_of(one, study), floors_of(one)
    discounted: tuple[str, ...] = ()
    if plan is None:
        baseline = against(study.params, one.name)
        scores = one.by_arm(one.metric)
        found = compare(scores, baseline, one.metric, rules, one.diverged(), floors, training, once_of(one))
        judged = [(contrast, tuple(one.seeds_of(contrast.arm))) for contrast in found]
    else:
        looked = looked_at(one, study, plan, training)
        discounted = looked.said
        judged = [(contrast, plan.seeds[: contrast.n]) for contrast in looked.contrasts]
    at_budgets = budgeted(one, study, judged, rules, floors)
    return [
        _finding(one, contrast, study, seeds, budgets, discounted)
        for (contrast, seeds), budgets in zip(judged, at_budgets, strict=True)
    ]


def looked_at(
    one: Evaluated, study: Study, plan: Plan, training: Mapping[str, Training] | None = None
) -> Progress:
    """Take the declared looks that an experiment's replicates allow."""
    return progress(
        one.by_seed(one.metric),
        against(study.params, one.name),
        one.metric,
        rules_of(one, study),
        plan,
        study.records[one.name],
        one.diverged_seeds(),
        floors_of(one),
        training or {arm: training_of(one, arm, study) for arm in one.arms},
        once_of(one),
    )


def once_of(one: Evaluated) -> tuple[str, ...]:
    """Arms whose equal scores count as one: a user's script may never have used the seed it was given."""
    return tuple(one.arms) if isinstance(one.experiment, ScriptExperiment) else ()


def looks_json(study: Study) -> dict[str, Any]:
    """Say, for each experiment with declared looks, where it stands, and what ``looks.yaml`` is to hold."""
    plan = plan_of(study.params)
    if plan is None:
        return {}
    made = {}
    for name, one in study.evaluated.items():
        if is_compared(study.params, name):
            record = looked_at(one, study, plan).record
            said = standing(losses_of(study.params, name), against(study.params, name), plan, record)
            made[name] = {"said": said, "record": block_of(record)}
    return made


def rules_of(one: Evaluated, study: Study) -> Rules:
    """What an experiment's verdicts go by."""
    comparison, there = study.params.comparison, known(one.metric)
    return Rules(
        level=comparison.level,
        margin=one.experiment.margin,
        higher_is_better=higher_is_better(one, one.metric),
        power=comparison.power,
        bounds=(there.low, there.high) if there else None,
        step=_step(one) * folds_of(study.params, one.name),
    )


def _step(one: Evaluated) -> float:
    """What one of all that are tested weighs, for the arm on which it weighs most; 0 where not known."""
    weights = [
        sample_weight(values, lambda total: one.task.from_statistics(one.metric, total))
        for values in one.statistics.values()
        if values.shape[1] > 1
    ]
    return max(weights, default=0.0)


def floors_of(one: Evaluated) -> dict[str, float]:
    """What a constant prediction scores, by name; better floors are references, shown beside the arms."""
    if "floors" not in one.tables:
        return {}
    table = one.tables["floors"]
    chosen = table[(table["metric"] == one.metric) & (table["floor"] == CONSTANT)]
    return {str(name): float(value) for name, value in zip(chosen["floor"], chosen["value"], strict=True)}


def training_of(one: Evaluated, arm: str, study: Study) -> Training:
    """What the outs say of an arm's training: last training losses, and what constants reach."""
    mine = one.history[(one.history["arm"] == arm) & (one.history["split"] == "train")]
    losses = mine[mine["metric"] == "loss"].sort_values("epoch").groupby("seed")["value"].last()
    constant = one.arms[arm].get("constant_loss")
    return Training(
        last_losses=tuple(float(value) for value in losses),
        constant_loss=None if constant is None else float(constant),
        edges=edges_of(study.tuning[arm]),
    )


def edges_of(search: Mapping[str, Any]) -> tuple[Edge, ...]:
    """Tuned values at the end of what was tried, of every replicate that has a search of its own."""
    found = []
    own, count = search.get("best_of", {}), len(search.get("best_of", {}))
    for name in search["edge"]:
        tried = sorted({trial[name] for trial in search["trials"]})
        chosen = [point.get(name) for point in own.values()] or [search["best"][name]]
        if tried[0] in chosen:
            found.append(Edge(name, tried[0], "lowest", chosen.count(tried[0]) * bool(own), count))
        if tried[-1] in chosen and tried[-1] != tried[0]:
            found.append(Edge(name, tried[-1], "highest", chosen.count(tried[-1]) * bool(own), count))
    return tuple(found)


def _finding(
    one: Evaluated,
    contrast: Contrast,
    study: Study,
    seeds: tuple[int, ...],
    budgets: Budgeted,
    discounted: Sequence[str],
) -> Finding:
    level = study.params.comparison.level
    trials = int(study.tuning[contrast.arm]["points"])
    said = sentence(
        contrast,
        one.name,
        one.loss_of(contrast.arm),
        one.loss_of(contrast.baseline),
        level,
        tuned=trials,
        scope=str(study.tuning[contrast.arm].get("scope", "arm")),
        tuning_seeds=len(study.tuning[contrast.arm].get("seeds", ())),
        budget=budgets.clause,
    )
    examples = None
    some = one.statistics.get(contrast.arm)
    rounds = contrast.n // folds_of(study.params, one.name)  # over folds several seeds test all samples once
    # Of a single test sample, or round, nobody can say how samples, or seeds, vary.
    if some is not None and contrast.baseline in one.statistics and min(rounds, some.shape[1]) > 1:
        examples = seeds_by_examples(
            some[:rounds],  # looks take seeds in the order of the outs
            one.statistics[contrast.baseline][:rounds],
            lambda total: one.task.from_statistics(one.metric, total),
            level,
        )
    said += "".join(f" Discounted: {one}." for one in discounted)
    return Finding(one.name, contrast, said, examples, level, seeds, budgets)


def verdict_table(found: Sequence[Finding]) -> pd.DataFrame:
    """``reports/verdicts.csv``."""
    rows = []
    for one in found:
        row = {"experiment": one.experiment, **asdict(one.contrast)}
        row["collapsed"] = one.contrast.arm_condition.collapsed
        row["baseline_collapsed"] = one.contrast.baseline_condition.collapsed
        row["examples_low"] = one.examples.low if one.examples else math.nan
        row["examples_high"] = one.examples.high if one.examples else math.nan
        rows.append({column: row[column] for column in VERDICT_COLUMNS})
    return pd.DataFrame(rows, columns=list(VERDICT_COLUMNS)).astype(dict.fromkeys(COUNTS, "Int64"))


def answers(study: Study) -> list[Answer]:
    """Answer the declared hypotheses; with fewer than two seeds none can be."""
    if len(study.params.seeds) < 2:
        return []
    claims = {name: _claim(name, study) for name in study.params.hypotheses}
    known = [
        one
        for one in claims.values()
        if np.isfinite(one.differences).all() and not _counts_once(one.name, study)
    ]
    level, plan = study.params.comparison.level, plan_of(study.params)
    if plan is None:
        found = answer(known, level)
    else:  # each at the look that both its arms have reached, at that look's level
        found = [
            each
            for one in known
            for each in answer(
                [one], level, stage=stage_of(plan, _look_of(one, plan), len(claims)), family=len(claims)
            )
        ]
    answered = {one.name: one for one in found}
    return [answered.get(name) or _unanswered(one) for name, one in claims.items()]


def _counts_once(name: str, study: Study) -> bool:
    """Whether one of a claim's arms has scores that count as one: then its verdict is undecided, too."""
    claim = study.params.hypotheses[name]
    sides = ((claim.experiment, claim.better), (claim.than_experiment or claim.experiment, claim.than))
    return any(
        bool(once_of(study.evaluated[where]))
        and constant(scores_with(study.evaluated[where], loss, claim.on))
        for where, loss in sides
    )


def _unanswered(claim: Claim) -> Answer:
    """Leave a claim undecided where a replicate diverged and has no such score, or all count as one."""
    nan = math.nan
    n = len(claim.differences)
    return Answer(claim.name, Outcome.UNDECIDED, nan, nan, nan, nan, nan, claim.by, n, None)


def _claim(name: str, study: Study) -> Claim:
    claim = study.params.hypotheses[name]
    one = study.evaluated[claim.experiment]
    other = study.evaluated[claim.than_experiment or claim.experiment]
    better, than = paired_scores(one, claim.better, other, claim.than, claim.on, plan_of(study.params))
    return Claim(
        name=name,
        better=claim.better,
        than=claim.than,
        metric=claim.on,
        by=study.params.by_of(claim),
        higher_is_better=higher_is_better(one, claim.on),
        differences=less(better, than),
        rounding=rounding(better, than),
        trained=all(
            _trained(where, loss, study) for where, loss in ((one, claim.better), (other, claim.than))
        ),
    )


def _trained(one: Evaluated, loss: str, study: Study) -> bool:
    """Whether the arm with a loss was trained, as its experiment's deciding metric says."""
    scores = scores_with(one, loss, one.metric)
    rules = rules_of(one, study)
    training = training_of(one, _arm_with(one, loss), study)
    state = condition(scores, floors_of(one), rules.margin, rules.higher_is_better, training)
    return not state.untrained


def _look_of(claim: Claim, plan: Plan) -> int:
    return max(look for look, count in enumerate(plan.looks) if count <= len(claim.differences))


def paired_scores(
    one: Evaluated, better: str, other: Evaluated, than: str, metric: str, plan: Plan | None
) -> tuple[Any, Any]:
    """Scores of two arms, aligned over the seeds; where looks are declared, over those of a look of both."""
    first, second = (
        (one, _arm_with(one, better)),
        (other, _arm_with(other, than)),
    )
    if plan is None:
        return tuple(where.by_arm(metric)[arm] for where, arm in (first, second))  # type: ignore[return-value]  # two of them
    fewest = min(len(where.seeds_of(arm)) for where, arm in (first, second))
    seeds = plan.seeds[: max(count for count in plan.looks if count <= fewest)]
    by_seed = [where.by_seed(metric)[arm] for where, arm in (first, second)]
    values = [np.array([of_arm.get(seed, math.nan) for seed in seeds]) for of_arm in by_seed]
    return values[0], values[1]


def _arm_with(one: Evaluated, loss: str) -> str:
    return next(arm for arm in one.arms if one.loss_of(arm) == loss)


def scores_with(one: Evaluated, loss: str, metric: str) -> Any:
    """Scores of the arm with a loss, over its seeds."""
    return one.by_arm(metric)[_arm_with(one, loss)]


def metrics(board: pd.DataFrame, study: Study) -> dict[str, Any]:
    """``reports/metrics.json`` for `dvc metrics show`: experiment → loss → primary metric with its bounds."""
    content: dict[str, Any] = {}
    for one in study.evaluated.values():
        content[one.name] = {
            row["loss"]: {
                one.metric: row["mean"],
                "ci_low": finite(row["ci_low"]),
                "ci_high": finite(row["ci_high"]),
            }
            for row in records(board, one.name, metric=one.metric)
        }
    return content


def verdicts_json(found: Sequence[Finding], answered: Sequence[Answer], study: Study) -> dict[str, Any]:
    """``reports/verdicts.json``: sentences, contrasts and answers, for machines."""
    return {
        "verdicts": [
            {
                "experiment": one.experiment,
                "sentence": one.sentence,
                **plain(asdict(one.contrast)),
                "budget_sensitive": one.budgets.clause,
                "budgets": [_at_budget(share, contrast) for share, contrast in one.budgets.contrasts],
            }
            for one in found
        ],
        "hypotheses": [
            {"claim": study.params.hypotheses[one.name].claim, **plain(asdict(one))} for one in answered
        ],
        "looks": looks_json(study),
    }


BUDGET_COLUMNS = ("difference", "ci_low", "ci_high", "n")


def _at_budget(share: float, contrast: Contrast) -> dict[str, Any]:
    numbers = plain({name: getattr(contrast, name) for name in BUDGET_COLUMNS})
    return {"share": share, "verdict": str(contrast.verdict), **numbers}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Make values JSON can hold: NaN and infinities become null."""
    return {key: finite(value) if isinstance(value, float) else value for key, value in values.items()}


def finite(value: float) -> float | None:
    """Return None for NaN and infinities."""
    return value if math.isfinite(value) else None
