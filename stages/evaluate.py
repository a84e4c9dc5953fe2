"""Score every replicate of one experiment on the test split; what the store has is taken from it."""

from collections.abc import Sequence
from pathlib import Path

from lossbench.params import Params

from .common import Part, from_store, run_stage


def main(params: Params, experiment: str) -> None:
    """Read models/<experiment>, write reports/evaluation/<experiment>."""
    from lossbench.data.dataset import DatasetInfo
    from lossbench.execution.collect import budgets_of, collect_evaluation, weights_in_models
    from lossbench.execution.fill import Experiment
    from lossbench.execution.sites import site
    from lossbench.outs import Outs
    from lossbench.store import opened

    outs = Outs(Path.cwd())
    with opened(outs.home) as store:
        made = Experiment(params, experiment, outs.study)
        weights = weights_in_models(params, experiment, outs)
        budgets = {arm: budgets_of(params, arm, outs) for arm in params.arms_of(experiment)}
        classes = DatasetInfo.read(outs.data(params.experiments[experiment].dataset)).classes
        place = site(params, outs, store)
        from_store(
            params,
            store,
            place,
            lambda filling: filling.add(
                experiment, lambda: made.flow(store, place.where(), weights, budgets)
            ),
            lambda: collect_evaluation(made, weights, classes, store, outs),
            label=f"evaluate {experiment}",
        )


def reads(params: Params, experiment: str) -> Sequence[Part]:
    """What of params.yaml the stage reads, as in dvc.yaml."""
    return [("experiments", experiment), ("compute",)]


if __name__ == "__main__":
    run_stage(main, "experiment", lambda params: params.experiments, reads)
