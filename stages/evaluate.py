"""Score every replicate of one experiment on the test split."""

from pathlib import Path

from lossbench.params import Params
from stages.common import run_stage


def main(params: Params, experiment: str) -> None:
    """Read models/<experiment>, write reports/evaluation/<experiment>."""
    from lossbench.evaluation import evaluate

    dataset = params.experiments[experiment].dataset
    evaluate(
        params,
        experiment,
        models=Path("models") / experiment,
        data=Path("data") / dataset,
        out=Path("reports/evaluation") / experiment,
    )


if __name__ == "__main__":
    run_stage(main, "experiment", lambda params: params.experiments)
