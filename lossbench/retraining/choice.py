"""Which arm is the challenger: chosen on validation data, so that the gate's splits judge once."""

import math
from pathlib import Path

import numpy as np

from lossbench.errors import GateError, UserError
from lossbench.params import Params, expect_undivided
from lossbench.statistics.family import holm
from lossbench.statistics.samples import Paired
from lossbench.tasks.base import monitored, task_class
from lossbench.tracking.outs import ArmOuts


def experiment_of(params: Params) -> str:
    """Name the experiment whose winner goes into service.

    Raises:
        UserError: if params do not say and there are several.

    """
    if params.retraining.experiment is not None:
        return params.retraining.experiment
    if len(params.experiments) == 1:
        only = next(iter(params.experiments))
        expect_undivided(params, only, "params.yaml: the only experiment")
        return only
    raise UserError(
        "params.yaml: 'retraining.experiment' is missing; it names whose winner goes into service: "
        + ", ".join(params.experiments)
    )


def challenger_arm(params: Params, root: Path, experiment: str) -> str:
    """Choose the arm: the best of those shown to be better than the baseline, else the baseline.

    Shown on the validation split, over seeds, by a verdict's test (the larger of the paired sign-flip's p and
    Hall's, Holm over the arms). An arm that merely happens to have the highest mean does not count.
    """
    baseline = params.baseline_of(experiment)
    if baseline is None:
        raise GateError(
            f"experiment '{experiment}' has no arm with the baseline loss; nothing to put into service"
        )
    scores = {
        arm: validation_scores(ArmOuts(root, experiment, arm), params) for arm in params.arms_of(experiment)
    }
    found = {arm: _paired(one, scores[baseline]) for arm, one in scores.items() if arm != baseline}
    found = {arm: one for arm, one in found.items() if one.n}
    adjusted = dict(zip(found, holm([one.p() for one in found.values()]), strict=True))
    better = [
        arm for arm, p in adjusted.items() if p <= params.comparison.level and found[arm].difference > 0
    ]
    return max(better, key=lambda arm: (found[arm].difference, arm), default=baseline)


def validation_scores(outs: ArmOuts, params: Params) -> dict[int, float]:
    """Seed → validation score of the weights that were kept, the higher the better.

    By the experiment's metric where the history has it, else by what chose the weights.
    """
    metric = params.experiments[outs.experiment].metric
    task = monitored(task_class(params.experiments[outs.experiment].task.name), metric)
    higher = {one.name: one.higher_is_better for one in task.metrics}.get(metric, True)
    found = {}
    for seed, epoch in outs.described["epochs"].items():
        values = outs.history[int(seed)]
        chosen = values.get((int(epoch), f"validation/{task.monitor}"), math.nan)
        own = values.get((int(epoch), f"validation/{metric}"))
        found[int(seed)] = chosen if own is None else own if higher else -own
    return found


def _paired(arm: dict[int, float], baseline: dict[int, float]) -> Paired:
    """Pair the seeds that both have; what has no score counts as the worst that either has."""
    seeds = sorted(arm.keys() & baseline.keys())
    both = np.array([[arm[seed] for seed in seeds], [baseline[seed] for seed in seeds]], dtype=np.float64)
    known = both[np.isfinite(both)]
    if not len(known):
        return Paired(np.empty(0), np.empty(0))
    both[~np.isfinite(both)] = known.min()
    return Paired(both[0], both[1])
